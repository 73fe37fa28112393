/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A file system that shows a folder, and fails when it is told to:
 *
 *   faultfs FOLDER MOUNTPOINT SOCKET
 *
 * Mounts itself, prints a line of JSON once it serves, and unmounts at SIGTERM, SIGINT, or when its
 * parent dies. What goes wrong it is told by the socket (rules.h). Needs root and /dev/fuse.
 *
 * It speaks the kernel's protocol itself (linux/fuse.h): so it has files without a name and
 * SEEK_HOLE, and an operation that hangs is a request in a list, and costs no thread. An
 * inode of the kernel's is a node here, which holds an O_PATH descriptor; an open file is a
 * descriptor. The files are opened without O_DIRECT, so that a rule may tear a write anywhere.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "base/units.h"
#include "rules.h"

#define WORKERS    4
#define NODES      4096
#define DATA_BYTES MIB
#define BUFFER     (DATA_BYTES + 64 * KIB) /* of a request, with room for its head */
#define SECTOR     512u
#define PROC_BYTES 32
#define DIRENT_MAX 4096

struct node {
    int fd; /* O_PATH, owned; 0: free */
    dev_t device;
    ino_t inode;
    uint64_t lookups; /* that the kernel will forget */
};

/* A request, and room for the answer. */
struct call {
    const struct fuse_in_header *in;
    const void *arg;
    struct fault fault;
    void *out;
};

static int device;               /* /dev/fuse */
static struct node nodes[NODES]; /* [m] nodes_mu; by nodeid - 1, the first is the root */
static pthread_mutex_t nodes_mu = PTHREAD_MUTEX_INITIALIZER;

/* --- nodes --- */

static int node_fd(uint64_t id)
{
    int fd;

    pthread_mutex_lock(&nodes_mu);
    fd = nodes[id - 1].fd;
    pthread_mutex_unlock(&nodes_mu);
    return fd;
}

/* What opens again, or names to a system call that knows no AT_EMPTY_PATH, the file of a node. */
static const char *node_path(uint64_t id, char path[PROC_BYTES])
{
    snprintf(path, PROC_BYTES, "/proc/self/fd/%d", node_fd(id));
    return path;
}

/* Under nodes_mu: the one of this file, or a free one; NULL if there is none. */
static struct node *node_find(const struct stat *st)
{
    struct node *free_one = NULL;

    for (struct node *n = nodes; n < nodes + NODES; n++) {
        if (n->fd > 0 && n->inode == st->st_ino && n->device == st->st_dev)
            return n;
        if (n->fd == 0 && !free_one)
            free_one = n;
    }
    return free_one;
}

static void fill_attr(struct fuse_attr *a, const struct stat *st)
{
    *a = (struct fuse_attr){
        .ino = st->st_ino,
        .size = (uint64_t)st->st_size,
        .blocks = (uint64_t)st->st_blocks,
        .atime = (uint64_t)st->st_atim.tv_sec,
        .mtime = (uint64_t)st->st_mtim.tv_sec,
        .ctime = (uint64_t)st->st_ctim.tv_sec,
        .atimensec = (uint32_t)st->st_atim.tv_nsec,
        .mtimensec = (uint32_t)st->st_mtim.tv_nsec,
        .ctimensec = (uint32_t)st->st_ctim.tv_nsec,
        .mode = st->st_mode,
        .nlink = (uint32_t)st->st_nlink,
        .uid = st->st_uid,
        .gid = st->st_gid,
        .blksize = 4096,
    };
}

/* Takes @fd, which is O_PATH. Nothing is valid for any time: others may change the folder. */
static int node_entry(int fd, struct fuse_entry_out *ret)
{
    struct node *n;
    struct stat st;

    if (fd < 0)
        return -errno;
    if (fstat(fd, &st) < 0) {
        close(fd);
        return -errno;
    }
    pthread_mutex_lock(&nodes_mu);
    n = node_find(&st);
    if (n && n->fd == 0)
        *n = (struct node){.fd = fd, .device = st.st_dev, .inode = st.st_ino};
    else
        close(fd);
    if (n)
        n->lookups++;
    pthread_mutex_unlock(&nodes_mu);
    if (!n)
        return -ENFILE;
    *ret = (struct fuse_entry_out){.nodeid = (uint64_t)(n - nodes) + 1};
    fill_attr(&ret->attr, &st);
    return 0;
}

static void node_forget(uint64_t id, uint64_t lookups)
{
    struct node *n = &nodes[id - 1];

    pthread_mutex_lock(&nodes_mu);
    n->lookups -= MIN(lookups, n->lookups);
    if (n->lookups == 0 && n != nodes) {
        close(n->fd);
        n->fd = 0;
    }
    pthread_mutex_unlock(&nodes_mu);
}

/* --- names --- */

static int entry_of(struct call *c, int folder, const char *name)
{
    int r = node_entry(openat(folder, name, O_PATH | O_NOFOLLOW | O_CLOEXEC), c->out);

    return r < 0 ? r : (int)sizeof(struct fuse_entry_out);
}

static int do_lookup(struct call *c)
{
    return entry_of(c, node_fd(c->in->nodeid), c->arg);
}

static int do_forget(struct call *c)
{
    node_forget(c->in->nodeid, ((const struct fuse_forget_in *)c->arg)->nlookup);
    return 0;
}

static int do_batch_forget(struct call *c)
{
    const struct fuse_batch_forget_in *batch = c->arg;
    const struct fuse_forget_one *one = (const void *)(batch + 1);

    for (uint32_t i = 0; i < batch->count; i++)
        node_forget(one[i].nodeid, one[i].nlookup);
    return 0;
}

static int do_mkdir(struct call *c)
{
    const struct fuse_mkdir_in *in = c->arg;
    const char *name = (const char *)(in + 1);

    if (mkdirat(node_fd(c->in->nodeid), name, in->mode & ~in->umask) < 0)
        return -errno;
    return entry_of(c, node_fd(c->in->nodeid), name);
}

static int do_unlink(struct call *c)
{
    return unlinkat(node_fd(c->in->nodeid), c->arg, 0) < 0 ? -errno : 0;
}

static int do_rmdir(struct call *c)
{
    return unlinkat(node_fd(c->in->nodeid), c->arg, AT_REMOVEDIR) < 0 ? -errno : 0;
}

static int rename_in(struct call *c, uint64_t to, unsigned flags, const char *old)
{
    const char *new = old + strlen(old) + 1;

    return renameat2(node_fd(c->in->nodeid), old, node_fd(to), new, flags) < 0 ? -errno : 0;
}

static int do_rename(struct call *c)
{
    const struct fuse_rename_in *in = c->arg;

    return rename_in(c, in->newdir, 0, (const char *)(in + 1));
}

static int do_rename2(struct call *c)
{
    const struct fuse_rename2_in *in = c->arg;

    return rename_in(c, in->newdir, in->flags, (const char *)(in + 1));
}

static int do_link(struct call *c)
{
    const struct fuse_link_in *in = c->arg;
    const char *name = (const char *)(in + 1);
    char path[PROC_BYTES];

    if (linkat(AT_FDCWD, node_path(in->oldnodeid, path), node_fd(c->in->nodeid), name,
               AT_SYMLINK_FOLLOW) < 0)
        return -errno;
    return entry_of(c, node_fd(c->in->nodeid), name);
}

/* --- attributes --- */

static int attr_of(struct call *c, int fd)
{
    struct fuse_attr_out *out = c->out;
    struct stat st;

    if (fstat(fd, &st) < 0)
        return -errno;
    *out = (struct fuse_attr_out){0};
    fill_attr(&out->attr, &st);
    return sizeof(*out);
}

static int do_getattr(struct call *c)
{
    return attr_of(c, node_fd(c->in->nodeid));
}

static struct timespec time_of(uint32_t valid, unsigned set, unsigned now, uint64_t s, uint32_t ns)
{
    if (valid & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (valid & set)
        return (struct timespec){.tv_sec = (time_t)s, .tv_nsec = (long)ns};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int do_setattr(struct call *c)
{
    const struct fuse_setattr_in *in = c->arg;
    struct timespec times[] = {
        time_of(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
        time_of(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
    };
    char path[PROC_BYTES];

    node_path(c->in->nodeid, path);
    if ((in->valid & FATTR_MODE) && chmod(path, in->mode) < 0)
        return -errno;
    if ((in->valid & FATTR_SIZE) && truncate(path, (off_t)in->size) < 0)
        return -errno;
    if ((in->valid & (FATTR_ATIME | FATTR_MTIME)) && utimensat(AT_FDCWD, path, times, 0) < 0)
        return -errno;
    return attr_of(c, node_fd(c->in->nodeid));
}

static int do_statfs(struct call *c)
{
    struct fuse_statfs_out *out = c->out;
    struct statvfs v;

    if (fstatvfs(node_fd(FUSE_ROOT_ID), &v) < 0)
        return -errno;
    *out = (struct fuse_statfs_out){.st = {
                                        .blocks = v.f_blocks,
                                        .bfree = v.f_bfree,
                                        .bavail = v.f_bavail,
                                        .files = v.f_files,
                                        .ffree = v.f_ffree,
                                        .bsize = (uint32_t)v.f_bsize,
                                        .namelen = (uint32_t)v.f_namemax,
                                        .frsize = (uint32_t)v.f_frsize,
                                    }};
    return sizeof(*out);
}

/* --- files --- */

/* @flags: as asked for. With O_DIRECT a short write stays one, instead of being made up for. */
static int opened(int fd, uint32_t flags, struct fuse_open_out *out)
{
    if (fd < 0)
        return -errno;
    *out = (struct fuse_open_out){
        .fh = (uint64_t)fd,
        .open_flags = flags & O_DIRECT ? FOPEN_DIRECT_IO : 0,
    };
    return sizeof(*out);
}

static int do_open(struct call *c)
{
    const struct fuse_open_in *in = c->arg;
    int flags = (int)in->flags & ~(O_NOFOLLOW | O_DIRECT | O_CREAT | O_EXCL | O_APPEND);
    char path[PROC_BYTES];

    return opened(open(node_path(c->in->nodeid, path), flags | O_CLOEXEC), in->flags, c->out);
}

/* The answer: struct fuse_entry_out, and struct fuse_open_out behind it. */
static int created(struct call *c, int fd, uint32_t flags)
{
    struct fuse_entry_out *entry = c->out;
    char path[PROC_BYTES];
    int r;

    if (fd < 0)
        return -errno;
    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    r = node_entry(open(path, O_PATH | O_CLOEXEC), entry);
    if (r < 0) {
        close(fd);
        return r;
    }
    return (int)sizeof(*entry) + opened(fd, flags, (struct fuse_open_out *)(entry + 1));
}

static int do_create(struct call *c)
{
    const struct fuse_create_in *in = c->arg;
    int flags = (int)in->flags & ~(O_DIRECT | O_APPEND);

    return created(c,
                   openat(node_fd(c->in->nodeid), (const char *)(in + 1),
                          flags | O_CREAT | O_CLOEXEC, in->mode & ~in->umask),
                   in->flags);
}

static int do_tmpfile(struct call *c)
{
    const struct fuse_create_in *in = c->arg;
    int flags = (int)in->flags & ~(O_DIRECT | O_CREAT);
    char path[PROC_BYTES];

    return created(
        c,
        open(node_path(c->in->nodeid, path), flags | O_TMPFILE | O_CLOEXEC, in->mode & ~in->umask),
        in->flags);
}

static int do_release(struct call *c)
{
    close((int)((const struct fuse_release_in *)c->arg)->fh);
    return 0;
}

/* Whole sectors, as a disk does it; what is smaller is not torn. So it comes to an end. */
static uint32_t as_told(const struct call *c, uint32_t size)
{
    return c->fault.kind == FAULT_SHORT && size > SECTOR ? size / 2 / SECTOR * SECTOR : size;
}

static int do_read(struct call *c)
{
    const struct fuse_read_in *in = c->arg;
    char *bytes = c->out;
    ssize_t n = pread((int)in->fh, bytes, as_told(c, in->size), (off_t)in->offset);

    for (ssize_t at = 0; c->fault.kind == FAULT_FLIP && at < n; at += PAGE_BYTES)
        bytes[at] ^= 1;
    return n < 0 ? -errno : (int)n;
}

static int do_write(struct call *c)
{
    const struct fuse_write_in *in = c->arg;
    struct fuse_write_out *out = c->out;
    ssize_t n = pwrite((int)in->fh, in + 1, as_told(c, in->size), (off_t)in->offset);

    if (n < 0)
        return -errno;
    *out = (struct fuse_write_out){.size = (uint32_t)n};
    return sizeof(*out);
}

static int do_fallocate(struct call *c)
{
    const struct fuse_fallocate_in *in = c->arg;

    return fallocate((int)in->fh, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno
                                                                                           : 0;
}

static int do_lseek(struct call *c)
{
    const struct fuse_lseek_in *in = c->arg;
    struct fuse_lseek_out *out = c->out;
    off_t at = lseek((int)in->fh, (off_t)in->offset, (int)in->whence);

    if (at < 0)
        return -errno;
    *out = (struct fuse_lseek_out){.offset = (uint64_t)at};
    return sizeof(*out);
}

static int do_fsync(struct call *c)
{
    return fsync((int)((const struct fuse_fsync_in *)c->arg)->fh) < 0 ? -errno : 0;
}

/* Only flock(2) comes here; who would wait for it gets EAGAIN, as no worker can. */
static int do_flock(struct call *c)
{
    const struct fuse_lk_in *in = c->arg;
    int how = in->lk.type == F_UNLCK ? LOCK_UN : in->lk.type == F_RDLCK ? LOCK_SH : LOCK_EX;

    return flock((int)in->fh, how | LOCK_NB) < 0 ? -errno : 0;
}

static int do_nothing(struct call *c)
{
    (void)c;
    return 0;
}

/* --- folders --- */

static int do_readdir(struct call *c)
{
    const struct fuse_read_in *in = c->arg;
    char *out = c->out;
    size_t used = 0;
    const struct dirent *d;
    DIR *dir = fdopendir(dup((int)in->fh));

    if (!dir)
        return -errno;
    seekdir(dir, (long)in->offset);
    while ((d = readdir(dir))) {
        struct fuse_dirent *e = (struct fuse_dirent *)(void *)(out + used);
        size_t len = strlen(d->d_name), bytes = FUSE_DIRENT_ALIGN(sizeof(*e) + len);

        if (used + bytes > MIN(in->size, DIRENT_MAX))
            break;
        memset(e, 0, bytes);
        *e = (struct fuse_dirent){.ino = d->d_ino,
                                  .off = (uint64_t)d->d_off,
                                  .namelen = (uint32_t)len,
                                  .type = d->d_type};
        memcpy(e->name, d->d_name, len);
        used += bytes;
    }
    closedir(dir);
    return (int)used;
}

/* --- requests --- */

/* FUSE_ASYNC_DIO: as with a disk, who starts a read by io_uring does not sleep in it. */
static int do_init(struct call *c)
{
    const struct fuse_init_in *in = c->arg;
    struct fuse_init_out *out = c->out;

    *out = (struct fuse_init_out){
        .major = FUSE_KERNEL_VERSION,
        .minor = FUSE_KERNEL_MINOR_VERSION,
        .max_readahead = in->max_readahead,
        .flags = in->flags & (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ASYNC_DIO |
                              FUSE_FLOCK_LOCKS | FUSE_MAX_PAGES | FUSE_PARALLEL_DIROPS),
        .max_background = 256,
        .congestion_threshold = 192,
        .max_write = DATA_BYTES,
        .time_gran = 1,
        .max_pages = DATA_BYTES / PAGE_BYTES,
    };
    return sizeof(*out);
}

static const struct handler {
    int (*run)(struct call *c); /* bytes of the answer, or -errno */
    enum fault_op op;
    bool silent; /* the kernel waits for no answer */
} handlers[] = {
    [FUSE_LOOKUP] = {do_lookup, OP_OTHER},
    [FUSE_FORGET] = {do_forget, OP_OTHER, true},
    [FUSE_BATCH_FORGET] = {do_batch_forget, OP_OTHER, true},
    [FUSE_GETATTR] = {do_getattr, OP_OTHER},
    [FUSE_SETATTR] = {do_setattr, OP_SETATTR},
    [FUSE_MKDIR] = {do_mkdir, OP_CREATE},
    [FUSE_UNLINK] = {do_unlink, OP_UNLINK},
    [FUSE_RMDIR] = {do_rmdir, OP_UNLINK},
    [FUSE_RENAME] = {do_rename, OP_RENAME},
    [FUSE_RENAME2] = {do_rename2, OP_RENAME},
    [FUSE_LINK] = {do_link, OP_RENAME},
    [FUSE_OPEN] = {do_open, OP_OPEN},
    [FUSE_READ] = {do_read, OP_READ},
    [FUSE_WRITE] = {do_write, OP_WRITE},
    [FUSE_STATFS] = {do_statfs, OP_STATFS},
    [FUSE_RELEASE] = {do_release, OP_OTHER},
    [FUSE_FSYNC] = {do_fsync, OP_FSYNC},
    [FUSE_FLUSH] = {do_nothing, OP_OTHER},
    [FUSE_INIT] = {do_init, OP_OTHER},
    [FUSE_OPENDIR] = {do_open, OP_OPEN},
    [FUSE_READDIR] = {do_readdir, OP_READDIR},
    [FUSE_RELEASEDIR] = {do_release, OP_OTHER},
    [FUSE_SETLK] = {do_flock, OP_FLOCK},
    [FUSE_SETLKW] = {do_flock, OP_FLOCK},
    [FUSE_CREATE] = {do_create, OP_CREATE},
    [FUSE_TMPFILE] = {do_tmpfile, OP_CREATE},
    [FUSE_INTERRUPT] = {do_nothing, OP_OTHER, true}, /* what hangs does so until told */
    [FUSE_FALLOCATE] = {do_fallocate, OP_FALLOCATE},
    [FUSE_LSEEK] = {do_lseek, OP_LSEEK},
};

static void answer(const struct call *c, int r)
{
    struct fuse_out_header out = {.unique = c->in->unique, .error = MIN(r, 0)};
    struct iovec iov[] = {{&out, sizeof(out)}, {c->out, (size_t)MAX(r, 0)}};

    out.len = (uint32_t)(iov[0].iov_len + iov[1].iov_len);
    if (writev(device, iov, 2) < 0 && errno != ENOENT && errno != ENODEV) {
        /* What was opened for one who is gone (ENOENT) stays open until we end. */
        perror("faultfs: an answer");
        exit(EXIT_FAILURE);
    }
}

static void run(struct call *c)
{
    const struct handler *h = &handlers[c->in->opcode];
    int r = c->fault.kind == FAULT_ERROR ? -c->fault.error : h->run(c);

    if (!h->silent)
        answer(c, r);
}

static void serve(const void *request, size_t len, void *out)
{
    const struct fuse_in_header *in = request;
    struct call c = {.in = in, .arg = in + 1, .out = out};

    if (in->opcode >= ARRAY_SIZE(handlers) || !handlers[in->opcode].run) {
        answer(&c, -ENOSYS);
        return;
    }
    c.fault = fault_judge(handlers[in->opcode].op, request, len);
    if (c.fault.kind != FAULT_HANG)
        run(&c);
}

static void serve_held(const void *request)
{
    const struct fuse_in_header *in = request;
    struct call c = {.in = in, .arg = in + 1, .out = aligned_alloc(PAGE_BYTES, BUFFER)};

    if (!c.out)
        abort();
    run(&c);
    free(c.out);
}

static void *work(void *arg)
{
    char *request = aligned_alloc(PAGE_BYTES, BUFFER), *out = aligned_alloc(PAGE_BYTES, BUFFER);

    while (request && out) {
        ssize_t n = read(device, request, BUFFER);

        if (n >= 0)
            serve(request, (size_t)n, out);
        else if (errno == ENODEV)
            break; /* unmounted */
        else if (errno != EINTR && errno != EAGAIN && errno != ENOENT)
            abort();
    }
    free(request);
    free(out);
    return arg;
}

/* --- main --- */

static int mount_it(const char *mount_point)
{
    char options[200];

    device = open("/dev/fuse", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -errno;
    snprintf(options, sizeof(options),
             "fd=%d,rootmode=40000,user_id=0,group_id=0,default_permissions,allow_other", device);
    return mount("faultfs", mount_point, "fuse.faultfs", MS_NOSUID | MS_NODEV, options) < 0 ? -errno
                                                                                            : 0;
}

static int start(const char *folder, const char *socket, const char *mount_point)
{
    pthread_t thread;
    int r;

    nodes[0].fd = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (nodes[0].fd < 0)
        return -errno;
    r = faults_listen(socket, serve_held);
    if (r == 0)
        r = mount_it(mount_point);
    for (unsigned i = 0; i < WORKERS && r == 0; i++)
        r = -pthread_create(&thread, NULL, work, NULL);
    return r;
}

int main(int argc, char **argv)
{
    sigset_t end;
    int r, signum;

    if (argc != 4) {
        fputs("usage: faultfs FOLDER MOUNTPOINT SOCKET\n", stderr);
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    sigemptyset(&end);
    sigaddset(&end, SIGTERM);
    sigaddset(&end, SIGINT);
    pthread_sigmask(SIG_BLOCK, &end, NULL);
    prctl(PR_SET_PDEATHSIG, SIGTERM);
    umask(0);
    r = start(argv[1], argv[3], argv[2]);
    if (r < 0) {
        fprintf(stderr, "faultfs: %s on %s: %s\n", argv[1], argv[2], strerror(-r));
        return r == -EPERM || r == -ENOENT || r == -ENODEV ? 77 : 1;
    }
    printf("{\"mounted\":\"%s\"}\n", argv[2]);
    fflush(stdout);
    sigwait(&end, &signum);
    umount2(argv[2], MNT_DETACH);
    unlink(argv[3]);
    return 0;
}

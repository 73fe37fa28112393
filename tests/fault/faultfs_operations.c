/* SPDX-License-Identifier: Apache-2.0 */

/* What faultfs does with each kind of request, by the system call that does the same. */
#include "faultfs.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define SECTOR     512u
#define DIRENT_MAX 4096

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
    int r;

    *out = (struct fuse_attr_out){0};
    r = node_attr(fd, &out->attr);
    return r < 0 ? r : (int)sizeof(*out);
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

/* --- which one --- */

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

static const struct operation operations[] = {
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

const struct operation *operation_of(uint32_t opcode)
{
    return opcode < ARRAY_SIZE(operations) && operations[opcode].run ? &operations[opcode] : NULL;
}

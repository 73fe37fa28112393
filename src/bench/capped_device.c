/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/capped_device.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <linux/loop.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/log.h"
#include "base/units.h"
#include "bench/capped_internal.h"

#define BLOCK_BYTES  4096
#define ATTACH_TRIES 16 /* others look for a free loop device at the same time */
#define LOOP_NAME    "/dev/loop%d"
#define LOOP_BYTES   32

struct capped_device {
    int socket; /* owned; its end is the keeper's sign to undo everything */
    pid_t keeper;
    char path[PATH_MAX];
};

/* What the keeper tells its maker, once. */
struct news {
    struct thaw_error error; /* code 0: the device is there */
    char path[PATH_MAX];
};

/* What there is by now. */
struct kept {
    int loop; /* owned; the device is gone with its last user */
    char loop_path[LOOP_BYTES];
    char mount_point[PATH_MAX]; /* "" until the folder is made */
    bool mounted;
    struct capped_limits limits;
};

/* In the keeper. */

static int make_image(const struct capped_device_options *o, struct thaw_error *e)
{
    int fd CLEANUP_FD = open(o->scratch, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);

    if (fd < 0 || ftruncate(fd, (off_t)o->size_bytes) < 0)
        return err_errno(e, -errno, "a file for the device in %s", o->scratch);
    return TAKE_FD(fd);
}

/* The loop device over @image, or -errno; -EBUSY when another was quicker */
static int attach_one(int control, int image, char path[LOOP_BYTES])
{
    struct loop_config config = {.fd = (uint32_t)image, .block_size = BLOCK_BYTES};
    int number = ioctl(control, LOOP_CTL_GET_FREE);
    int fd CLEANUP_FD = -1;

    if (number < 0)
        return -errno;
    snprintf(path, LOOP_BYTES, LOOP_NAME, number);
    fd = open(path, O_RDWR | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    config.info.lo_flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_DIRECT_IO;
    if (ioctl(fd, LOOP_CONFIGURE, &config) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static int attach(struct kept *k, const struct capped_device_options *o, struct thaw_error *e)
{
    int control CLEANUP_FD = open("/dev/loop-control", O_RDWR | O_CLOEXEC);
    int image CLEANUP_FD = -1;
    int r = -EBUSY;
    struct stat st;

    if (control < 0)
        return err_errno(e, -errno, "/dev/loop-control");
    image = make_image(o, e);
    if (image < 0)
        return image;
    for (int i = 0; i < ATTACH_TRIES && r == -EBUSY; i++)
        r = attach_one(control, image, k->loop_path);
    if (r < 0)
        return err_errno(e, r, "attaching a loop device");
    k->loop = r;
    if (fstat(k->loop, &st) < 0)
        return err_errno(e, -errno, "%s", k->loop_path);
    k->limits.device = st.st_rdev;
    return 0;
}

static int run_mkfs(const char *program, const char *device)
{
    char *const argv[] = {(char[]){"mkfs.ext4"},
                          (char[]){"-qF"},
                          (char[]){"-m0"},
                          (char[]){"-E"},
                          (char[]){"nodiscard,lazy_itable_init=1,lazy_journal_init=1"},
                          strdup(device),
                          NULL};
    pid_t pid;
    int status = 0, r;

    r = argv[5] ? posix_spawnp(&pid, program, NULL, NULL, argv, environ) : ENOMEM;
    free(argv[5]);
    if (r != 0)
        return -r;
    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return -errno;
    }
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

static int make_file_system(struct kept *k, const struct capped_device_options *o,
                            struct thaw_error *e)
{
    int r = run_mkfs("mkfs.ext4", k->loop_path);

    if (r == -ENOENT) /* not everybody's PATH has it */
        r = run_mkfs("/usr/sbin/mkfs.ext4", k->loop_path);
    if (r < 0)
        return err_errno(e, r, "mkfs.ext4 on %s", k->loop_path);
    snprintf(k->mount_point, sizeof(k->mount_point), "%s/capped-XXXXXX", o->scratch);
    if (!mkdtemp(k->mount_point)) {
        k->mount_point[0] = '\0';
        return err_errno(e, -errno, "a folder in %s", o->scratch);
    }
    if (mount(k->loop_path, k->mount_point, "ext4", MS_NOATIME | MS_NODEV | MS_NOSUID,
              "noinit_itable") < 0)
        return err_errno(e, -errno, "mounting %s on %s", k->loop_path, k->mount_point);
    k->mounted = true;
    return 0;
}

static int set_up(struct kept *k, const struct capped_device_options *o, struct thaw_error *e)
{
    int r = attach(k, o, e);

    if (r == 0)
        r = make_file_system(k, o, e);
    if (r == 0)
        r = capped_limits_set(&k->limits, o->write_bytes_per_s, o->dirty_percent, e);
    if (r == 0 && o->delay_accounting)
        r = capped_limits_count_delays(&k->limits, e);
    return r;
}

/* The limits first: what is left to write is then written at full speed. */
static bool tear_down(struct kept *k)
{
    bool ok = capped_limits_undo(&k->limits);

    if (k->mounted && umount2(k->mount_point, 0) < 0 && umount2(k->mount_point, MNT_DETACH) < 0) {
        log_error("%s is still mounted: %s", k->mount_point, strerror(errno));
        ok = false;
    } else if (k->mount_point[0] != '\0' && rmdir(k->mount_point) < 0) {
        log_error("%s is left over: %s", k->mount_point, strerror(errno));
        ok = false;
    }
    close_fd(&k->loop);
    return ok;
}

/* What ends a job in a terminal ends it for the maker; the keeper learns of that by the socket. */
static void stand_apart(int socket)
{
    static const int ignored[] = {SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGPIPE, SIGUSR1, SIGUSR2};
    sigset_t none;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);

    setsid();
    prctl(PR_SET_NAME, "thaw-capped");
    for (size_t i = 0; i < ARRAY_SIZE(ignored); i++)
        signal(ignored[i], SIG_IGN);
    signal(SIGCHLD, SIG_DFL);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (null >= 0) {
        dup2(null, STDIN_FILENO);
        dup2(null, STDOUT_FILENO);
    }
    /* Descriptors of the maker would keep its pipes and sockets open beyond its end. */
    if (socket > 3)
        syscall(SYS_close_range, 3, socket - 1, 0);
    syscall(SYS_close_range, socket + 1, ~0U, 0);
}

[[gnu::noreturn]] static void keep(const struct capped_device_options *o, int socket, pid_t maker)
{
    struct kept k = {.loop = -1, .limits = {.maker = maker, .delayacct_lock = -1}};
    struct news news = {.error = THAW_ERROR_INIT};
    bool ok;
    char c;

    stand_apart(socket);
    if (set_up(&k, o, &news.error) == 0) {
        memcpy(news.path, k.mount_point, sizeof(news.path));
        if (send(socket, &news, sizeof(news), MSG_NOSIGNAL) == sizeof(news)) {
            while (read(socket, &c, 1) < 0 && errno == EINTR)
                ;
        }
        ok = tear_down(&k);
    } else {
        ok = tear_down(&k);
        (void)!send(socket, &news, sizeof(news), MSG_NOSIGNAL);
    }
    _exit(ok ? EXIT_SUCCESS : EXIT_FAILURE);
}

/* In the maker. */

static int check_options(const struct capped_device_options *o, struct thaw_error *e)
{
    if (o->size_bytes < 16 * MIB || o->size_bytes % BLOCK_BYTES != 0)
        return err_set(e, -EINVAL, "a capped device has at least 16 MiB, in blocks of 4 KiB");
    if (o->dirty_percent < 1 || o->dirty_percent > 100)
        return err_set(e, -EINVAL, "a capped device gets 1 to 100 percent of the dirty pages");
    if (strlen(o->scratch) > PATH_MAX - 64)
        return err_set(e, -ENAMETOOLONG, "the path of the scratch folder is too long");
    return 0;
}

static int hear(struct capped_device *d, struct thaw_error *e)
{
    struct news news;
    ssize_t n;

    do {
        n = recv(d->socket, &news, sizeof(news), 0);
    } while (n < 0 && errno == EINTR);
    if (n != sizeof(news))
        return err_set(e, -EIO, "the keeper of the capped device died");
    if (news.error.code < 0) {
        if (e)
            *e = news.error;
        err_wrap(e, "making a capped device");
        return news.error.code;
    }
    memcpy(d->path, news.path, sizeof(d->path));
    return 0;
}

static void cleanup_capped(struct capped_device **d)
{
    (void)capped_device_close(*d);
}

int capped_device_open(const struct capped_device_options *options, struct capped_device **ret,
                       struct thaw_error *e)
{
    struct capped_device *d CLEANUP(cleanup_capped) = NULL;
    pid_t maker = getpid();
    int pair[2];
    int r = check_options(options, e);

    if (r < 0)
        return r;
    d = calloc(1, sizeof(*d));
    if (!d)
        return err_set(e, -ENOMEM, "a capped device: no memory");
    d->socket = -1;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, -errno, "a capped device: a socket");
    d->socket = pair[0];
    d->keeper = fork();
    if (d->keeper == 0)
        keep(options, pair[1], maker);
    close(pair[1]);
    if (d->keeper < 0)
        return err_errno(e, -errno, "a capped device: its keeper");
    r = hear(d, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(d);
    return 0;
}

const char *capped_device_path(const struct capped_device *d)
{
    return d->path;
}

int capped_device_close(struct capped_device *d)
{
    int status = 0, r = 0;

    if (!d)
        return 0;
    close_fd(&d->socket);
    while (d->keeper > 0 && (r = waitpid(d->keeper, &status, 0)) < 0 && errno == EINTR)
        ;
    free(d);
    return r >= 0 && WIFEXITED(status) && WEXITSTATUS(status) == 0 ? 0 : -EIO;
}

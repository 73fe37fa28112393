/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/janitor.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "kernel/pidfd.h"

#define JANITOR_FD  3  /* where the janitor keeps its end of the socket pair */
#define JANITOR_MAX 64 /* processes it can watch */

/* As getdents64(2) fills it; readdir(3) may allocate, which a forked child must not. */
struct dirent_head {
    uint64_t ino;
    int64_t off;
    uint16_t reclen;
    uint8_t type;
    char name[];
};

/* --- in the janitor: async-signal-safe calls only --- */

static void empty_folder(int dir)
{
    _Alignas(struct dirent_head) char buf[4096];
    long n;

    while ((n = syscall(SYS_getdents64, dir, buf, sizeof(buf))) > 0) {
        for (long at = 0; at < n;) {
            struct dirent_head *d = (struct dirent_head *)(void *)(buf + at);

            if (d->type != DT_DIR)
                unlinkat(dir, d->name, 0);
            at += d->reclen;
        }
    }
}

static void remove_folder(const char *path)
{
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);

    if (dir < 0)
        return;
    empty_folder(dir);
    close(dir);
    rmdir(path);
}

/* The next pidfd, or -1 when the other end has closed. */
static int receive_pidfd(void)
{
    char byte, control[CMSG_SPACE(sizeof(int))];
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *c;
    ssize_t n;
    int fd;

    do
        n = recvmsg(JANITOR_FD, &msg, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    c = n > 0 ? CMSG_FIRSTHDR(&msg) : NULL;
    if (!c)
        return -1;
    memcpy(&fd, CMSG_DATA(c), sizeof(fd));
    return fd;
}

[[gnu::noreturn]] static void janitor_main(int sock, const char *dir)
{
    int pidfds[JANITOR_MAX], count = 0, fd;

    prctl(PR_SET_NAME, "thaw-janitor");
    /* The terminal's signals are for thaw; the janitor outlives it by a moment. */
    setsid();
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    /* Nothing of thaw's may stay open here: least of all the other end of this socket. */
    dup2(sock, JANITOR_FD);
    syscall(SYS_close_range, JANITOR_FD + 1, UINT_MAX, 0);
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    while (count < JANITOR_MAX && (fd = receive_pidfd()) >= 0)
        pidfds[count++] = fd;
    for (int i = 0; i < count; i++)
        pidfd_kill(pidfds[i], SIGKILL);
    remove_folder(dir);
    _exit(0);
}

/* --- in thaw --- */

int janitor_start(struct janitor *j, const char *dir, struct thaw_error *e)
{
    sigset_t all, old;
    int pair[2];
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, -errno, "making a socket pair for the janitor");
    /* No signal may be handled in the child before it ignores them. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    pid = fork();
    if (pid == 0)
        janitor_main(pair[1], dir);
    sigprocmask(SIG_SETMASK, &old, NULL);
    close(pair[1]);
    if (pid < 0) {
        close(pair[0]);
        return err_errno(e, -errno, "starting the janitor");
    }
    *j = (struct janitor){.pid = pid, .sock = pair[0]};
    return 0;
}

int janitor_watch(struct janitor *j, int pidfd)
{
    char byte = 0, control[CMSG_SPACE(sizeof(int))] = {0};
    struct iovec iov = {.iov_base = &byte, .iov_len = 1};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &pidfd, sizeof(pidfd));
    return sendmsg(j->sock, &msg, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

void janitor_finish(struct janitor *j)
{
    close_fd(&j->sock);
    if (j->pid > 0) {
        while (waitpid(j->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    j->pid = 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_guardian.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"

#define WATCH_FD   3 /* where the guardian keeps its two descriptors */
#define MONITOR_FD 4
#define ATTEMPTS   20
#define PAUSE_MS   500 /* for an answer, and between attempts: QEMU may still be saving its state */

/* --- in the guardian: async-signal-safe calls only --- */

/* Read what comes until RESUME is among it. */
static bool hears_resume(void)
{
    static char heard[8192];
    size_t len = 0;

    for (;;) {
        struct pollfd p = {.fd = MONITOR_FD, .events = POLLIN};
        ssize_t n;

        if (poll(&p, 1, PAUSE_MS) <= 0)
            return false;
        n = read(MONITOR_FD, heard + len, sizeof(heard) - len);
        if (n <= 0)
            return true; /* QEMU is gone: nothing is left to be done */
        len += (size_t)n;
        if (memmem(heard, len, "\"RESUME\"", 8))
            return true;
        if (len > sizeof(heard) / 2) {
            memmove(heard, heard + len - 8, 8);
            len = 8;
        }
    }
}

[[gnu::noreturn]] static void guardian_main(int watch, int monitor, const char *words)
{
    size_t len = strlen(words);
    char byte;
    ssize_t n;

    prctl(PR_SET_NAME, "thaw-guardian");
    setsid(); /* the terminal's signals are for thaw */
    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGPIPE, SIG_IGN);
    dup2(watch, WATCH_FD); /* both were moved above the targets */
    dup2(monitor, MONITOR_FD);
    syscall(SYS_close_range, MONITOR_FD + 1, UINT_MAX, 0);
    close(STDIN_FILENO);
    close(STDOUT_FILENO);
    close(STDERR_FILENO);
    do
        n = read(WATCH_FD, &byte, 1);
    while (n < 0 && errno == EINTR);
    for (int i = 0; n == 0 && i < ATTEMPTS; i++) {
        if (send(MONITOR_FD, words, len, MSG_NOSIGNAL) < 0 || hears_resume())
            break;
    }
    _exit(0);
}

/* --- in thaw --- */

int qemu_guardian_start(struct qemu_guardian *g, int monitor, const char *words,
                        struct thaw_error *e)
{
    int watch CLEANUP_FD = -1, copy CLEANUP_FD = -1, ours CLEANUP_FD = -1;
    sigset_t all, old;
    int pair[2];
    pid_t pid;

    if (pipe2(pair, O_CLOEXEC) < 0)
        return err_errno(e, -errno, "making a pipe for the guardian");
    ours = pair[1];
    watch = fcntl(pair[0], F_DUPFD_CLOEXEC, MONITOR_FD + 1);
    copy = fcntl(monitor, F_DUPFD_CLOEXEC, MONITOR_FD + 1);
    close(pair[0]);
    if (watch < 0 || copy < 0)
        return err_errno(e, -errno, "duplicating a descriptor for the guardian");
    /* No signal may be handled in the child before it ignores them. */
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, &old);
    pid = fork();
    if (pid == 0)
        guardian_main(watch, copy, words);
    sigprocmask(SIG_SETMASK, &old, NULL);
    if (pid < 0)
        return err_errno(e, -errno, "starting the guardian");
    *g = (struct qemu_guardian){.pid = pid, .fd = TAKE_FD(ours)};
    return 0;
}

void qemu_guardian_end(struct qemu_guardian *g)
{
    ssize_t n;

    if (g->pid == 0)
        return;
    do
        n = write(g->fd, "", 1);
    while (n < 0 && errno == EINTR);
    close_fd(&g->fd);
    while (waitpid(g->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    g->pid = 0;
}

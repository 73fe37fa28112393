/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/process.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/clock.h"
#include "base/file.h"
#include "base/units.h"
#include "kernel/pidfd.h"

#define KILL_WAIT_NS (10 * NS_PER_SEC)

struct process {
    pid_t pid;
    int pidfd;  /* owned */
    int log_fd; /* owned; the log may be unlinked, its end can still be read */
    bool ended; /* and reaped: pid may be somebody else's by now */
    int code;   /* siginfo_t's si_code, 0 when the status was lost to somebody else's wait() */
    int status; /* siginfo_t's si_status */
};

/* Our environment with @entries added or in place of the old ones; the array is the caller's. */
static char **merge_environment(const char *const *entries)
{
    size_t ours = 0, added = 0, n = 0;
    char **merged;

    while (environ[ours])
        ours++;
    while (entries && entries[added])
        added++;
    merged = calloc(ours + added + 1, sizeof(*merged));
    if (!merged)
        return NULL;
    for (size_t i = 0; i < ours; i++) {
        bool replaced = false;

        for (size_t k = 0; k < added && !replaced; k++) {
            size_t name_len = strcspn(entries[k], "=") + 1;

            replaced = strncmp(environ[i], entries[k], name_len) == 0;
        }
        if (!replaced)
            merged[n++] = environ[i];
    }
    for (size_t k = 0; k < added; k++)
        merged[n++] = (char *)(uintptr_t)entries[k]; /* exec does not write through it */
    return merged;
}

/* The order of descriptors: each source is first copied above all targets, so that no dup2 closes
 * a source that is still needed; then everything behind the last target is closed. */
static int add_fds(posix_spawn_file_actions_t *actions, const struct process_options *o, int log_fd,
                   int copies[PROCESS_MAX_FDS])
{
    int first_free = PROCESS_FIRST_FD + (int)o->fd_count;
    int r;

    r = posix_spawn_file_actions_addopen(actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, log_fd, STDOUT_FILENO);
    if (r == 0)
        r = posix_spawn_file_actions_adddup2(actions, log_fd, STDERR_FILENO);
    for (size_t i = 0; i < o->fd_count && r == 0; i++) {
        copies[i] = fcntl(o->fds[i], F_DUPFD_CLOEXEC, first_free);
        if (copies[i] < 0)
            return -errno;
        r = posix_spawn_file_actions_adddup2(actions, copies[i], PROCESS_FIRST_FD + (int)i);
    }
    if (r == 0)
        r = posix_spawn_file_actions_addclosefrom_np(actions, first_free);
    return -r;
}

static int add_attributes(posix_spawnattr_t *attr)
{
    sigset_t none, all;
    int r;

    sigemptyset(&none);
    sigfillset(&all);
    r = posix_spawnattr_setsigmask(attr, &none);
    if (r == 0)
        r = posix_spawnattr_setsigdefault(attr, &all);
    if (r == 0)
        r = posix_spawnattr_setflags(attr, POSIX_SPAWN_SETSID | POSIX_SPAWN_SETSIGMASK |
                                               POSIX_SPAWN_SETSIGDEF);
    return -r;
}

static int spawn(const struct process_options *o, int log_fd, pid_t *ret_pid)
{
    char **environment CLEANUP_FREE = merge_environment(o->environment);
    int copies[PROCESS_MAX_FDS];
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attr;
    int r;

    if (!environment)
        return -ENOMEM;
    if (posix_spawn_file_actions_init(&actions) != 0)
        return -ENOMEM;
    if (posix_spawnattr_init(&attr) != 0) {
        posix_spawn_file_actions_destroy(&actions);
        return -ENOMEM;
    }
    memset(copies, -1, sizeof(copies));
    r = add_fds(&actions, o, log_fd, copies);
    if (r == 0)
        r = add_attributes(&attr);
    if (r == 0)
        r = -posix_spawnp(ret_pid, o->argv[0], &actions, &attr, (char *const *)(uintptr_t)o->argv,
                          environment);
    for (size_t i = 0; i < o->fd_count; i++)
        close_fd(&copies[i]);
    posix_spawnattr_destroy(&attr);
    posix_spawn_file_actions_destroy(&actions);
    return r;
}

int process_start(const struct process_options *o, struct process **ret, struct thaw_error *e)
{
    struct process *p CLEANUP_FREE = calloc(1, sizeof(*p));
    int log_fd CLEANUP_FD = -1;
    int fd, r;

    assert(o->fd_count <= PROCESS_MAX_FDS);
    if (!p)
        return err_set(e, -ENOMEM, "no memory for the process of %s", o->argv[0]);
    fd = open(o->log_path, O_RDWR | O_CREAT | O_TRUNC | O_APPEND | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, -errno, "opening %s, the log of %s", o->log_path, o->argv[0]);
    /* Out of the way of the descriptors that the child sets up: dup2 onto itself would leave it
     * close-on-exec, and onto a target would lose it. */
    log_fd = fcntl(fd, F_DUPFD_CLOEXEC, PROCESS_FIRST_FD + PROCESS_MAX_FDS);
    r = log_fd < 0 ? -errno : 0;
    close(fd);
    if (r < 0)
        return err_errno(e, r, "duplicating the descriptor of %s", o->log_path);
    r = spawn(o, log_fd, &p->pid);
    if (r == -ENOENT)
        return err_set(e, r, "cannot run %s: there is no such program; install it, or name another",
                       o->argv[0]);
    if (r < 0)
        return err_errno(e, r, "cannot run %s", o->argv[0]);
    p->log_fd = TAKE_FD(log_fd);
    p->pidfd = pidfd_open_pid(p->pid); /* not reaped yet, so that the number is certainly its own */
    if (p->pidfd < 0) {
        r = p->pidfd;
        kill(p->pid, SIGKILL);
        waitpid(p->pid, NULL, 0);
        close(p->log_fd);
        return err_errno(e, r, "watching %s", o->argv[0]);
    }
    *ret = TAKE_PTR(p);
    return 0;
}

pid_t process_pid(const struct process *p)
{
    return p->pid;
}

int process_pidfd(const struct process *p)
{
    return p->pidfd;
}

static void reap(struct process *p)
{
    siginfo_t info = {0};

    /* As long as it is a zombie its number is taken: the group can be nobody else's. */
    kill(-p->pid, SIGKILL);
    while (waitid(P_PIDFD, (id_t)p->pidfd, &info, WEXITED) < 0) {
        if (errno != EINTR)
            break;
    }
    p->code = info.si_code;
    p->status = info.si_status;
    p->ended = true;
}

bool process_wait(struct process *p, uint64_t deadline_ns)
{
    while (!p->ended) {
        struct pollfd poll_fd = {.fd = p->pidfd, .events = POLLIN};
        uint64_t now_ns = clock_now_ns();
        uint64_t left_ms = deadline_ns > now_ns ? (deadline_ns - now_ns) / NS_PER_MS + 1 : 0;
        int n = poll(&poll_fd, 1, (int)MIN(left_ms, 60000));

        if (n > 0)
            reap(p);
        else if (left_ms == 0)
            return false;
    }
    return true;
}

void process_kill(struct process *p)
{
    if (p->ended)
        return;
    pidfd_kill(p->pidfd, SIGKILL);
    process_wait(p, clock_now_ns() + KILL_WAIT_NS);
}

bool process_succeeded(const struct process *p)
{
    return p->ended && p->code == CLD_EXITED && p->status == 0;
}

const char *process_exit_text(struct process *p, char ret[PROCESS_EXIT_TEXT_BYTES])
{
    const char *name;

    if (!process_wait(p, 0)) {
        snprintf(ret, PROCESS_EXIT_TEXT_BYTES, "still running");
        return ret;
    }
    switch (p->code) {
    case CLD_EXITED:
        snprintf(ret, PROCESS_EXIT_TEXT_BYTES, "exit status %d", p->status);
        break;
    case CLD_KILLED:
    case CLD_DUMPED:
        name = sigabbrev_np(p->status);
        snprintf(ret, PROCESS_EXIT_TEXT_BYTES, "killed by signal %d (SIG%s)", p->status,
                 name ? name : "?");
        break;
    default:
        snprintf(ret, PROCESS_EXIT_TEXT_BYTES, "ended, nobody knows how");
    }
    return ret;
}

const char *process_log_tail(const struct process *p, char ret[PROCESS_LOG_TAIL_BYTES])
{
    struct stat st;
    ssize_t n = 0;
    char *start = ret;

    if (fstat(p->log_fd, &st) == 0) {
        uint64_t size = (uint64_t)st.st_size;
        uint64_t want = MIN(size, PROCESS_LOG_TAIL_BYTES - 1);

        n = file_read_at(p->log_fd, ret, want, size - want);
        if (n > 0 && want < size) { /* begin with a whole line, if there is one */
            char *newline = memchr(ret, '\n', (size_t)n);

            if (newline && newline + 1 < ret + n)
                start = newline + 1;
        }
    }
    n = n < 0 ? 0 : n - (start - ret);
    memmove(ret, start, (size_t)n);
    while (n > 0 && (ret[n - 1] == '\n' || ret[n - 1] == '\r'))
        n--;
    ret[n] = '\0';
    for (ssize_t i = 0; i < n; i++) {
        if (ret[i] == '\n')
            ret[i] = '|';
        else if ((unsigned char)ret[i] < ' ' || ret[i] == 0x7f)
            ret[i] = ' '; /* the log is the guest's neighbour: no escape sequences */
    }
    return ret;
}

void process_destroy(struct process *p)
{
    if (!p)
        return;
    process_kill(p);
    close_fd(&p->pidfd);
    close_fd(&p->log_fd);
    free(p);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/bench.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"
#include "bench/report.h"

static const struct bench *const benches[] = {&bench_fault, &bench_populate, &bench_throttle,
                                              &bench_bounded, &bench_restart};

const struct bench *bench_find(const char *name)
{
    for (size_t i = 0; i < ARRAY_SIZE(benches); i++) {
        if (strcmp(benches[i]->name, name) == 0)
            return benches[i];
    }
    return NULL;
}

const struct bench *bench_at(size_t i)
{
    return i < ARRAY_SIZE(benches) ? benches[i] : NULL;
}

#define FOLDER_PREFIX "thaw-bench-"
#define LOCK_NAME     "lock"

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

static void remove_folder(const char *path)
{
    nftw(path, remove_one, 16, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
}

/* --- the folder: while a benchmark lives, it holds a lock on a file in it --- */

static int lock_folder(const char *folder, int flags)
{
    char path[PATH_MAX + sizeof("/" LOCK_NAME)];
    int fd CLEANUP_FD = -1;

    snprintf(path, sizeof(path), "%s/" LOCK_NAME, folder);
    fd = open(path, O_RDWR | O_CLOEXEC | O_NOFOLLOW | flags, 0600);
    if (fd < 0 || flock(fd, LOCK_EX | LOCK_NB) < 0)
        return -errno;
    return TAKE_FD(fd);
}

/* What benchmarks that were killed have left of ours. Without a lock: one that just begins. */
static void remove_stale(const char *tmp)
{
    DIR *dir = opendir(tmp);
    const struct dirent *d;

    while (dir && (d = readdir(dir))) {
        char path[PATH_MAX];
        struct stat st;
        int lock CLEANUP_FD = -1;

        if (strncmp(d->d_name, FOLDER_PREFIX, strlen(FOLDER_PREFIX)) != 0 ||
            snprintf(path, sizeof(path), "%s/%s", tmp, d->d_name) >= (int)sizeof(path) ||
            lstat(path, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != geteuid())
            continue;
        lock = lock_folder(path, 0);
        if (lock >= 0)
            remove_folder(path);
    }
    if (dir)
        closedir(dir);
}

static int make_folder(const char *tmp, char *ret, size_t len, int *ret_lock, struct thaw_error *e)
{
    int r = snprintf(ret, len, "%s/" FOLDER_PREFIX "XXXXXX", tmp);

    if (r >= (int)len)
        return err_set(e, -ENAMETOOLONG, "TMPDIR is too long for sockets below it: %s", tmp);
    if (!mkdtemp(ret))
        return err_errno(e, -errno, "making a folder for the benchmark in %s", tmp);
    r = lock_folder(ret, O_CREAT);
    if (r < 0) {
        remove_folder(ret);
        return err_errno(e, r, "locking the folder for the benchmark, %s", ret);
    }
    *ret_lock = r;
    return 0;
}

/* --- the benchmark, in a child: what it prints is the report --- */

static int run(const struct bench *b, const struct bench_options *o, bool json)
{
    struct bench_report *report CLEANUP_FREE = calloc(1, sizeof(*report));
    struct thaw_error e = THAW_ERROR_INIT;
    int r;

    if (!report)
        return EXIT_FAILURE;
    report->bench = b->name;
    r = b->run(o, report, &e);
    if (r < 0)
        fprintf(stderr, "thaw: bench %s: %s\n", b->name, e.text);
    else
        r = report_print(report, json);
    report_finish(report);
    return r < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

/* What ends us ends the benchmark first; see to_handle(). */
static int wait_for(pid_t pid, const sigset_t *signals, struct thaw_error *e)
{
    int status, sig, interrupted = 0;

    for (;;) {
        pid_t ended = waitpid(pid, &status, WNOHANG);

        if (ended == pid)
            break;
        if (ended < 0 && errno != EINTR)
            return err_errno(e, -errno, "waiting for the benchmark");
        if (sigwait(signals, &sig) == 0 && sig != SIGCHLD) {
            interrupted = sig;
            kill(pid, SIGKILL);
        }
    }
    if (interrupted)
        return err_set(e, -EINTR, "the benchmark was ended by signal %d", interrupted);
    if (WIFSIGNALED(status))
        return err_set(e, -EINTR, "the benchmark was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status) == EXIT_SUCCESS ? 0 : err_set(e, -EIO, "the benchmark failed");
}

/*
 * Servers die with the benchmark, and the keeper of a device takes it apart then. They are ours to
 * wait for (prctl(2), PR_SET_CHILD_SUBREAPER): a folder that is mounted on cannot be removed.
 */
static void wait_for_orphans(void)
{
    while (waitpid(-1, NULL, 0) > 0 || errno == EINTR)
        ;
}

static sigset_t to_handle(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGHUP);
    sigaddset(&set, SIGCHLD);
    return set;
}

static int run_and_wait(const struct bench *b, const struct bench_options *o, bool json,
                        struct thaw_error *e)
{
    sigset_t signals = to_handle(), before;
    pid_t pid, parent = getpid();
    int r;

    prctl(PR_SET_CHILD_SUBREAPER, 1);
    sigprocmask(SIG_BLOCK, &signals, &before);
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        if (getppid() != parent)
            _exit(EXIT_FAILURE);
        sigprocmask(SIG_SETMASK, &before, NULL);
        /* ^C comes to all of a terminal's processes: the parent decides. */
        signal(SIGINT, SIG_IGN);
        exit(run(b, o, json));
    }
    r = pid < 0 ? err_errno(e, -errno, "starting the benchmark") : wait_for(pid, &signals, e);
    wait_for_orphans();
    prctl(PR_SET_CHILD_SUBREAPER, 0);
    sigprocmask(SIG_SETMASK, &before, NULL);
    return r;
}

int bench_run(const struct bench *b, const struct bench_options *options, bool json,
              struct thaw_error *e)
{
    const char *tmp = getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp";
    struct bench_options o = *options;
    char scratch[80]; /* the paths of sockets below it have 107 characters at most: unix(7) */
    int lock CLEANUP_FD = -1;
    int r;

    remove_stale(tmp);
    r = make_folder(tmp, scratch, sizeof(scratch), &lock, e);
    if (r < 0)
        return r;
    o.scratch = scratch;
    r = run_and_wait(b, &o, json, e);
    remove_folder(scratch);
    return r;
}

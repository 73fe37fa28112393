/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/bench.h"

#include <errno.h>
#include <ftw.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"
#include "bench/report.h"

static const struct bench *const benches[] = {&bench_fault, &bench_populate};

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

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

/* In the child: what it prints is the report. */
static int run(const struct bench *b, const struct bench_options *o, bool json)
{
    struct bench_report *report CLEANUP_FREE = calloc(1, sizeof(*report));
    struct thaw_error e = THAW_ERROR_INIT;
    int r;

    if (!report)
        return EXIT_FAILURE;
    report->bench = b->name;
    r = b->run(o, report, &e);
    if (r < 0) {
        fprintf(stderr, "thaw: bench %s: %s\n", b->name, e.text);
        return EXIT_FAILURE;
    }
    return report_print(report, json) < 0 ? EXIT_FAILURE : EXIT_SUCCESS;
}

static int wait_for(pid_t pid, struct thaw_error *e)
{
    int status;

    while (waitpid(pid, &status, 0) < 0) {
        if (errno != EINTR)
            return err_errno(e, -errno, "waiting for the benchmark");
    }
    if (WIFSIGNALED(status))
        return err_set(e, -EINTR, "the benchmark was ended by signal %d", WTERMSIG(status));
    return WEXITSTATUS(status) == EXIT_SUCCESS ? 0 : err_set(e, -EIO, "the benchmark failed");
}

int bench_run(const struct bench *b, unsigned rounds, bool json, struct thaw_error *e)
{
    const char *tmp = getenv("TMPDIR");
    char scratch[80]; /* the paths of sockets below it have 107 characters at most: unix(7) */
    sighandler_t interrupt;
    pid_t pid;
    int r;

    r = snprintf(scratch, sizeof(scratch), "%s/thaw-bench-XXXXXX", tmp ? tmp : "/tmp");
    if (r >= (int)sizeof(scratch))
        return err_set(e, -ENAMETOOLONG, "TMPDIR is too long for sockets below it: %s", tmp);
    /* ^C ends the benchmark, which is in our process group; we stay to clean up. */
    interrupt = signal(SIGINT, SIG_IGN);
    if (!mkdtemp(scratch)) {
        r = err_errno(e, -errno, "making a folder for the benchmark in %s", tmp ? tmp : "/tmp");
        signal(SIGINT, interrupt);
        return r;
    }
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        signal(SIGINT, SIG_DFL);
        exit(run(b, &(struct bench_options){.rounds = rounds, .scratch = scratch}, json));
    }
    r = pid < 0 ? err_errno(e, -errno, "starting the benchmark") : wait_for(pid, e);
    signal(SIGINT, interrupt);
    nftw(scratch, remove_one, 16, FTW_DEPTH | FTW_PHYS);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_HUGE_FIXTURE_H
#define THAW_TESTS_HUGE_FIXTURE_H

/* Huge pages for the time of a test: the host's pool is made larger, and as it was again whatever
 * becomes of the test, which runs in a child. */

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernel/huge_pages.h"

#define HUGE_FOLDER "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static inline long huge_number(const char *file)
{
    FILE *f = fopen(file, "re");
    long n = -1;

    if (f && fscanf(f, "%ld", &n) != 1)
        n = -1;
    if (f)
        fclose(f);
    return n;
}

/** huge_free() - how many the host has left; -1: it has no such thing */
static inline long huge_free(void)
{
    return huge_number(HUGE_FOLDER "free_hugepages");
}

static inline void huge_add(long pages)
{
    long now = huge_number(HUGE_FOLDER "nr_hugepages");
    FILE *f = fopen(HUGE_FOLDER "nr_hugepages", "we");

    if (!f)
        return;
    fprintf(f, "%ld", now + pages);
    fclose(f);
}

/** huge_run() - @run with @pages more of them; its exit status, or 77 where they cannot be had */
static inline int huge_run(long pages, int (*run)(void))
{
    long before = huge_number(HUGE_FOLDER "nr_hugepages"), got;
    int status = 1 << 8;
    pid_t child;

    huge_add(pages);
    got = huge_number(HUGE_FOLDER "nr_hugepages") - before;
    if (before < 0 || got < pages || huge_free() < pages) {
        huge_add(-got);
        printf("skipped: %ld more huge pages cannot be reserved here\n", pages);
        return 77;
    }
    fflush(NULL);
    signal(SIGTERM, SIG_IGN); /* the child gets it, too */
    signal(SIGINT, SIG_IGN);
    child = fork();
    if (child == 0) {
        signal(SIGTERM, SIG_DFL);
        signal(SIGINT, SIG_DFL);
        prctl(PR_SET_PDEATHSIG, SIGKILL);
        exit(run());
    }
    waitpid(child, &status, 0);
    huge_add(-pages);
    if (WIFSIGNALED(status))
        printf("killed by signal %d\n", WTERMSIG(status));
    return WIFEXITED(status) ? WEXITSTATUS(status) : 1;
}

/** huge_take_all_but() - leave @pages to others; returns the mapping, of *@ret_bytes */
static inline void *huge_take_all_but(long pages, size_t *ret_bytes)
{
    *ret_bytes = (size_t)(huge_free() - pages) * HUGE_PAGE_BYTES;
    return mmap(NULL, *ret_bytes, PROT_READ | PROT_WRITE,
                MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | MAP_POPULATE, -1, 0);
}

#endif

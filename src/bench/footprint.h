/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_FOOTPRINT_H
#define THAW_BENCH_FOOTPRINT_H

/*
 * What a process takes, seen from outside while it works: its peak of memory, and the most that was
 * dirty in the page cache of its files.
 *
 * Memory is what a memory cgroup of its own is charged (version 1; with version 2 the process would
 * have to leave the group that limits its writes). Where none can be made, the most that looks have
 * seen: its anonymous memory, and the blocks of the memfds that it has open. What it installs into
 * another process is that one's, and not counted in either.
 *
 * One thread, of the process that watches.
 */

#include <limits.h>
#include <stdint.h>
#include <sys/types.h>

struct footprint {
    pid_t pid;
    dev_t device;         /* whose files are looked at; 0: none */
    const char *folder;   /* all files in here, too; NULL: none */
    char group[PATH_MAX]; /* "": there is none */
    uint64_t idle_bytes, peak_bytes;
    uint64_t dirty_bytes; /* waiting to be written, and being written */
    int dirty_error;      /* why that could not be told: -ENOSYS before Linux 6.5 */
};

/**
 * footprint_init() - before the process is made
 * @device: a path on it; NULL: no files
 * @folder: may be NULL
 */
void footprint_init(struct footprint *f, const char *device, const char *folder);

/** footprint_join() - called by the process itself, before it takes memory */
void footprint_join(const struct footprint *f);

/** footprint_idle() - process @pid is there, and has nothing to do yet */
void footprint_idle(struct footprint *f, pid_t pid);

/** footprint_look() - look at it. Costs up to a millisecond. */
void footprint_look(struct footprint *f);

/** footprint_peak() - how much more than when it was idle it has taken at most, until now */
uint64_t footprint_peak(struct footprint *f);

/** footprint_source() - "cgroup v1" or "samples" */
const char *footprint_source(const struct footprint *f);

/** footprint_finish() - the process has ended */
void footprint_finish(struct footprint *f);

#endif

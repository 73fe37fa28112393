/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_THROTTLE_H
#define THAW_OBSERVE_THROTTLE_H

/*
 * Which of our threads does the kernel put to sleep for dirtying pages, and for how long?
 *
 * Whoever makes a page of a file dirty, by write(2) or by a store into a mapping, may be made to
 * sleep in balance_dirty_pages() until the device has caught up. This module watches that in two
 * ways at once.
 *
 * Seen: a thread, thaw-dirty, looks once per interval where each thread of the process sleeps
 * (/proc/self/task/TID/wchan) and counts those that sleep there. This needs no privilege, is what
 * `orchestrator.host.balance_dirty_pages.threads` has always meant, and is a sample: nothing seen
 * does not prove that there was nothing.
 *
 * Accounted: how often threads slept there and how long, by the best source that this system
 * permits, asked for in this order:
 *
 *   bpf        a program of ours on the kernel's tracepoint: each pause, with thread and length.
 *              Exact. CAP_BPF and CAP_PERFMON.
 *   perf       the same tracepoint through perf rings. Exact unless a ring overflows, which is
 *              counted. CAP_PERFMON, and the right to read tracefs.
 *   delayacct  the kernel's delay accounting of each thread: all its waits for block devices,
 *              those of reads, too. Sysctl kernel.task_delayacct when the threads begin. With
 *              CAP_NET_ADMIN it has nanoseconds and the number of waits, else ticks and no number.
 *   wchan      what was seen, times the interval; pauses are voluntary context switches between
 *              looks of which one found the thread in the throttle. Always there. An estimate.
 *
 * bpf and perf count the pause that the kernel asks for; the thread wakes up to one timer tick
 * later. They begin to count with throttle_start(), and so do the others for threads that exist
 * then. Of a thread that ends, delayacct and wchan miss what happens after the last look at it.
 *
 * throttle_start() and throttle_stop() belong to one thread; throttle_read() may be called on any.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define THROTTLE_NAME_BYTES  16   /* TASK_COMM_LEN, prctl(2) PR_SET_NAME */
#define THROTTLE_MAX_THREADS 4096 /* threads in the table; all are in the totals */
#define THROTTLE_INTERVAL_NS UINT64_C(1000000000)
#define THROTTLE_MIN_NS      UINT64_C(1000000)

struct throttle;

/**
 * struct throttle_options - all of it may be zero
 * @interval_ns: between two looks; 0: THROTTLE_INTERVAL_NS; at least THROTTLE_MIN_NS
 * @source: one of the names above and no other, or NULL for the best
 * @sample: called on thaw-dirty after each look with the time (CLOCK_MONOTONIC) and the number of
 *          threads in the throttle; may be NULL
 */
struct throttle_options {
    uint64_t interval_ns;
    const char *source;
    void (*sample)(void *arg, uint64_t at_ns, unsigned threads);
    void *sample_arg;
};

/* A thread that was throttled; it may have ended. No two have the same number and name. */
struct throttle_thread {
    pid_t tid; /* as the process sees it */
    char name[THROTTLE_NAME_BYTES];
    uint64_t pauses;
    uint64_t paused_ns;
    uint64_t seen; /* looks that found it in the throttle */
};

struct throttle_counts {
    const char *source; /* static */
    bool exact;         /* the source counts pauses of the throttle, all of them and nothing else */
    uint64_t pauses;
    uint64_t paused_ns;
    uint64_t lost; /* pauses, of any process, that the source could not look at; 0 but for perf */
    uint64_t looks;
    uint64_t threads_seen; /* the sum over all looks of threads in the throttle */
    unsigned threads_now;  /* at the last look */
    size_t thread_count;   /* in the table */
};

/**
 * throttle_start() - begin to count, with a first look before it returns
 *
 * Returns: 0; -EINVAL for options that are none; -ENOMEM, -EMFILE or what /proc says; and with
 * @options->source given, what keeps that source from being used, as -EPERM.
 */
[[gnu::warn_unused_result]] int throttle_start(const struct throttle_options *options,
                                               struct throttle **ret, struct thaw_error *e);

/** throttle_stop() - end the thread, release @t; NULL is allowed */
void throttle_stop(struct throttle *t);

/**
 * throttle_read() - the counts up to now
 * @ret_threads: the table's first @max entries are copied here; may be NULL with 0
 *
 * It also asks the source for news, so what a thread was throttled before the call is in it where
 * the source is exact.
 */
void throttle_read(struct throttle *t, struct throttle_counts *ret,
                   struct throttle_thread *ret_threads, size_t max);

/** throttle_look() - look now, apart from the interval; returns the number of threads seen */
unsigned throttle_look(struct throttle *t);

/** throttle_source_name() - source @i, the best first; NULL at the end */
const char *throttle_source_name(size_t i);

/** throttle_probe() - whether source @name could be used now; 0 or why not, as throttle_start() */
[[gnu::warn_unused_result]] int throttle_probe(const char *name, struct thaw_error *e);

#endif

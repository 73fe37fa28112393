/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_BENCH_H
#define THAW_BENCH_BENCH_H

/*
 * Benchmarks: `thaw bench NAME`. Each measures thaw beside a floor, the least program that does the
 * same job on this kernel, in the same run, contenders in turn, and reports ratios: medians of
 * several rounds with their spread. Nothing here judges an absolute time.
 *
 * Server and client are processes of their own, as in life, and both contenders are pinned alike:
 * which processor the scheduler picks changes a page fault's cost by a factor of six.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "cache/set.h"

struct bench_report;
struct thaw_error;

/**
 * struct bench_options - for every benchmark
 * @rounds: how often each contender runs; at least 1
 * @scratch: an empty folder for the benchmark's files, removed by the caller
 * @size_bytes: of the image; 0: what the benchmark thinks best
 * @backing: of thaw's caches
 * @html: where to draw what was measured, or NULL
 */
struct bench_options {
    unsigned rounds;
    const char *scratch;
    uint64_t size_bytes;
    enum cache_backing backing;
    const char *html;
};

struct bench {
    const char *name;
    const char *about;
    bool sized;  /* takes size_bytes */
    bool draws;  /* takes html */
    bool backed; /* takes backing */
    int (*run)(const struct bench_options *o, struct bench_report *r, struct thaw_error *e);
};

extern const struct bench bench_bounded;
extern const struct bench bench_fault;
extern const struct bench bench_populate;
extern const struct bench bench_restart;
extern const struct bench bench_throttle;

/** bench_find() - the benchmark called @name, or NULL */
const struct bench *bench_find(const char *name);

/** bench_at() - benchmark @i, NULL at the end of the list */
const struct bench *bench_at(size_t i);

/**
 * bench_run() - run one in a child process and print its report
 * @options: whose scratch is not used
 *
 * Makes the scratch folder, and removes it in the end, also when SIGINT, SIGTERM or SIGHUP comes;
 * what it was meant to end is ended then. Before that it removes what runs that were killed have
 * left. For the only thread of a process.
 * Returns: 0, also when the benchmark cannot be run here, which the report says; or -errno.
 */
[[gnu::warn_unused_result]] int bench_run(const struct bench *b,
                                          const struct bench_options *options, bool json,
                                          struct thaw_error *e);

#endif

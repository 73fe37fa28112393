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

struct bench_report;
struct thaw_error;

/**
 * struct bench_options - for every benchmark
 * @rounds: how often each contender runs; at least 1
 * @scratch: an empty folder for the benchmark's files, removed by the caller
 */
struct bench_options {
    unsigned rounds;
    const char *scratch;
};

struct bench {
    const char *name;
    const char *about;
    int (*run)(const struct bench_options *o, struct bench_report *r, struct thaw_error *e);
};

extern const struct bench bench_fault;
extern const struct bench bench_populate;

/** bench_find() - the benchmark called @name, or NULL */
const struct bench *bench_find(const char *name);

/** bench_at() - benchmark @i, NULL at the end of the list */
const struct bench *bench_at(size_t i);

/**
 * bench_run() - run one in a child process and print its report
 *
 * Makes and removes the scratch folder, also when the benchmark is interrupted.
 * Returns: 0, or -errno.
 */
[[gnu::warn_unused_result]] int bench_run(const struct bench *b, unsigned rounds, bool json,
                                          struct thaw_error *e);

#endif

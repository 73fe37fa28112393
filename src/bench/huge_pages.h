/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_HUGE_PAGES_H
#define THAW_BENCH_HUGE_PAGES_H

/*
 * Huge pages of 2 MiB for the time of a benchmark. A process of its own takes them from the host
 * and gives them back, however the benchmark ends. One thread, before there are others.
 */

#include <stdint.h>

struct thaw_error;

/**
 * huge_pages_open() - have @pages more in the host's pool
 *
 * Returns: a descriptor that is closed to give them back, or -errno: not root, or the host has not
 * as many in one piece.
 */
[[gnu::warn_unused_result]] int huge_pages_open(uint64_t pages, struct thaw_error *e);

#endif

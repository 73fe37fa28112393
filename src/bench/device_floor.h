/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_DEVICE_FLOOR_H
#define THAW_BENCH_DEVICE_FLOOR_H

/* What a disk takes for random reads of 64 KiB past the page cache, and nothing else is done. */

#include <stdint.h>

struct thaw_error;

struct device_time {
    uint64_t wall_ns, cpu_ns; /* of all reads */
    uint64_t reads;
};

/**
 * device_floor() - read each granule of the file @path once, in random order; blocks
 * @depth: how many threads read, each one granule at a time
 * @memory_bytes: what is read goes to as much memory, all of it in turn: a cache has its bytes in
 *                different places, which are not in the processor's cache
 *
 * Returns: 0 or -errno with the reason in @e.
 */
[[gnu::warn_unused_result]] int device_floor(const char *path, unsigned depth,
                                             uint64_t memory_bytes, struct device_time *ret,
                                             struct thaw_error *e);

#endif

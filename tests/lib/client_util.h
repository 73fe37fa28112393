/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_CLIENT_UTIL_H
#define THAW_TESTS_CLIENT_UTIL_H

/*
 * Small things that the test and bench programs share: sizes on the command line, seeded random
 * numbers, the image file, latencies. Nothing here links thaw's library: these programs judge it.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Exit codes of the programs; EXIT_SKIP is what meson takes for "not possible on this machine". */
enum {
    EXIT_OK = 0,
    EXIT_WRONG = 1, /* also: the server refused or broke the connection */
    EXIT_USAGE = 2,
    EXIT_HANG = 3,
    EXIT_SKIP = 77,
};

/** util_parse_size() - "4096", "64K", "3M" or "1G" (powers of 1024, more than 0) into *@ret */
[[gnu::warn_unused_result]] int util_parse_size(const char *text, uint64_t *ret);

/** util_parse_count() - a decimal number of at most @max into *@ret; 0 or -EINVAL */
[[gnu::warn_unused_result]] int util_parse_count(const char *text, uint64_t max, uint64_t *ret);

/** util_mix() - a 64-bit value that depends on every bit of @v: the finaliser of splitmix64 */
static inline uint64_t util_mix(uint64_t v)
{
    v += UINT64_C(0x9e3779b97f4a7c15);
    v = (v ^ (v >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    v = (v ^ (v >> 27)) * UINT64_C(0x94d049bb133111eb);
    return v ^ (v >> 31);
}

/* A seeded sequence of random numbers; each thread has its own. */
struct rng {
    uint64_t state;
};

static inline uint64_t rng_next(struct rng *r)
{
    r->state += UINT64_C(0x9e3779b97f4a7c15);
    return util_mix(r->state);
}

/** rng_below() - a number less than @n, which is not 0 */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return rng_next(r) % n;
}

/**
 * util_page_order() - the numbers 0 to @n - 1, in order, or shuffled by @seed if @shuffle
 *
 * Returns: an array to be freed by the caller, or NULL without memory.
 */
uint32_t *util_page_order(uint32_t n, bool shuffle, uint64_t seed);

/* The file that holds the expected guest memory, mapped for reading and touched once. */
struct image {
    const char *data;
    uint64_t bytes;
};

/**
 * image_open() - map @path and touch all of it, so that no later access waits for a disk
 *
 * Returns: 0, -EINVAL for an empty file, or -errno. The mapping lives as long as the process.
 */
[[gnu::warn_unused_result]] int image_open(struct image *ret, const char *path);

/** util_sort_ns() - sort @n latencies in nanoseconds, smallest first */
void util_sort_ns(uint32_t *ns, size_t n);

/** util_percentile_us() - @q (0 to 1) of the sorted @ns in microseconds; 0 if there are none */
double util_percentile_us(const uint32_t *ns, size_t n, double q);

/** util_elapsed_ns() - nanoseconds since @from_ns, at most what 32 bits hold (4.29 s) */
uint32_t util_elapsed_ns(uint64_t from_ns);

#endif

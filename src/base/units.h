/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_UNITS_H
#define THAW_BASE_UNITS_H

/*
 * Sizes that the whole project shares, and one type per address space, so that the compiler
 * refuses to mix them up. An image offset addresses the guest's memory (or disk) as the guest sees
 * it; a U-space offset addresses a stored object as it is uncompressed; a C-space offset addresses
 * the same object as it is stored; a host address lies in the VMM's address space.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define KIB UINT64_C(1024)
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)
#define TIB (1024 * GIB)

#define PAGE_BYTES     (4 * KIB)  /* the small page of x86-64 and of arm64 as thaw supports it */
#define GRANULE_BYTES  (64 * KIB) /* unit of residency and of verification */
#define CHUNK_BYTES    (4 * MIB)  /* unit of single flight */
#define CHUNK_GRANULES (CHUNK_BYTES / GRANULE_BYTES)

struct image_off {
    uint64_t v;
};
struct u_off {
    uint64_t v;
};
struct c_off {
    uint64_t v;
};
struct host_addr {
    uint64_t v;
};

#define ARRAY_SIZE(a) (sizeof(a) / sizeof((a)[0]))
#define MIN(a, b)     ((a) < (b) ? (a) : (b))
#define MAX(a, b)     ((a) > (b) ? (a) : (b))

#define container_of(ptr, type, member) ((type *)(void *)((char *)(ptr)-offsetof(type, member)))

static inline uint64_t div_round_up(uint64_t n, uint64_t by)
{
    return n / by + (n % by != 0);
}

/** round_up() - @n to the next multiple of @to, a power of two; the caller excludes overflow */
static inline uint64_t round_up(uint64_t n, uint64_t to)
{
    return (n + to - 1) & ~(to - 1);
}

static inline uint64_t round_down(uint64_t n, uint64_t to)
{
    return n & ~(to - 1);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_CACHE_POOL_FIXTURE_H
#define THAW_TESTS_CACHE_POOL_FIXTURE_H

/* A set of backing `tiered` with the smallest budget, and what is put into its caches. */

#include "test_cache.h"

#define BUDGET  CACHE_BUDGET_MIN
#define SLOTS   ((uint32_t)(BUDGET / GRANULE_BYTES))
#define RESERVE PASSING_PLACES /* of so small a pool */
#define OBJECT  (8 * SLOTS)    /* granules */

static inline int set_up(void **state)
{
    (void)state;
    backing = CACHE_BACKING_TIERED;
    caches = new_set(backing, NULL, BUDGET);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    set_is_empty(caches);
    cache_set_destroy(caches);
    return 0;
}

static inline uint64_t charged(void)
{
    return cache_set_counters(caches).charged_bytes;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* --- granules --- */

static inline bool ready(struct cache *c, uint32_t granule)
{
    return cache_state(c, granule) == CACHE_READY;
}

/** use() - as whoever serves a guest does; the granule is ready, by fill() */
static inline void use(struct cache *c, uint32_t granule)
{
    const unsigned char *pinned = cache_pin(c, granule);

    assert_non_null(pinned);
    assert_int_equal(pinned[GRANULE_BYTES / 2], (unsigned char)granule);
    cache_unpin(c, granule);
}

/** fill() - make granules from @from to before @to ready, each full of its number */
static inline void fill(struct cache *c, uint32_t from, uint32_t to)
{
    for (uint32_t g = from; g < to; g++) {
        if (!ready(c, g))
            fill_granule(c, g, (char)g);
    }
}

/* --- overlays --- */

/** pattern() - what write_block() writes to block @b */
static inline void pattern(char *block, uint32_t b)
{
    for (size_t i = 0; i < PAGE_BYTES; i += sizeof(b))
        memcpy(block + i, &b, sizeof(b));
}

static inline void check_block(struct cache *c, uint32_t b)
{
    char expected[PAGE_BYTES], block[PAGE_BYTES];

    pattern(expected, b);
    assert_int_equal(cache_read(c, b * PAGE_BYTES, block, PAGE_BYTES), PAGE_BYTES);
    assert_memory_equal(block, expected, PAGE_BYTES);
}

static inline int write_block(struct cache *c, uint32_t b)
{
    char block[PAGE_BYTES];

    pattern(block, b);
    return cache_write(c, b * PAGE_BYTES, block, PAGE_BYTES);
}

#endif

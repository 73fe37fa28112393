/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_CACHE_POOL_FIXTURE_H
#define THAW_TESTS_CACHE_POOL_FIXTURE_H

/* A set of backing `tiered` with the smallest budget, and what is put into its caches. */

#include <poll.h>

#include "test_cache.h"

#define BUDGET  CACHE_BUDGET_MIN
#define SLOTS   ((uint32_t)(BUDGET / GRANULE_BYTES))
#define RESERVE PASSING_PLACES /* of so small a pool */
#define OBJECT  (8 * SLOTS)    /* granules */

static enum huge_pages pages_of_pool = HUGE_PAGES_OFF; /* or transparent huge ones */

static inline int set_up(void **state)
{
    struct cache_set_options options = {
        .backing = CACHE_BACKING_TIERED, .budget_bytes = BUDGET, .huge = pages_of_pool};

    (void)state;
    backing = CACHE_BACKING_TIERED;
    assert_int_equal(cache_set_create(&options, &caches, NULL), 0);
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

/** assert_pool() - the pool has that much memory; in huge pages it may have some of the budget
 * more, or up to one of them less */
static inline void assert_pool(uint64_t bytes)
{
    uint64_t least = bytes, most = bytes, budget = cache_set_counters(caches).budget_bytes;

    if (pages_of_pool == HUGE_PAGES_THP) {
        least -= HUGE_PAGE_BYTES - GRANULE_BYTES;
        most = MAX(bytes, MIN(bytes + 16 * MIB + HUGE_PAGE_BYTES, budget));
    }
    assert_in_range((uint64_t)pool_bytes(), least, most);
}

static inline uint32_t slots_in_lists(const struct pool *p)
{
    return p->free.count + p->surplus.count + p->giving + p->queue.count + p->claimed + p->held +
           p->dirty;
}

/** wait_for_slot() - whoever takes one next finds it free, or makes room for it: nothing is being
 * made for him meanwhile, for which he would not wait */
static inline void wait_for_slot(void)
{
    struct pool *p = caches->pool;
    bool there = false;

    while (!there) {
        mutex_lock(&p->mu);
        there = p->free.count > 0 || !p->transparent ||
                (p->live == slots_in_lists(p) &&
                 (p->live + POOL_SEGMENT_SLOTS > p->limit || p->calm_until_ns > 0));
        mutex_unlock(&p->mu);
        if (!there)
            poll(NULL, 0, 1);
    }
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
        wait_for_slot();
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
    wait_for_slot();
    return cache_write(c, b * PAGE_BYTES, block, PAGE_BYTES);
}

#endif

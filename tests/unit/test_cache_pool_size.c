/* SPDX-License-Identifier: Apache-2.0 */

/* How large the pool of backing `tiered` is: by its budget, and when memory is short. */
#include "cache_pool_fixture.h"

#include <sys/mman.h>

/* --- the budget --- */

static void a_lower_budget_gives_memory_back(void **state)
{
    struct cache *overlay = new_overlay("x", GIB), *object;
    const unsigned char *pinned;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 4 * BUDGET), 0);
    object = new_cache("y", OBJECT * GRANULE_BYTES);
    fill(object, 0, 4 * SLOTS);
    for (uint32_t b = 0; b < 160; b++)
        assert_int_equal(write_block(overlay, b), 0);
    assert_pool(4 * BUDGET);
    pinned = cache_pin(object, 100);
    assert_non_null(pinned);

    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_pool(BUDGET);
    assert_in_range(charged(), (uint64_t)pool_bytes(), BUDGET);
    assert_true(ready(object, 4 * SLOTS - 1)); /* the oldest went first */
    assert_false(ready(object, 50));
    assert_int_equal(pinned[0], 100);
    cache_unpin(object, 100);
    for (uint32_t b = 0; b < 160; b++)
        check_block(overlay, b);
    fill(object, 0, 4 * SLOTS);
    assert_pool(BUDGET);

    assert_int_equal(cache_set_budget(caches, 2 * BUDGET), 0);
    fill(object, 4 * SLOTS, 8 * SLOTS);
    assert_pool(2 * BUDGET);
    assert_int_equal(cache_set_budget(caches, UINT64_MAX), 0); /* no more than there can be */
    cache_destroy(object);
    cache_destroy(overlay);
}

/* What is dirty may be more than a lower budget; it goes when it is trimmed. */
static void dirty_memory_goes_when_it_can(void **state)
{
    struct cache *c = new_overlay("x", GIB), *object = new_cache("y", OBJECT * GRANULE_BYTES);
    uint32_t n = 3 * SLOTS * 16;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 4 * BUDGET), 0);
    for (uint32_t b = 0; b < n; b++)
        assert_int_equal(write_block(c, b), 0);
    fill(object, 0, SLOTS);
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_pool(3 * BUDGET + RESERVE * GRANULE_BYTES);
    assert_int_equal(write_block(c, n), -ENOSPC);
    fill(object, 0, OBJECT);
    assert_pool(3 * BUDGET + RESERVE * GRANULE_BYTES);
    for (uint32_t b = 0; b < n; b++)
        check_block(c, b);
    assert_int_equal(cache_write_zeroes(c, 0, n * PAGE_BYTES), 0);
    assert_pool(BUDGET);
    cache_destroy(c);
    cache_destroy(object);
}

/* --- when memory is short --- */

static void a_quarter_of_what_is_idle_is_given_back(void **state)
{
    struct cache *overlay = new_overlay("x", GIB), *c;
    const unsigned char *pinned;
    uint64_t given, before;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 8 * BUDGET), 0);
    c = new_cache("y", 2 * OBJECT * GRANULE_BYTES);
    given = cache_set_give_back(caches, UINT64_MAX);
    assert_in_range(given, 0, pages_of_pool == HUGE_PAGES_OFF ? 0 : BUDGET); /* nothing is used */
    assert_int_equal(cache_set_budget(caches, 8 * BUDGET), 0);               /* calm no more */
    for (uint32_t b = 0; b < 160; b++)
        assert_int_equal(write_block(overlay, b), 0);
    fill(c, 0, 6 * SLOTS);
    pinned = cache_pin(c, 3);
    assert_non_null(pinned);
    assert_pool(6 * BUDGET + 10 * GRANULE_BYTES);

    before = cache_set_counters(caches).given_bytes;
    given = cache_set_give_back(caches, UINT64_MAX);
    assert_in_range(given, 6 * BUDGET / 4 - 2 * MIB, 8 * BUDGET / 4 + 2 * MIB);
    assert_int_equal(cache_set_counters(caches).given_bytes, before + given);
    assert_pool(6 * BUDGET + 10 * GRANULE_BYTES - given);
    assert_int_equal(pinned[0], 3);
    assert_true(ready(c, 3));
    cache_unpin(c, 3);
    for (uint32_t b = 0; b < 160; b++)
        check_block(overlay, b);
    for (uint32_t g = 5 * SLOTS; g < 6 * SLOTS; g++)
        assert_true(ready(c, g)); /* the oldest went */

    while (cache_set_give_back(caches, UINT64_MAX) > 0)
        assert_true(pool_bytes() > (int64_t)(BUDGET - HUGE_PAGE_BYTES));
    assert_pool(BUDGET); /* an eighth of it, and the least there is */
    cache_destroy(c);
    cache_destroy(overlay);
}

/* While it is calm, nobody makes the pool grow who can be served without that. */
static void it_does_not_grow_at_once(void **state)
{
    struct cache *c;
    struct cache_room room;
    int64_t bytes;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 4 * BUDGET), 0);
    c = new_cache("y", OBJECT * GRANULE_BYTES);
    fill(c, 0, 4 * SLOTS);
    assert_true(cache_set_give_back(caches, UINT64_MAX) > 0);
    bytes = pool_bytes();
    fill(c, 4 * SLOTS, 6 * SLOTS);
    assert_pool((uint64_t)bytes);

    /* Who reads ahead does without; who waits, and finds all of it pinned, gets memory. */
    for (uint32_t g = 0; g < 6 * SLOTS; g++) {
        if (ready(c, g))
            assert_non_null(cache_pin(c, g));
    }
    assert_int_equal(cache_room_take(caches, 1, false, &room), -EAGAIN);
    assert_int_equal(cache_room_take(caches, 1, true, &room), 0);
    cache_room_put(caches, &room);
    for (uint32_t g = 0; g < 6 * SLOTS; g++) {
        if (ready(c, g))
            cache_unpin(c, g);
    }
    /* It is over. */
    cache_set_give_back(caches, 1);
    bytes = pool_bytes();
    fill(c, 6 * SLOTS, 8 * SLOTS);
    assert_true(pool_bytes() > bytes);
    cache_destroy(c);
}

/* Neighbours together: what is given back is whole segments, but for a few. */
static void whole_segments_are_given_back(void **state)
{
    struct cache *c;
    uint64_t given, holes = 0;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 8 * BUDGET), 0);
    c = new_cache("y", 2 * OBJECT * GRANULE_BYTES);
    fill(c, 0, 8 * SLOTS);
    for (uint32_t g = 0; g < 8 * SLOTS; g += 2)
        use(c, g); /* it would be spared */
    given = cache_set_give_back(caches, UINT64_MAX);
    for (uint64_t at = 0; at < 8 * BUDGET; at += HUGE_PAGE_BYTES) {
        unsigned char pages[HUGE_PAGE_BYTES / PAGE_BYTES];

        assert_int_equal(mincore(caches->pool->memory + at, HUGE_PAGE_BYTES, pages), 0);
        holes += memchr(pages, 1, sizeof(pages)) ? 0 : HUGE_PAGE_BYTES;
    }
    assert_true(holes >= given * 9 / 10);
    cache_destroy(c);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(a_lower_budget_gives_memory_back),        TEST(dirty_memory_goes_when_it_can),
        TEST(a_quarter_of_what_is_idle_is_given_back), TEST(it_does_not_grow_at_once),
        TEST(whole_segments_are_given_back),
    };

    pages_of_pool = argc > 1 && strcmp(argv[1], "small") == 0 ? HUGE_PAGES_OFF : HUGE_PAGES_THP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

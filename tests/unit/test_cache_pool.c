/* SPDX-License-Identifier: Apache-2.0 */

/* The pool of backing `tiered`: what is evicted and what is not, and who gets room. */
#include "cache_pool_fixture.h"

#include "cache/internal.h"

/* --- granules --- */

static void the_oldest_goes_unless_it_is_used(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);

    (void)state;
    fill(c, 0, SLOTS);
    assert_int_equal(charged(), BUDGET);
    for (uint32_t g = 0; g < 10; g++)
        use(c, g);
    fill(c, SLOTS, SLOTS + 20);
    for (uint32_t g = 0; g < SLOTS + 20; g++)
        assert_int_equal(ready(c, g), g < 10 || g >= 30);
    fill(c, SLOTS + 20, 2 * SLOTS + 20); /* not used again */
    for (uint32_t g = 0; g < 10; g++)
        assert_false(ready(c, g));
    assert_int_equal(cache_set_counters(caches).evicted, SLOTS + 20);
    assert_int_equal(charged(), BUDGET);
    assert_int_equal(pool_bytes(), BUDGET);
    assert_int_equal(cache_allocated_bytes(c), BUDGET);
    cache_destroy(c);
    assert_int_equal(charged(), 0);
    assert_int_equal(pool_bytes(), BUDGET); /* it stays warm */
}

static void what_is_pinned_or_held_stays(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    const unsigned char *pinned;
    struct cache_hold hold;
    void *memory;

    (void)state;
    assert_int_equal(reserve(c, 0, &memory), 0);
    memset(memory, 0, GRANULE_BYTES);
    hold = cache_publish(c, 0);
    fill_granule(c, 1, 1);
    pinned = cache_pin(c, 1);
    fill(c, 2, OBJECT);
    assert_true(ready(c, 0));
    for (size_t i = 0; i < GRANULE_BYTES; i++)
        assert_int_equal(pinned[i], 1);
    cache_unpin(c, 1);
    assert_true(cache_hold_put(caches, hold));
    fill(c, 2, 2 + SLOTS - 10);
    fill(c, 200, 200 + SLOTS);
    assert_false(ready(c, 0));
    assert_false(ready(c, 1));
    cache_destroy(c);
}

static void pins_that_are_in_the_way_do_not_last(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    struct cache_room room;

    (void)state;
    fill(c, 0, SLOTS);
    for (uint32_t g = 0; g < SLOTS; g++)
        assert_non_null(cache_pin(c, g));
    assert_int_equal(cache_room_take(caches, 1, true, &room), -EAGAIN);
    assert_int_equal(cache_room_take(caches, 1, false, &room), -EAGAIN);
    cache_unpin(c, 77);
    assert_int_equal(cache_room_take(caches, 1, true, &room), 0);
    assert_int_equal(cache_room_take(caches, 1, true, &room), -EBUSY);
    assert_true(cache_room_awaited(caches));
    cache_room_put(caches, &room);
    assert_false(ready(c, 77));
    for (uint32_t g = 0; g < SLOTS; g++) {
        if (g != 77)
            cache_unpin(c, g);
    }
    cache_destroy(c);
}

/* Whoever reads ahead takes what is free or cold, and no more than half of what is kept for him. */
static void reading_ahead_is_modest(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    struct cache_room room, more;

    (void)state;
    fill(c, 0, SLOTS);
    for (uint32_t g = 0; g < SLOTS; g++) {
        if (g != 5)
            use(c, g);
    }
    assert_int_equal(cache_room_take(caches, 8, false, &room), 0);
    assert_int_equal(room.granules, 1);
    for (uint32_t g = 0; g < SLOTS; g++)
        assert_int_equal(ready(c, g), g != 5);
    cache_room_put(caches, &room);

    fill(c, SLOTS, 3 * SLOTS); /* all cold */
    assert_int_equal(cache_room_take(caches, RESERVE, false, &room), 0);
    assert_int_equal(room.granules, RESERVE / 2);
    assert_int_equal(cache_room_take(caches, 1, false, &more), -EBUSY);
    assert_int_equal(cache_room_take(caches, RESERVE / 2 + 1, true, &more), -EBUSY);
    assert_int_equal(cache_room_take(caches, RESERVE / 2, true, &more), 0);
    cache_room_put(caches, &room);
    cache_room_put(caches, &more);
    cache_destroy(c);
}

/* --- overlays --- */

static void a_small_write_costs_a_block(void **state)
{
    struct cache *c = new_overlay("x", GIB);

    (void)state;
    for (uint32_t i = 0; i < 320; i++)
        assert_int_equal(write_block(c, i * 7919 % 262144), 0);
    assert_int_equal(charged(), 320 * PAGE_BYTES);
    assert_int_equal(cache_allocated_bytes(c), 320 * PAGE_BYTES);
    for (uint32_t i = 0; i < 320; i++)
        assert_int_equal(write_block(c, i * 7919 % 262144), 0); /* in place */
    assert_int_equal(charged(), 320 * PAGE_BYTES);
    for (uint32_t i = 0; i < 320; i++)
        check_block(c, i * 7919 % 262144);
    cache_destroy(c);
}

static void what_is_dirty_is_never_dropped(void **state)
{
    struct cache *c = new_overlay("x", GIB), *object = new_cache("y", OBJECT * GRANULE_BYTES);
    uint32_t n = 0;
    int r;

    (void)state;
    fill(object, 0, OBJECT);
    while ((r = write_block(c, n)) == 0)
        n++;
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(n, (SLOTS - RESERVE) * 16);
    assert_int_equal(cache_set_counters(caches).refused, 1);
    assert_int_equal(cache_present(c, n * PAGE_BYTES, 1), 0);
    fill(object, 0, SLOTS); /* there is room for these */
    for (uint32_t b = 0; b < n; b++)
        check_block(c, b);
    assert_int_equal(pool_bytes(), BUDGET);

    /* A slot of which one block is left is not free. */
    assert_int_equal(cache_write_zeroes(c, 0, 15 * PAGE_BYTES), 0);
    assert_int_equal(write_block(c, n), -ENOSPC);
    check_block(c, 15);
    assert_int_equal(cache_write_zeroes(c, 15 * PAGE_BYTES, PAGE_BYTES), 0);
    for (uint32_t b = n; b < n + 16; b++)
        assert_int_equal(write_block(c, b), 0);
    assert_int_equal(write_block(c, n + 16), -ENOSPC);
    for (uint32_t b = 16; b < n + 16; b++)
        check_block(c, b);
    cache_destroy(c);
    cache_destroy(object);
}

/* --- what is freed --- */

/* Builds that look for mistakes overwrite what is freed, and what is taken from another. */
static void what_is_freed_is_overwritten(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    const unsigned char *pinned;
    unsigned char *memory;
    struct cache_room room;
    void *fresh;

    (void)state;
    if (!POOL_SCRIBBLES)
        skip();
    fill(c, 1, 2);
    pinned = cache_pin(c, 1);
    assert_non_null(pinned);
    cache_unpin(c, 1);
    cache_destroy(c);
    for (size_t i = 0; i < GRANULE_BYTES; i++)
        assert_int_equal(pinned[i], POOL_SCRIBBLE); /* freed: it is still mapped */

    c = new_cache("x", OBJECT * GRANULE_BYTES);
    fill(c, 0, SLOTS);
    assert_int_equal(cache_room_take(caches, 1, true, &room), 0); /* evicts */
    assert_int_equal(cache_reserve(c, SLOTS, &room, &fresh), 0);
    memory = fresh;
    for (size_t i = 0; i < GRANULE_BYTES; i++)
        assert_int_equal(memory[i], POOL_SCRIBBLE);
    cache_abandon(c, SLOTS);
    cache_room_put(caches, &room);
    cache_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(the_oldest_goes_unless_it_is_used),    TEST(what_is_pinned_or_held_stays),
        TEST(pins_that_are_in_the_way_do_not_last), TEST(reading_ahead_is_modest),
        TEST(a_small_write_costs_a_block),          TEST(what_is_dirty_is_never_dropped),
        TEST(what_is_freed_is_overwritten),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

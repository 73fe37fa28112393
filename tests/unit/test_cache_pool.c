/* SPDX-License-Identifier: Apache-2.0 */

/* The pool of backing `tiered`: what is evicted and what is not, and that it is never too large. */
#include "test_cache.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/thread.h"
#include "cache/internal.h"

#define BUDGET  CACHE_BUDGET_MIN
#define SLOTS   ((uint32_t)(BUDGET / GRANULE_BYTES))
#define RESERVE PASSING_PLACES /* of so small a pool */
#define OBJECT  (8 * SLOTS)    /* granules */

static int set_up(void **state)
{
    (void)state;
    backing = CACHE_BACKING_TIERED;
    caches = new_set(backing, NULL, BUDGET);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    set_is_empty(caches);
    cache_set_destroy(caches);
    return 0;
}

static uint64_t charged(void)
{
    return cache_set_counters(caches).charged_bytes;
}

/* --- granules --- */

static bool ready(struct cache *c, uint32_t granule)
{
    return cache_state(c, granule) == CACHE_READY;
}

static void use(struct cache *c, uint32_t granule)
{
    const unsigned char *pinned = cache_pin(c, granule);

    assert_non_null(pinned);
    assert_int_equal(pinned[GRANULE_BYTES / 2], (unsigned char)granule);
    cache_unpin(c, granule);
}

static void fill(struct cache *c, uint32_t from, uint32_t to)
{
    for (uint32_t g = from; g < to; g++) {
        if (!ready(c, g))
            fill_granule(c, g, (char)g);
    }
}

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

static void pattern(char *block, uint32_t b)
{
    for (size_t i = 0; i < PAGE_BYTES; i += sizeof(b))
        memcpy(block + i, &b, sizeof(b));
}

static void check_block(struct cache *c, uint32_t b)
{
    char expected[PAGE_BYTES], block[PAGE_BYTES];

    pattern(expected, b);
    assert_int_equal(cache_read(c, b * PAGE_BYTES, block, PAGE_BYTES), PAGE_BYTES);
    assert_memory_equal(block, expected, PAGE_BYTES);
}

static int write_block(struct cache *c, uint32_t b)
{
    char block[PAGE_BYTES];

    pattern(block, b);
    return cache_write(c, b * PAGE_BYTES, block, PAGE_BYTES);
}

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
    assert_int_equal(pool_bytes(), 4 * BUDGET);
    pinned = cache_pin(object, 100);
    assert_non_null(pinned);

    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_int_equal(pool_bytes(), BUDGET);
    assert_int_equal(charged(), BUDGET);
    assert_true(ready(object, 4 * SLOTS - 1)); /* the oldest went first */
    assert_false(ready(object, 50));
    assert_int_equal(pinned[0], 100);
    cache_unpin(object, 100);
    for (uint32_t b = 0; b < 160; b++)
        check_block(overlay, b);
    fill(object, 0, 4 * SLOTS);
    assert_int_equal(pool_bytes(), BUDGET);

    assert_int_equal(cache_set_budget(caches, 2 * BUDGET), 0);
    fill(object, 4 * SLOTS, 8 * SLOTS);
    assert_int_equal(pool_bytes(), 2 * BUDGET);
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
    assert_int_equal(pool_bytes(), 3 * BUDGET + RESERVE * GRANULE_BYTES);
    assert_int_equal(write_block(c, n), -ENOSPC);
    fill(object, 0, OBJECT);
    assert_int_equal(pool_bytes(), 3 * BUDGET + RESERVE * GRANULE_BYTES);
    for (uint32_t b = 0; b < n; b++)
        check_block(c, b);
    assert_int_equal(cache_write_zeroes(c, 0, n * PAGE_BYTES), 0);
    assert_int_equal(pool_bytes(), BUDGET);
    cache_destroy(c);
    cache_destroy(object);
}

/* --- when memory is short --- */

static void a_quarter_of_what_is_idle_is_given_back(void **state)
{
    struct cache *overlay = new_overlay("x", GIB), *c;
    const unsigned char *pinned;
    uint64_t given;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 8 * BUDGET), 0);
    c = new_cache("y", 2 * OBJECT * GRANULE_BYTES);
    assert_int_equal(cache_set_give_back(caches, UINT64_MAX), 0); /* there is nothing */
    assert_int_equal(cache_set_budget(caches, 8 * BUDGET), 0);    /* calm no more */
    for (uint32_t b = 0; b < 160; b++)
        assert_int_equal(write_block(overlay, b), 0);
    fill(c, 0, 6 * SLOTS);
    pinned = cache_pin(c, 3);
    assert_non_null(pinned);
    assert_int_equal(pool_bytes(), 6 * BUDGET + 10 * GRANULE_BYTES);

    given = cache_set_give_back(caches, UINT64_MAX);
    assert_in_range(given, 6 * BUDGET / 4 - 2 * MIB, 6 * BUDGET / 4);
    assert_int_equal(cache_set_counters(caches).given_bytes, given);
    assert_int_equal(pool_bytes(), 6 * BUDGET + 10 * GRANULE_BYTES - given);
    assert_int_equal(pinned[0], 3);
    assert_true(ready(c, 3));
    cache_unpin(c, 3);
    for (uint32_t b = 0; b < 160; b++)
        check_block(overlay, b);
    for (uint32_t g = 5 * SLOTS; g < 6 * SLOTS; g++)
        assert_true(ready(c, g)); /* the oldest went */

    while (cache_set_give_back(caches, UINT64_MAX) > 0)
        assert_true(pool_bytes() >= (int64_t)BUDGET);
    assert_int_equal(pool_bytes(), BUDGET); /* an eighth of it, and the least there is */
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
    assert_int_equal(pool_bytes(), bytes);

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

/* Neighbours together: what is given back is whole segments of the file, but for a few. */
static void whole_segments_are_given_back(void **state)
{
    struct cache *c;
    uint64_t given, holes = 0;
    off_t at = 0, hole;
    int fd;

    (void)state;
    assert_int_equal(cache_set_budget(caches, 8 * BUDGET), 0);
    c = new_cache("y", 2 * OBJECT * GRANULE_BYTES);
    fill(c, 0, 8 * SLOTS);
    for (uint32_t g = 0; g < 8 * SLOTS; g += 2)
        use(c, g); /* it would be spared */
    given = cache_set_give_back(caches, UINT64_MAX);
    assert_int_equal(find_fds("/memfd:thaw:pool", &fd), 1);
    while ((hole = lseek(fd, at, SEEK_HOLE)) < (off_t)(8 * BUDGET)) {
        uint64_t first = round_up((uint64_t)hole, 2 * MIB);

        at = lseek(fd, hole, SEEK_DATA);
        assert_true(at > hole);
        holes += round_down(MAX((uint64_t)at, first), 2 * MIB) - first;
    }
    assert_true(holes >= given * 9 / 10);
    cache_destroy(c);
}

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

/* --- everything at once: bytes of another tenant would be seen --- */

#define THREADS  16u
#define OBJECTS  3u
#define GRANULES (4u * SLOTS / OBJECTS) /* of each: together four times the pool */
#define CHANGES  400u

static struct cache *objects[OBJECTS];
static _Atomic(unsigned) served;
static _Atomic(bool) over;

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

static uint64_t stamp(unsigned object, uint32_t granule)
{
    return (uint64_t)(object + 1) << 32 | granule;
}

static void serve(unsigned o, uint32_t g)
{
    const uint64_t *pinned = cache_pin(objects[o], g);

    if (!pinned)
        return;
    for (size_t i = 0; i < GRANULE_BYTES / sizeof(*pinned); i += 97)
        assert_true(pinned[i] == stamp(o, g));
    cache_unpin(objects[o], g);
    atomic_fetch_add_explicit(&served, 1, memory_order_relaxed);
}

static void fetch(unsigned o, uint32_t g, bool demand, bool succeed)
{
    struct cache_room room;
    void *memory;

    if (cache_room_take(caches, 1 + g % 3, demand, &room) < 0)
        return;
    if (cache_reserve(objects[o], g, &room, &memory) == 0) {
        for (size_t i = 0; i < GRANULE_BYTES / sizeof(uint64_t); i++)
            ((uint64_t *)memory)[i] = stamp(o, g);
        if (succeed) {
            struct cache_hold hold = cache_publish(objects[o], g);

            serve(o, g);
            cache_hold_put(caches, hold);
        } else {
            cache_abandon(objects[o], g);
        }
    }
    cache_room_put(caches, &room);
}

static void *use_granules(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;

    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        unsigned o = next(&seed) % OBJECTS;
        uint32_t g = next(&seed) % GRANULES;

        if (cache_state(objects[o], g) == CACHE_READY)
            serve(o, g);
        else
            fetch(o, g, next(&seed) % 4, next(&seed) % 8);
    }
    return NULL;
}

/* An overlay of its own, and at times all of a cache of its own. */
static void *change_blocks(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;

    for (unsigned round = 0; !atomic_load_explicit(&over, memory_order_relaxed); round++) {
        struct cache *c = new_overlay("z", 8 * MIB);
        bool dirty[2048] = {false};

        for (unsigned i = 0; i < CHANGES; i++) {
            uint32_t b = next(&seed) % ARRAY_SIZE(dirty);

            if (dirty[b])
                check_block(c, b);
            if (i % 3 == 2) {
                assert_int_equal(cache_write_zeroes(c, b * PAGE_BYTES, PAGE_BYTES), 0);
                dirty[b] = false;
            } else {
                int r = write_block(c, b);

                assert_true(r == 0 || r == -ENOSPC);
                dirty[b] |= r == 0;
            }
        }
        for (uint32_t b = 0; b < ARRAY_SIZE(dirty); b++) {
            if (dirty[b])
                check_block(c, b);
        }
        cache_destroy(c);
    }
    return NULL;
}

static void *create_and_close(void *arg)
{
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        struct cache *c = new_cache("w", 32 * GRANULE_BYTES);

        for (uint32_t g = 0; g < 32; g++) {
            struct cache_room room;
            void *memory;

            if (cache_room_take(caches, 1, true, &room) < 0)
                continue;
            assert_int_equal(cache_reserve(c, g, &room, &memory), 0);
            memset(memory, (int)g, GRANULE_BYTES);
            if (g % 2)
                cache_hold_put(caches, cache_publish(c, g));
            else
                cache_publish(c, g);
        }
        cache_destroy(c);
    }
    return arg;
}

static void nobody_reads_what_is_anothers(void **state)
{
    pthread_t t[THREADS];
    unsigned lowered = 0;

    (void)state;
    atomic_store(&over, false);
    atomic_store(&served, 0);
    for (unsigned o = 0; o < OBJECTS; o++)
        objects[o] = new_cache("x", GRANULES * GRANULE_BYTES);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&t[i], "user",
                                      i < 2   ? change_blocks
                                      : i < 3 ? create_and_close
                                              : use_granules,
                                      (void *)(i + 1)),
                         0);
    while (atomic_load(&served) < 20000) {
        uint64_t budget = lowered++ % 2 ? BUDGET : BUDGET + BUDGET / 2;

        assert_int_equal(cache_set_budget(caches, budget), 0);
        if (lowered % 4 == 0)
            cache_set_give_back(caches, lowered % 8 ? UINT64_MAX : 1);
        for (unsigned i = 0; i < 50; i++) {
            assert_true(pool_bytes() <= (int64_t)(BUDGET + BUDGET / 2));
            sched_yield();
        }
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < THREADS; i++)
        thread_join(t[i]);
    assert_true(cache_set_counters(caches).evicted > 0);
    assert_false(cache_room_awaited(caches));
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_true(pool_bytes() <= (int64_t)BUDGET);
    for (unsigned o = 0; o < OBJECTS; o++)
        cache_destroy(objects[o]);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(the_oldest_goes_unless_it_is_used),
        TEST(what_is_pinned_or_held_stays),
        TEST(pins_that_are_in_the_way_do_not_last),
        TEST(reading_ahead_is_modest),
        TEST(a_small_write_costs_a_block),
        TEST(what_is_dirty_is_never_dropped),
        TEST(a_lower_budget_gives_memory_back),
        TEST(dirty_memory_goes_when_it_can),
        TEST(what_is_freed_is_overwritten),
        TEST(a_quarter_of_what_is_idle_is_given_back),
        TEST(it_does_not_grow_at_once),
        TEST(whole_segments_are_given_back),
        TEST(nobody_reads_what_is_anothers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

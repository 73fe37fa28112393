/* SPDX-License-Identifier: Apache-2.0 */

/* The pool of backing `tiered` with everything at once: bytes of another tenant would be seen. */
#include "cache_pool_fixture.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/thread.h"

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
    const struct CMUnitTest tests[] = {
        TEST(nobody_reads_what_is_anothers),
    };

    pages_of_pool = HUGE_PAGES_THP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

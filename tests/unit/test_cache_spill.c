/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An overlay that spills, and everybody else: who reads it, who brings back what has been spilled,
 * and who takes the memory for something else. Nobody reads what is another's.
 */
#include <stdatomic.h>

#include "../lib/test_random.h"
#include "spilling_fixture.h"

#define BLOCKS  2500u /* more than the pool has room for */
#define CHANGES 3000u
#define OTHERS  300u /* granules of somebody else */

static struct io_engine *io;
static struct cache *others;
static _Atomic(bool) over;
static _Atomic(unsigned) seen, brought;

static void set_up_spill(void)
{
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    spilling_open(io, BLOCKS);
    others = new_cache("others", OTHERS * GRANULE_BYTES);
}

static void tear_down_spill(void)
{
    cache_destroy(others);
    spilling_close();
    io_engine_destroy(io);
}

/* --- the others --- */

static void *read_along(void *arg)
{
    struct test_random rng = {(uintptr_t)arg};
    static _Thread_local uint64_t buf[3][PAGE_BYTES / 8];

    while (!atomic_load(&over)) {
        uint64_t block = test_random_below(&rng, BLOCKS - 3);
        size_t n = 1 + test_random_below(&rng, 3);
        ssize_t r = cache_read(overlay, block * PAGE_BYTES, buf, n * PAGE_BYTES);

        assert_true(r == -ENODATA || r == (ssize_t)(n * PAGE_BYTES));
        for (size_t i = 0; i < n && r > 0; i++)
            check_block(buf[i], block + i);
        atomic_fetch_add(&seen, r > 0);
    }
    return NULL;
}

static void read_back(uint32_t granule, void *memory)
{
    struct iovec iov = {memory, GRANULE_BYTES};
    struct sync_read s = {.waited = WAITED_INIT,
                          .read = {.file = file,
                                   .first = granule,
                                   .count = 1,
                                   .iov = &iov,
                                   .iov_count = 1,
                                   .done = sync_read_done}};

    tier_read(&s.read);
    /* Nobody has removed it since it was reserved and found there. */
    assert_int_equal(waited_for(&s.waited), 0);
    assert_int_equal(sums_of(memory, GRANULE_BYTES), s.read.sums[0]);
    cache_hold_put(caches, cache_publish(spilled, granule));
    atomic_fetch_add(&brought, 1);
}

/* As the fetcher does it. */
static void *bring_back(void *arg)
{
    struct test_random rng = {(uintptr_t)arg};

    while (!atomic_load(&over)) {
        uint32_t granule = (uint32_t)test_random_below(&rng, 400);
        struct cache_room room;
        void *memory;

        if (cache_room_take(caches, 1, true, &room) < 0)
            continue;
        if (cache_reserve(spilled, granule, &room, &memory) == 0) {
            if (tier_has(file, granule))
                read_back(granule, memory);
            else
                cache_unreserve(spilled, granule, &room);
        }
        cache_room_put(caches, &room);
    }
    return NULL;
}

static void *want_memory(void *arg)
{
    struct test_random rng = {(uintptr_t)arg};

    while (!atomic_load(&over)) {
        uint32_t granule = (uint32_t)test_random_below(&rng, OTHERS);
        const unsigned char *pinned = cache_pin(others, granule);
        struct cache_room room;
        void *memory;

        if (pinned) {
            assert_int_equal(pinned[test_random_below(&rng, GRANULE_BYTES)], 0xee);
            cache_unpin(others, granule);
            continue;
        }
        if (cache_room_take(caches, 1, true, &room) < 0)
            continue;
        if (cache_reserve(others, granule, &room, &memory) == 0) {
            memset(memory, 0xee, GRANULE_BYTES);
            cache_hold_put(caches, cache_publish(others, granule));
        }
        cache_room_put(caches, &room);
    }
    return NULL;
}

/* --- the owner --- */

static void change(struct test_random *rng, uint32_t version)
{
    unsigned n = 1 + (unsigned)test_random_below(rng, 40);
    uint64_t first = test_random_below(rng, BLOCKS - n);

    if (test_random_below(rng, 4) == 0)
        assert_int_equal(cache_write_zeroes(overlay, first * PAGE_BYTES, n * PAGE_BYTES), 0);
    else
        write_blocks(first, n, version);
    mailbox_deliver(&inbox);
}

static void nobody_reads_what_is_anothers(void **state)
{
    static void *(*const roles[])(void *) = {read_along, read_along, bring_back, want_memory};
    pthread_t t[ARRAY_SIZE(roles)];
    struct test_random rng = {3};
    struct cache_spill_counters n;

    (void)state;
    set_up_spill();
    for (uintptr_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "other", roles[i], (void *)(i + 1)), 0);
    for (uint32_t i = 0; i < CHANGES || atomic_load(&seen) < 100 || atomic_load(&brought) < 100;
         i++)
        change(&rng, i);
    atomic_store(&over, true);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        thread_join(t[i]);
    n = cache_spill_counters(overlay);
    assert_int_equal(n.failures, 0);
    assert_true(n.written_bytes > 4 * CACHE_BUDGET_MIN);
    tear_down_spill();
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(nobody_reads_what_is_anothers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An overlay that spills, and everybody else: who reads it, who brings back what has been spilled,
 * and who takes the memory for something else. Nobody reads what is another's.
 */
#include "cache/spill.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <string.h>

#include "../lib/test_random.h"
#include "base/mailbox.h"
#include "test_cache.h"
#include "tier_traffic.h"

#define BLOCKS  2500u /* more than the pool has room for */
#define CHANGES 3000u
#define OTHERS  300u /* granules of somebody else */

static struct io_engine *io;
static struct tier *tier;
static struct tier_file *file;
static struct cache *overlay, *spilled, *others;
static struct mailbox inbox;
static bool resumed;
static _Atomic(bool) over;
static _Atomic(unsigned) seen, brought;

static void resume(void *arg)
{
    (void)arg;
    resumed = true;
}

static void set_up_spill(void)
{
    uint32_t granules = cache_spill_granules(BLOCKS * PAGE_BYTES);
    struct cache_spill_options to = {.inbox = &inbox, .resume = resume};

    cache_folder = scratch_make();
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    assert_int_equal(cache_set_create(
                         &(struct cache_set_options){
                             .backing = CACHE_BACKING_TIERED,
                             .folder = cache_folder,
                             .io = io,
                             .budget_bytes = CACHE_BUDGET_MIN,
                         },
                         &caches, NULL),
                     0);
    tier = cache_set_tier(caches);
    assert_int_equal(mailbox_init(&inbox), 0);
    assert_int_equal(tier_file_create(tier, granules, &file), 0);
    spilled = new_cache("spilled", granules * GRANULE_BYTES);
    others = new_cache("others", OTHERS * GRANULE_BYTES);
    overlay = new_overlay("overlay", BLOCKS * PAGE_BYTES);
    to.tier = tier;
    to.file = file;
    to.granules = spilled;
    assert_int_equal(cache_spill_start(overlay, &to), 0);
}

static void await_message(void)
{
    struct pollfd p = {.fd = inbox.event_fd, .events = POLLIN};

    assert_true(poll(&p, 1, 60000) > 0);
    mailbox_deliver(&inbox);
}

static void tear_down_spill(void)
{
    cache_spill_stop(overlay);
    while (cache_spill_under_way(overlay) > 0)
        await_message();
    cache_destroy(overlay);
    cache_destroy(others);
    cache_destroy(spilled);
    tier_file_close(file);
    set_is_empty(caches);
    cache_set_destroy(caches);
    io_engine_destroy(io);
    mailbox_finish(&inbox);
    scratch_remove(cache_folder);
}

/* --- the others --- */

static uint64_t word_of(uint64_t block, uint32_t version)
{
    return (block + 1) << 32 | version;
}

/* Words of the block, of whatever version, or zeros. */
static void check_block(const uint64_t *words, uint64_t block)
{
    for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++)
        assert_true(words[i] == 0 || words[i] >> 32 == block + 1);
}

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

static void write_blocks(uint64_t first, unsigned n, uint32_t version)
{
    static uint64_t buf[40][PAGE_BYTES / 8];
    uint64_t patience = 0;
    int r;

    for (unsigned i = 0; i < n; i++) {
        for (size_t k = 0; k < PAGE_BYTES / 8; k++)
            buf[i][k] = word_of(first + i, version);
    }
    while ((r = cache_write(overlay, first * PAGE_BYTES, buf, n * PAGE_BYTES)) == -ENOSPC) {
        assert_true(cache_await_room(overlay, &patience));
        for (resumed = false; !resumed;)
            await_message();
    }
    assert_int_equal(r, 0);
}

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

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_SPILLING_FIXTURE_H
#define THAW_TESTS_SPILLING_FIXTURE_H

/* An overlay that spills, in the smallest budget, without a disk or a fetcher around it. */

#include <errno.h>
#include <poll.h>
#include <string.h>

#include "base/mailbox.h"
#include "cache/spill.h"
#include "test_cache.h"
#include "tier_traffic.h"

static struct tier *tier;
static struct tier_file *file;
static struct cache *overlay, *spilled;
static struct mailbox inbox;
static bool resumed;

static inline void resume(void *arg)
{
    (void)arg;
    resumed = true;
}

/** spilling_open() - an overlay of so many blocks, whose file is read by @io */
static inline void spilling_open(struct io_engine *io, uint64_t blocks)
{
    uint32_t granules = cache_spill_granules(blocks * PAGE_BYTES);
    struct cache_spill_options to = {.inbox = &inbox, .resume = resume};
    struct cache_set_options options = {.backing = CACHE_BACKING_TIERED,
                                        .io = io,
                                        .budget_bytes = CACHE_BUDGET_MIN,
                                        .huge = HUGE_PAGES_OFF};

    options.folder = cache_folder = scratch_make();
    assert_int_equal(cache_set_create(&options, &caches, NULL), 0);
    tier = cache_set_tier(caches);
    assert_int_equal(mailbox_init(&inbox), 0);
    assert_int_equal(tier_file_create(tier, granules, &file), 0);
    spilled = new_cache("spilled", granules * GRANULE_BYTES);
    overlay = new_overlay("overlay", blocks * PAGE_BYTES);
    to.tier = tier;
    to.file = file;
    to.granules = spilled;
    assert_int_equal(cache_spill_start(overlay, &to), 0);
}

static inline void await_message(void)
{
    struct pollfd p = {.fd = inbox.event_fd, .events = POLLIN};

    assert_true(poll(&p, 1, 60000) > 0);
    mailbox_deliver(&inbox);
}

/** spills_land() - until nothing is on its way to the file any more */
static inline void spills_land(void)
{
    while (cache_spill_under_way(overlay) > 0)
        await_message();
}

static inline void spilling_close(void)
{
    cache_spill_stop(overlay);
    spills_land();
    cache_destroy(overlay);
    cache_destroy(spilled);
    tier_file_close(file);
    set_is_empty(caches);
    cache_set_destroy(caches);
    mailbox_finish(&inbox);
    scratch_remove(cache_folder);
}

/* --- what is in a block: its number and a version in each word, or zeros --- */

static inline uint64_t word_of(uint64_t block, uint32_t version)
{
    return (block + 1) << 32 | version;
}

/** check_block() - words of the block, of whatever version, or zeros */
static inline void check_block(const uint64_t *words, uint64_t block)
{
    for (size_t i = 0; i < PAGE_BYTES / sizeof(*words); i++)
        assert_true(words[i] == 0 || words[i] >> 32 == block + 1);
}

/** write_blocks() - up to 40, in one write, which may have to wait for room */
static inline void write_blocks(uint64_t first, unsigned n, uint32_t version)
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

#endif

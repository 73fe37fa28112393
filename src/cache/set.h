/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_SET_H
#define THAW_CACHE_SET_H

/*
 * What all caches of a process share: how their bytes are kept, and how much memory that may take.
 * The control thread makes one and hands it to whoever creates caches.
 *
 * The budget counts memory: of backing `memfd` each granule and each dirty block, of backing `file`
 * nothing, as its pages are the kernel's to take back. Of backing `tiered` it is the size of a pool
 * in which whatever was not used for long makes room (pool.h). When that of `memfd` is spent,
 * overlays get -ENOSPC, and granules that are fetched are passing: they are served, and dropped
 * again when the place is needed for another one. PASSING_PLACES of them are set aside in the
 * budget, so that it holds.
 *
 * Whoever fills a granule takes room for it first, which may take memory from passing granules and
 * is therefore not done under a lock. A passing granule that was fetched for somebody is held until
 * he has come for it: so each one that is fetched serves somebody, however many ask.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "kernel/huge_pages.h"

struct cache_set;
struct io_engine;
struct memory_limit;
struct thaw_error;
struct tier;

enum cache_backing {
    CACHE_BACKING_MEMFD,
    CACHE_BACKING_FILE,
    CACHE_BACKING_TIERED,
    CACHE_BACKINGS
};
enum cache_kind { CACHE_KIND_READ_THROUGH, CACHE_KIND_OVERLAY, CACHE_KINDS };

#define PASSING_PLACES   64u
#define CACHE_BUDGET_MIN (2 * GRANULE_BYTES * PASSING_PLACES)

/** cache_backing_name() - "memfd", "file", "tiered" */
const char *cache_backing_name(enum cache_backing backing);

/** cache_backing_parse() - the backing of that name; 0 or -EINVAL */
[[gnu::warn_unused_result]] int cache_backing_parse(const char *name, enum cache_backing *ret);

/**
 * struct cache_set_options - all zero is a good choice, but for the disk tier
 * @folder: for the files of backing `file` and of the disk tier, made if it is not there; NULL: the
 *          usual one (folder.h)
 * @io: for backing `tiered`: what its disk tier reads with; NULL: no disk tier
 * @disk_bytes: how large the disk tier may become; 0: see tier.h
 * @budget_bytes: at least CACHE_BUDGET_MIN; 0: cache_budget_default() of now
 * @huge: for backing `tiered`: what its memory shall be in, as far as the host has it
 */
struct cache_set_options {
    enum cache_backing backing;
    const char *folder;
    struct io_engine *io;
    uint64_t disk_bytes;
    uint64_t budget_bytes;
    enum huge_pages huge;
};

/**
 * cache_budget_default() - a quarter of what the host has available, but no more than the memory
 * cgroups leave, and at least CACHE_BUDGET_MIN
 */
uint64_t cache_budget_default(const struct memory_limit *limit);

/** cache_set_create() - blocks. Returns: 0 or -errno with the reason in @e. */
[[gnu::warn_unused_result]] int cache_set_create(const struct cache_set_options *options,
                                                 struct cache_set **ret, struct thaw_error *e);

/** cache_set_destroy() - all caches must have been destroyed. NULL is allowed. */
void cache_set_destroy(struct cache_set *set);

DEFINE_CLEANUP(struct cache_set, cache_set_destroy);
#define CLEANUP_CACHE_SET CLEANUP(cleanup_cache_set_destroy)

/** cache_set_tier() - its disk tier, borrowed; NULL if there is none */
struct tier *cache_set_tier(const struct cache_set *set);

/**
 * cache_set_budget() - another budget from now on. Any thread.
 *
 * If it is less than what is taken already, `tiered` gives back all of it that is not in use or
 * dirty, which blocks; `memfd` throws nothing away, but nothing more is kept.
 * Returns: 0, or -EINVAL if it is less than CACHE_BUDGET_MIN.
 */
[[gnu::warn_unused_result]] int cache_set_budget(struct cache_set *set, uint64_t bytes);

/**
 * cache_set_give_back() - the host is short of memory. Any thread; may block.
 *
 * Of backing `tiered` a quarter of what is not in use is given back: pool_give_back(). Others have
 * nothing that can be. Returns how many bytes it was.
 */
uint64_t cache_set_give_back(struct cache_set *set, uint64_t calm_until_ns);

/**
 * struct cache_set_counters
 * @bytes: taken now by the caches of each kind, the passing granules among them; not what overlays
 *         have spilled, of which memory may hold copies of the other kind
 * @charged_bytes: of these, what is charged to the budget; the share of passing granules is not.
 *                 Of `tiered` whole slots, which may have less in them
 * @passing_bytes: of these, passing
 * @not_kept: granules that were served, but not kept, since the start
 * @evicted: those of them that have been dropped for another one; of `tiered` all that have been
 * @refused: writes to overlays that got -ENOSPC for want of budget
 * @given_bytes: given back because the host was short of memory, since the start
 * @spilled_bytes: written to files of overlays since the start, whole granules (spill.h)
 * @paced: writes to overlays that had to wait until something was
 */
struct cache_set_counters {
    enum cache_backing backing;
    uint64_t budget_bytes;
    uint64_t bytes[CACHE_KINDS];
    uint64_t charged_bytes;
    uint64_t passing_bytes;
    uint64_t not_kept;
    uint64_t evicted;
    uint64_t refused;
    uint64_t given_bytes;
    uint64_t spilled_bytes;
    uint64_t paced;
};

/** cache_set_counters() - a snapshot. Any thread. */
struct cache_set_counters cache_set_counters(const struct cache_set *set);

/** cache_set_huge_bytes() - how much of its memory is in huge pages now; a slow question */
uint64_t cache_set_huge_bytes(const struct cache_set *set);

/* --- room --- */

/** struct cache_room - for @granules granules that shall be reserved; all zero: for none */
struct cache_room {
    uint32_t granules;
    bool passing;  /* they will not be kept */
    uint32_t slot; /* in a pool: the first one of a list */
};

/**
 * cache_room_take() - room for @granules more. Any thread, under no lock.
 * @demand: somebody waits; others leave half of the places to those, and may get less
 *
 * Returns: 0; -EBUSY if there is none before somebody puts back room or a hold, or publishes or
 * abandons; -EAGAIN if pins are all that is in the way, which do not last.
 */
[[gnu::warn_unused_result]] int cache_room_take(struct cache_set *set, uint32_t granules,
                                                bool demand, struct cache_room *ret);

/** cache_room_put() - give back what has not been used of it; it is empty then */
void cache_room_put(struct cache_set *set, struct cache_room *room);

/** cache_room_awaited() - whether room or a hold is still to be put back by somebody */
bool cache_room_awaited(struct cache_set *set);

/* --- holds --- */

/**
 * struct cache_hold - keeps one passing granule from being dropped; all zero keeps none
 *
 * Not a pin: it keeps no cache from being closed, and may be put back after that.
 */
struct cache_hold {
    uint32_t place;
    uint64_t age;
};

/** cache_hold_share() - one more like @hold. Any thread. */
struct cache_hold cache_hold_share(struct cache_set *set, struct cache_hold hold);

/** cache_hold_put() - Any thread. Returns whether there was something to put back. */
bool cache_hold_put(struct cache_set *set, struct cache_hold hold);

#endif

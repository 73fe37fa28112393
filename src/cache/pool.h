/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_POOL_H
#define THAW_CACHE_POOL_H

/*
 * The pool of backing `tiered`: slots of GRANULE_BYTES, in anonymous memory. It is the memory
 * budget: no more slots have memory than the budget allows. Memory that has been touched is kept,
 * as used memory is several times faster than fresh; another granule takes its place without any
 * system call. Memory is given back for a lower budget, and when the host is short of it; where it
 * can be in segments of 2 MiB, which are a huge page: then up to 31 slots more than was to be given
 * back go with them (pool_thp.c). Of a pool in huge pages of the host's pool (hugetlb)
 * nothing but whole segments is given back, for a lower budget only, and what is in use keeps the
 * rest of its segment: it may stay larger than a lower budget (pool_huge.c).
 *
 *             take                publish               last hold put
 *     free ----------> claimed ------------> held ----------------------> queued
 *      ^  \               |                                                 |
 *      |   \ take, dirty  | put              evicted: straight into a claim |
 *      |    v             v                                                 v
 *      +--- dirty        free                                            claimed
 *
 * claimed: room of somebody, or being filled. held and queued: a granule is in it which is ready,
 * and somebody waits for it, or nobody does. dirty: of an overlay, which alone says when it is
 * free.
 *
 * Who may read a slot, and when it can be another's. The word of a granule (internal.h) is the only
 * thing that readers and whoever evicts have in common:
 *
 *     reader:  word ready(n) -> ready(n + 1), used    by compare-and-swap, acquire
 *              where the granule is (its slot) is read after that, then the slot itself
 *              word ready(n + 1) -> ready(n)          release
 *     evictor: word ready(0) -> absent                by compare-and-swap, acquire; under the lock
 *              then the slot is the evictor's
 *
 * One of the two swaps comes first and the other one fails, or sees the pin. So whoever has pinned
 * reads a slot that is the granule's until it unpins, and whoever has evicted owns a slot that
 * nobody reads. A word that is absent can be filled at once, in another slot. tests/model/pool.pml
 * says the same to a model checker.
 *
 * Which one is evicted: the queue is a clock. The oldest goes, unless it was pinned since it was
 * looked at last; then it goes to the end. A granule comes in unused, so what was read ahead and
 * not used goes before what was used twice.
 *
 * Why nobody starves: no more than pool_reserve() slots are ever claimed or held, and overlays
 * leave as many; so whoever finds them all taken waits for claims and holds, which end by
 * themselves, and if none is, there are queued ones. Of these, only pinned ones cannot be had, and
 * pins are short.
 *
 * Any thread. One leaf lock; no system call is made under it. Of a pool in hugetlb, who takes slots
 * may wait for a segment to be made: one system call, which clears a huge page.
 */

#include <stdint.h>

#include "base/units.h"
#include "cache/set.h"
#include "kernel/huge_pages.h"

struct cache;
struct pool;
struct segment;

#define POOL_NONE UINT32_MAX                /* no slot */
#define POOL_MOST ((UINT32_C(1) << 27) - 1) /* slots: 8 TiB, as places of blocks have 31 bits */

/**
 * enum pool_use - what slots are taken for
 *
 * POOL_BACKGROUND takes what is free or has not been used for a while, and leaves half of the
 * reserve to POOL_DEMAND, which takes whatever is not pinned. POOL_DIRTY leaves all of it.
 */
enum pool_use { POOL_DEMAND, POOL_BACKGROUND, POOL_DIRTY };

/**
 * pool_create() - in transparent huge pages its thread begins to make a few segments; else nothing
 * is allocated but tables. Returns: 0 or -errno.
 * @huge: what its memory shall be in; where that cannot be had, it is in small pages
 */
[[gnu::warn_unused_result]] int pool_create(uint64_t budget_bytes, enum huge_pages huge,
                                            struct pool **ret);

/** pool_destroy() - nothing is taken any more. NULL is allowed. */
void pool_destroy(struct pool *p);

/**
 * pool_resize() - another budget. May block.
 *
 * If it is lower, what is not in use is given back at once, the oldest first; the rest when its use
 * ends. What is dirty stays, be it more than the budget, until it has been spilled.
 */
void pool_resize(struct pool *p, uint64_t budget_bytes);

/**
 * pool_give_back() - the host is short of memory: give back a quarter of what is not in use. May
 * block.
 * @calm_until_ns: of clock_now_ns(); until then a granule is evicted before the pool grows, which
 *                 it does only for who would be refused else, and never for reading ahead
 *
 * What is free goes first, then granules by the clock, each with the rest of its segment if nobody
 * uses that; neither what is pinned, held or dirty. An eighth of the budget stays, and
 * CACHE_BUDGET_MIN, or in transparent huge pages up to 31 slots less. Another budget ends the calm.
 * Returns how many bytes it was.
 */
uint64_t pool_give_back(struct pool *p, uint64_t calm_until_ns);

/** pool_memory() - where all slots are: slot s is at s * GRANULE_BYTES. To read and write. */
char *pool_memory(const struct pool *p);

/**
 * pool_take() - @slots of them, linked by pool_next() from *@ret on; the caller's, with any content
 *
 * Slots whose memory is adjacent come in order where possible.
 *
 * Returns: how many, which is @slots but for POOL_BACKGROUND. -EBUSY: none before a claim or a hold
 * ends; -EAGAIN: pins are in the way, or all is used; try again. For POOL_DIRTY both are -ENOSPC.
 */
[[gnu::warn_unused_result]] int pool_take(struct pool *p, uint32_t slots, enum pool_use use,
                                          uint32_t *ret);

/** pool_next() - the slot after @slot in a list of claimed ones; POOL_NONE after the last one */
uint32_t pool_next(const struct pool *p, uint32_t slot);

/** pool_link() - make @next the one after @slot; both are the caller's */
void pool_link(struct pool *p, uint32_t slot, uint32_t next);

/** pool_put() - free claimed slots, a list of them */
void pool_put(struct pool *p, uint32_t first);

/** pool_put_dirty() - free slots that were taken for POOL_DIRTY, a list of them */
void pool_put_dirty(struct pool *p, uint32_t first);

/** pool_publish() - a claimed slot has granule @granule of @c, about to be ready; with one hold */
struct cache_hold pool_publish(struct pool *p, uint32_t slot, struct cache *c, uint32_t granule);

/** pool_forget() - @c is closed, and nobody has a pin: free the slot of one of its granules */
void pool_forget(struct pool *p, uint32_t slot);

/** pool_settle() - from now on nobody evicts a granule of a cache whose words allow none */
void pool_settle(struct pool *p);

struct cache_hold pool_hold_share(struct pool *p, struct cache_hold hold);
bool pool_hold_put(struct pool *p, struct cache_hold hold);

/** pool_awaited() - whether anything is claimed or held */
bool pool_awaited(struct pool *p);

/* --- what is dirty, for src/cache/segments.c --- */

/** pool_segment() - what the holder of a dirty slot notes about it */
struct segment *pool_segment(struct pool *p, uint32_t slot);

/** pool_dirty_most() - how many slots may be dirty: all but the reserve */
uint32_t pool_dirty_most(struct pool *p);

/**
 * pool_adopt() - a dirty slot is the one of granule @granule of @c, which is ready: it is queued
 *
 * Nobody reads it but under pins of that granule any more.
 */
void pool_adopt(struct pool *p, uint32_t slot, struct cache *c, uint32_t granule);

/**
 * pool_drop() - evict one granule of @c, as nobody will ask for it any more
 *
 * For whoever sees to it that @c is not closed until this has returned. Returns: whether it is
 * absent: not if it is pinned, being filled, or ready in a slot that is still dirty.
 */
[[gnu::warn_unused_result]] bool pool_drop(struct pool *p, struct cache *c, uint32_t granule);

struct pool_counters {
    uint64_t used_bytes;   /* slots that are not free */
    uint64_t memory_bytes; /* slots that have memory */
    uint64_t evicted;
    uint64_t given_bytes; /* by pool_give_back() */
};

struct pool_counters pool_counters(struct pool *p);

/** pool_huge_bytes() - how much of its memory is in huge pages now. Control path: may be slow. */
uint64_t pool_huge_bytes(struct pool *p);

#endif

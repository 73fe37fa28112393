/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_SPILL_H
#define THAW_CACHE_SPILL_H

/*
 * Overlays of backing `tiered` that write more than memory holds: full segments of the log
 * (segments.h) go to a file of the disk tier, sixteen at a time in one write, the oldest first. The
 * slot with the segment becomes, as it is, the memory of a granule of a read-through cache, that of
 * the file: it can be pinned, evicted, and fetched again like a granule of any object.
 *
 * Spilling begins when half of the overlay's share of the pool is dirty, two writes at a time at
 * most. The share is the same for each overlay of the set. At the end of it a write gets -ENOSPC,
 * and its owner asks cache_await_room() whether there will be some.
 *
 * An overlay that is written for the first time makes the share of the others smaller: they are
 * told, by message, and spill what they have beyond that, so that none that rests keeps memory from
 * others.
 *
 * What is said of the owner is of the thread that reads @inbox.
 */

#include <stdbool.h>
#include <stdint.h>

struct cache;
struct mailbox;
struct tier;
struct tier_file;

/**
 * struct cache_spill_options - where to
 * @file: from tier_file_create(), of cache_spill_granules()
 * @granules: the read-through cache of what is in it, of as many granules; nobody else fills them
 *            but from @file
 * @inbox: of the owner
 * @resume: called on the owner's thread: those may write again who awaited room
 *
 * All are borrowed, and must outlive the overlay's cache.
 */
struct cache_spill_options {
    struct tier *tier;
    struct tier_file *file;
    struct cache *granules;
    struct mailbox *inbox;
    void (*resume)(void *arg);
    void *arg;
};

/** cache_spill_granules() - how many the file of an overlay of that size needs: 0 for none */
uint32_t cache_spill_granules(uint64_t size_bytes);

/**
 * cache_spill_start() - let an overlay spill that nothing has been written to. The owner, before
 * others know the cache.
 *
 * From then on it is closed by the owner only, after cache_spill_stop(), when
 * cache_spill_under_way() is 0. Who has written nothing can do without.
 * Returns: 0, -ENOMEM.
 */
[[gnu::warn_unused_result]] int cache_spill_start(struct cache *c,
                                                  const struct cache_spill_options *o);

/** cache_spill_stop() - the end: others send no messages any more. The owner only. */
void cache_spill_stop(struct cache *c);

/** cache_spill_under_way() - messages that will still come to the inbox. The owner only. */
unsigned cache_spill_under_way(const struct cache *c);

/**
 * cache_await_room() - a write got -ENOSPC: will there be room? The owner only.
 * @patience: of that write: 0 when it asks for the first time
 *
 * Spills what there is if nothing is being spilled.
 *
 * Returns: true, and resume() will be called; false: there is no hope, be it that a spill has
 * failed since this write first asked. Always false for overlays that do not spill.
 */
[[gnu::warn_unused_result]] bool cache_await_room(struct cache *c, uint64_t *patience);

/** struct cache_spilled - where bytes are that have been spilled */
struct cache_spilled {
    uint32_t granule;
    uint32_t offset;
};

/**
 * cache_spilled_run() - whether dirty bytes at @off have been spilled. The owner only.
 * @ret_bytes: for how many of @len_bytes, which are dirty, the answer holds
 *
 * Returns: true, and where, within one granule; false: cache_dirty_memory() has them.
 */
bool cache_spilled_run(const struct cache *c, uint64_t off, uint64_t len_bytes,
                       struct cache_spilled *ret, uint64_t *ret_bytes);

/**
 * struct cache_spill_counters - of one overlay
 * @disk_bytes: in its file now; @written_bytes: to it, since the start
 * @paced: writes that had to wait for room; @failures: writes to the file that failed
 */
struct cache_spill_counters {
    uint64_t disk_bytes;
    uint64_t written_bytes;
    uint64_t paced;
    uint64_t failures;
};

/** cache_spill_counters() - a snapshot. Any thread, until the cache is closed. */
struct cache_spill_counters cache_spill_counters(const struct cache *c);

#endif

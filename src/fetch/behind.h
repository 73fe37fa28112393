/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FETCH_BEHIND_H
#define THAW_FETCH_BEHIND_H

/*
 * Write-behind: what has come from the store is written to the disk tier, later, by the tier's
 * thread, when the disk has nothing better to do.
 *
 * Nobody waits for that, and nothing is kept for it: a queue says which granules came, in order,
 * and those that are still in memory when their turn comes are pinned, written, and unpinned. When
 * the disk cannot keep up, granules are gone by then, or the queue is full. Then they are not
 * written, and that is counted.
 *
 * The pins do not count as use: what is only written is as cold as before.
 *
 * Lock: behind.mu, a leaf.
 */

#include <stdint.h>

#include "base/cleanup.h"

struct behind;
struct fetch_object;
struct tier;

/** behind_create() - begin to write to @tier, which is borrowed; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int behind_create(struct tier *tier, struct behind **ret);

/** behind_destroy() - no object is left; what has not been written is not. NULL is allowed. */
void behind_destroy(struct behind *b);

/** behind_add() - granules that have just been published. Any thread; not under a lock. @b may be
 * NULL. */
void behind_add(struct behind *b, struct fetch_object *o, uint32_t first, uint32_t count);

/** behind_forget() - have no more to do with @o; waits for the write that is under way. @b may be
 * NULL. */
void behind_forget(struct behind *b, struct fetch_object *o);

/**
 * struct behind_counters
 * @queued: granules that wait to be written
 * @dropped: that were not written, since they were gone, the queue was full or the disk failed
 */
struct behind_counters {
    uint64_t queued;
    uint64_t dropped;
};

/** behind_counters() - a snapshot. Any thread. @b may be NULL. */
struct behind_counters behind_counters(struct behind *b);

#endif

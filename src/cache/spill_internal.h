/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_SPILL_INTERNAL_H
#define THAW_CACHE_SPILL_INTERNAL_H

/* Between spill.c and the rest of src/cache. The owner only, unless it says otherwise. */

#include <stddef.h>
#include <stdint.h>

#include "cache/segments.h"
#include "cache/spill.h"
#include "cache/tiered.h"

struct spill;

/** spilled_at() - what the place of the block at @off says, which has been spilled */
static inline struct cache_spilled spilled_at(uint32_t place, uint64_t off)
{
    uint32_t block = place & ~PLACE_SPILLED;

    return (struct cache_spilled){
        block / SEGMENT_BLOCKS,
        (uint32_t)(block % SEGMENT_BLOCKS * PAGE_BYTES + off % PAGE_BYTES),
    };
}

/** spill_destroy() - nothing is under way. NULL is allowed. */
void spill_destroy(struct spill *s);

/** spill_share() - how many slots the overlay may have */
uint32_t spill_share(const struct spill *s);

/** spill_pump() - spill if it is time to; while the owner is in a call */
void spill_pump(struct spill *s);

/** spill_settled() - slots have been given up: who found no room before may find some now */
void spill_settled(struct spill *s);

/** spill_release() - the block that was at @place in the file is dead */
void spill_release(struct spill *s, uint32_t place);

/** spill_adopt() - @slot, of a segment that has landed in @granule, is read by its place no more */
void spill_adopt(struct spill *s, uint32_t slot, uint32_t granule);

/** spill_bytes() - on the disk. Any thread. */
uint64_t spill_bytes(const struct spill *s);

/**
 * spill_copy() - bytes of one granule. Any thread.
 *
 * Returns: 0; -ENODATA if that granule is not in memory. The caller looks again whether it still is
 * the place, before it uses what it has got.
 */
[[gnu::warn_unused_result]] int spill_copy(const struct spill *s, struct cache_spilled at,
                                           void *buf, size_t len);

/**
 * spill_load() - all of a granule: GRANULE_BYTES, page-aligned, compared with its sum. Any thread
 * but the owner and those of I/O; blocks.
 *
 * Returns: 0, -EBADMSG if it is not what was written, -EIO and the like.
 */
[[gnu::warn_unused_result]] int spill_load(const struct spill *s, uint32_t granule, void *buf);

#endif

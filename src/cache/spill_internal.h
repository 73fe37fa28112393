/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_SPILL_INTERNAL_H
#define THAW_CACHE_SPILL_INTERNAL_H

/*
 * Between the parts of spilling and the rest of src/cache: spill.c writes, spill_room.c says when
 * and who waits, spill_read.c reads. The owner only, unless it says otherwise.
 */

#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "cache/numbers.h"
#include "cache/segments.h"
#include "cache/spill.h"
#include "cache/tier.h"
#include "cache/tiered.h"

#define SPILL_WRITES 2u /* under way at a time */

/* One write of full segments to the file. */
struct spill_write {
    struct tier_write write;
    struct message came; /* its end, to the owner */
    struct spill *spill;
    uint32_t slots[TIER_WRITE_GRANULES];
    int result;
    bool busy;
};

/*
 * A granule of the file is
 *
 *     free --lend--> being written --land--> spilled --last block dead--> retired --dropped--> free
 *       ^                  |
 *       +------failed------+
 *
 * retired: it may still be pinned, or be on its way from the file, or in a segment that somebody
 * may look at. It is not forgotten before that has ended, so that who reads it reads what it was.
 */
struct spill {
    struct cache *overlay;         /* borrowed, as all of these: it owns this */
    struct cache_spill_options to; /* what it points to is borrowed */
    struct numbers numbers;        /* granules of the file that are free */
    uint32_t *blocks;              /* owned: of a spilled granule, how many of its blocks are live;
                                      of a retired one, the next of them */
    size_t blocks_bytes;
    uint32_t retired; /* the first of them, or NONE */
    struct spill_write writes[SPILL_WRITES];
    struct message nudge;      /* something may have changed */
    _Atomic(bool) nudged;      /* [a] it is on its way */
    struct spill *next, *prev; /* [m] set.spills_mu */
    bool listed;               /* the owner's: others may nudge us */
    bool stopped;
    _Atomic(bool) starving; /* [a] we wait for what others spill */
    bool awaited;           /* somebody waits for room */
    bool settled;           /* there may be some that nobody has tried to get */
    bool failing;           /* the last write has failed */
    uint64_t failures;
    uint64_t live;                   /* spilled blocks that are live; the owner's, as all above */
    _Atomic(uint64_t) written_bytes; /* [a] counters: relaxed */
    _Atomic(uint64_t) paced;
    _Atomic(uint64_t) failed;
};

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

/* --- spill.c, for spill_room.c --- */

unsigned spill_writes_under_way(const struct spill *s);

/** spill_clean() - move what is left of the oldest full segments, if it is not worth writing */
void spill_clean(const struct spill *s);

/**
 * spill_start() - write the oldest full segments
 *
 * Returns: 1; 0 if there is nothing to be written, or no number for it; -EAGAIN.
 */
[[gnu::warn_unused_result]] int spill_start(struct spill *s);

/* --- spill_room.c, for spill.c --- */

/** spill_is_due() - half of an even share may stay dirty. While the disk fails, only who needs room
 * tries it. */
bool spill_is_due(const struct spill *s);

/** spill_enlist() - with the first write: tell the others that their shares are smaller */
void spill_enlist(struct spill *s);

/** spill_landed() - a write has come back: whoever waits tries again. Not in a call. */
void spill_landed(struct spill *s);

/** spill_nudge_came() - something may have changed; a message's deliver function */
void spill_nudge_came(struct message *m);

#endif

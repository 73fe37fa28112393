/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_SEGMENTS_H
#define THAW_CACHE_SEGMENTS_H

/*
 * The log of an overlay in a pool: what the guest writes is packed, in the order in which it comes,
 * into segments, each of which is a slot of the pool and takes SEGMENT_BLOCKS blocks.
 *
 *                      full                begin            wrote            nobody looks on
 *     free --> OPEN ---------> FULL ----------------> LENT ---------> LANDED ------> a clean
 * granule ^        |               | ^                   | |                            of the file
 *      |        | no block      | +------ failed -----+ | failed, or
 *      |        v is left       v                       v no block is left
 *      +----- IDLE <------------+<----------------------+
 *     nobody looks on
 *
 * A place says where a block is. It has one live place; what was there before it was written anew
 * is dead. Blocks of OPEN and FULL segments are written over where they are. One that is LENT is
 * being written to a file, so that what its blocks hold must not change: who writes one of them
 * gets a new place. The same goes for blocks that have been spilled: their places say where in the
 * file they are (spill.h), and whatever memory holds of that is a granule like others.
 *
 * Invariants. A place in memory is of an OPEN, FULL or LENT segment, and `blocks` of that segment
 * says so, too. `live` counts those. IDLE and LANDED segments have none, but others than the owner
 * may have looked one up before and still be reading it: the owner gives them up when it has seen
 * that nobody else is in a call. All of it is the owner's, but places and the number of slots,
 * which all may read.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

struct memory;
struct spill;

#define SEGMENT_BLOCKS (uint32_t)(GRANULE_BYTES / PAGE_BYTES)

enum segment_state { SEGMENT_OPEN, SEGMENT_FULL, SEGMENT_LENT, SEGMENT_LANDED, SEGMENT_IDLE };

/* What the owner notes of a slot: pool_segment(). */
struct segment {
    uint32_t prev, next; /* FULL: the older and the younger one */
    uint32_t granule;    /* LANDED: of the file */
    uint8_t state;       /* enum segment_state */
    uint8_t live;        /* places that are in it */
    uint32_t blocks[SEGMENT_BLOCKS];
};

/** log_create() - an empty one for @m, which has its table of places; 0 or -errno */
[[gnu::warn_unused_result]] int log_create(struct memory *m);

/** log_destroy() - give up all slots. Nobody is in a call, no segment is lent. NULL is allowed. */
void log_destroy(struct memory *m);

/** log_write() - as memory_write(); -ENOSPC when the pool or the overlay's share of it is spent */
[[gnu::warn_unused_result]] int log_write(const struct memory *m, uint64_t off, const void *buf,
                                          size_t len);

/** log_drop() - the blocks have no place any more */
void log_drop(const struct memory *m, uint64_t off, uint64_t len);

/** log_waits() - whether there are segments to be given up once nobody else looks on */
bool log_waits(const struct memory *m);

/** log_settle() - give them up. Nobody but the owner is in a call. */
void log_settle(const struct memory *m);

/** log_bytes() - the slots of an overlay. Any thread. */
int64_t log_bytes(const struct memory *m);

/** log_spill() - how the overlay spills, or NULL; log_set_spill() - with the log from then on */
struct spill *log_spill(const struct memory *m);
void log_set_spill(const struct memory *m, struct spill *s);

/* --- for spill.c --- */

/** log_full() - how many FULL segments there are; log_oldest() - the oldest of them */
uint32_t log_full(const struct memory *m);
uint32_t log_oldest(const struct memory *m);

/**
 * log_clean() - move what is live in a FULL segment to the end of the log, if it is not much
 *
 * Returns: whether it was done, and the segment is idle: not if more than half of it is live, or
 * there is no memory to move it to.
 */
[[gnu::warn_unused_result]] bool log_clean(const struct memory *m, uint32_t slot);

/** log_lend() - FULL to LENT */
void log_lend(const struct memory *m, uint32_t slot);

/**
 * log_land() - LENT to LANDED: its blocks are in granule @granule of the file, which is ready
 *
 * Returns: how many of them are live.
 */
uint32_t log_land(const struct memory *m, uint32_t slot, uint32_t granule);

/** log_take_back() - LENT to FULL, as the oldest; or IDLE if nothing in it is live */
void log_take_back(const struct memory *m, uint32_t slot);

#endif

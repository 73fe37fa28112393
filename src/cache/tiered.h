/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_TIERED_H
#define THAW_CACHE_TIERED_H

/*
 * What memory in a pool has beyond what every backing has: a table that says where each piece is.
 *
 * The place of a granule is its slot, plus one. That of a block is the block of the pool, plus one;
 * or, with PLACE_SPILLED, the block of the overlay's file. 0: nowhere.
 */

#include <stdatomic.h>
#include <stdint.h>

#include "cache/memory.h"

#define PLACE_SPILLED (UINT32_C(1) << 31)

static inline uint32_t tiered_place(const struct memory *m, uint64_t piece)
{
    /* Acquire pairs with the release below: who finds a block finds what was written there. */
    return atomic_load_explicit(&m->places[piece], memory_order_acquire);
}

static inline void tiered_set_place(const struct memory *m, uint64_t piece, uint32_t place)
{
    atomic_store_explicit(&m->places[piece], place, memory_order_release);
}

/** tiered_set_slot() - a granule that is being filled is in @slot, from now on; its memory */
static inline void *tiered_set_slot(const struct memory *m, uint32_t granule, uint32_t slot)
{
    tiered_set_place(m, granule, slot + 1);
    return m->fill + slot * GRANULE_BYTES;
}

/** tiered_slot() - where a granule is, that is being filled or ready; POOL_NONE: never was */
static inline uint32_t tiered_slot(const struct memory *m, uint32_t granule)
{
    return tiered_place(m, granule) - 1;
}

/**
 * tiered_run() - the place at @off, and how far it goes on
 * @ret_bytes: how many of @len bytes follow each other there
 *
 * Looks at each place once, so that it can be told apart from what the owner makes of it later.
 */
uint32_t tiered_run(const struct memory *m, uint64_t off, uint64_t len, uint64_t *ret_bytes);

#endif

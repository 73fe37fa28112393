/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_SET_INTERNAL_H
#define THAW_CACHE_SET_INTERNAL_H

/* What a set is made of: its accounts (set.c) and its passing granules (passing.c). */

#include <stdatomic.h>

#include "base/thread.h"
#include "cache/set.h"

/* A granule that is ready and will not be kept. */
struct passing {
    struct cache *cache; /* borrowed: it leaves before it is closed; NULL: the entry is free */
    uint32_t granule;
    uint32_t holds;
    uint64_t age; /* no two entries ever have the same; 0 for none */
};

struct pool;
struct spill;

struct cache_set {
    enum cache_backing backing;
    bool charged;                          /* the backing takes memory that has a budget */
    int folder;                            /* owned: of backing file, else -1 */
    struct pool *pool;                     /* owned: of backing tiered, else NULL */
    struct tier *tier;                     /* owned: of the same, if it has one */
    _Atomic(uint64_t) budget;              /* [a] relaxed, as all of these: they are numbers */
    _Atomic(uint64_t) charged_bytes;       /* [a] kept, or about to be; never raised beyond
                                              budget - SET_ASIDE */
    _Atomic(uint64_t) bytes[CACHE_KINDS];  /* [a] */
    _Atomic(uint64_t) passing_bytes;       /* [a] */
    _Atomic(uint64_t) not_kept;            /* [a] */
    _Atomic(uint64_t) evicted;             /* [a] */
    _Atomic(uint64_t) refused;             /* [a] */
    _Atomic(uint32_t) overlays;            /* [a] that are open: they share the pool */
    _Atomic(uint64_t) spilled_bytes;       /* [a] since the start */
    _Atomic(uint64_t) spilled_live;        /* [a] of bytes[CACHE_KIND_OVERLAY], in files now */
    _Atomic(uint64_t) paced;               /* [a] */
    pthread_mutex_t spills_mu;             /* messages are posted under it */
    struct spill *spills;                  /* [m] spills_mu: overlays that may be nudged */
    _Atomic(uint32_t) spilling;            /* [a] seq_cst with starving: writes under way */
    _Atomic(uint32_t) starving;            /* [a] overlays that wait for what others spill */
    pthread_mutex_t mu;                    /* a leaf */
    struct passing places[PASSING_PLACES]; /* [m] mu: those which are ready */
    uint32_t claimed;                      /* [m] mu: places of room, and of fills under way */
    uint64_t last_age;                     /* [m] mu */
};

/** set_charge() - against the budget, if there is one; false if it is spent */
[[gnu::warn_unused_result]] bool set_charge(struct cache_set *set, uint64_t bytes);

void set_discharge(struct cache_set *set, uint64_t bytes);

static inline void set_count(_Atomic(uint64_t) *counter, int64_t n)
{
    atomic_fetch_add_explicit(counter, (uint64_t)n, memory_order_relaxed);
}

/* --- passing.c --- */

/** passing_take() - claim places, dropping what is in them: see cache_room_take() */
[[gnu::warn_unused_result]] int passing_take(struct cache_set *set, uint32_t places, bool demand);

/** passing_put() - places that were claimed are free again */
void passing_put(struct cache_set *set, uint32_t places);

/** passing_add() - @granule takes one of the places that were claimed; with one hold */
struct cache_hold passing_add(struct cache_set *set, struct cache *c, uint32_t granule);

/** passing_forget() - @c is closed, and nobody uses it: none of its granules stays in a place */
void passing_forget(struct cache_set *set, struct cache *c);

#endif

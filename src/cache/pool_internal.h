/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_POOL_INTERNAL_H
#define THAW_CACHE_POOL_INTERNAL_H

/* What a pool is made of. pool.c: who has which slot; pool_memory.c: which slots have memory;
 * pool_thp.c: that it is in huge pages; pool_huge.c: the same with pages of hugetlb. */

#include "base/thread.h"
#include "base/units.h"
#include "cache/pool.h"

#define POOL_SEGMENT_SLOTS                                                                         \
    32u /* a huge page of 2 MiB; memory is given back by these if it can be */

/* A slot's list and neighbours are its holder's while it is claimed or dirty, else under the lock.
 */
struct slot {
    struct cache *cache; /* [m] mu: borrowed, of the granule in it; it leaves before it is closed */
    uint64_t age;        /* [m] mu: no two contents have the same; 0 for none */
    uint32_t granule;    /* [m] mu */
    uint32_t holds : 30; /* [m] mu */
    uint32_t is_free : 1; /* [m] mu: in the list `free` */
    uint32_t leaving : 1; /* [m] mu: its memory is, or is going to be, given back */
    uint32_t next, prev;
};

struct list {
    uint32_t first, last, count;
};

#define LIST_INIT                                                                                  \
    {                                                                                              \
        POOL_NONE, POOL_NONE, 0                                                                    \
    }

/* Of a pool that is in huge pages of the host's pool; see pool_huge.c. */
struct pool_huge {
    int fd;             /* owned; -1: it is not */
    pthread_mutex_t mu; /* one segment is made at a time; before pool.mu; system calls under it */
    uint32_t end;       /* slots from here on are none */
    bool *segments;     /* owned; [m] pool.mu: which are one */
    uint32_t count;     /* [m] pool.mu: how many */
    bool making;        /* [m] pool.mu: nobody else takes what is fresh */
    bool over;          /* [m] pool.mu: the host had no more */
};

/* Of a pool in transparent ones; see pool_thp.c. */
struct pool_thp {
    pthread_t thread;
    bool started;        /* before and after the pool is used */
    pthread_cond_t wake; /* there may be something to make, or it shall stop; with pool.mu */
    bool stop;           /* [m] pool.mu */
    pthread_mutex_t mu; /* memory is merged, or given back; before pool.mu; system calls under it */
    bool *advised;      /* owned: [m] mu: for each segment whether the kernel may make it huge */
};

struct pool {
    char *memory;       /* owned: slot_count slots, all mapped, few of them touched at first */
    struct slot *slots; /* owned */
    struct segment *segments; /* owned: one a slot, of which those are touched that were dirty */
    uint32_t slot_count;
    pthread_mutex_t mu;  /* a leaf */
    uint32_t limit;      /* [m] mu: slots that may have memory */
    uint32_t live;       /* [m] mu: slots that have; above the limit only after it was lowered */
    uint32_t fresh;      /* [m] mu: from here on none was ever used */
    struct list free;    /* [m] mu: they have memory */
    struct list surplus; /* [m] mu: free, and their memory is to be given back */
    uint32_t giving;     /* [m] mu: how many are being given back now */
    struct list gone;    /* [m] mu: their memory was given back */
    struct list queue;   /* [m] mu: the clock */
    uint32_t claimed, held, dirty; /* [m] mu: how many there are */
    uint64_t calm_until_ns;        /* [m] mu: memory is short: grow only for who waits; 0: no */
    uint64_t given_bytes;          /* [m] mu: because memory was short */
    uint64_t last_age;             /* [m] mu */
    uint64_t evicted;              /* [m] mu */
    bool transparent;              /* in transparent huge pages, which the operator allows */
    uint8_t *gone_of;              /* owned: [m] mu: how many slots of each segment are in `gone` */
    struct pool_thp thp;
    struct pool_huge huge;
};

/* --- lists --- */

static inline void link_between(struct pool *p, struct list *l, uint32_t s, uint32_t prev,
                                uint32_t next)
{
    p->slots[s].prev = prev;
    p->slots[s].next = next;
    *(prev == POOL_NONE ? &l->first : &p->slots[prev].next) = s;
    *(next == POOL_NONE ? &l->last : &p->slots[next].prev) = s;
    l->count++;
}

static inline void push_last(struct pool *p, struct list *l, uint32_t s)
{
    link_between(p, l, s, l->last, POOL_NONE);
}

static inline void unlink_slot(struct pool *p, struct list *l, uint32_t s)
{
    uint32_t prev = p->slots[s].prev, next = p->slots[s].next;

    *(prev == POOL_NONE ? &l->first : &p->slots[prev].next) = next;
    *(next == POOL_NONE ? &l->last : &p->slots[next].prev) = prev;
    l->count--;
}

static inline uint32_t pop_first(struct pool *p, struct list *l)
{
    uint32_t s = l->first;

    if (s != POOL_NONE)
        unlink_slot(p, l, s);
    return s;
}

static inline void push_surplus(struct pool *p, uint32_t s)
{
    p->slots[s].leaving = 1;
    push_last(p, &p->surplus, s);
}

static inline void push_gone(struct pool *p, uint32_t s)
{
    p->slots[s].leaving = 0;
    push_last(p, &p->gone, s);
    p->gone_of[s / POOL_SEGMENT_SLOTS]++;
}

static inline void unlink_gone(struct pool *p, uint32_t s)
{
    unlink_slot(p, &p->gone, s);
    p->gone_of[s / POOL_SEGMENT_SLOTS]--;
}

/** pool_evict_locked() - a granule's slot, out of the queue; or POOL_NONE */
uint32_t pool_evict_locked(struct pool *p);

/** pool_evict_slot_locked() - this one, which is in the queue; false if it cannot be had now */
[[gnu::warn_unused_result]] bool pool_evict_slot_locked(struct pool *p, uint32_t slot);

/** pool_is_calm_locked() - whether memory was short a moment ago */
bool pool_is_calm_locked(struct pool *p);

/** pool_excess_locked() - how many slots more have memory than may have */
uint32_t pool_excess_locked(const struct pool *p);

/* --- pool_memory.c --- */

/** pool_map() - address space, that costs nothing, for any budget that makes sense. 0 or -errno. */
[[gnu::warn_unused_result]] int pool_map(struct pool *p, uint64_t budget_bytes);

/** pool_is_idle() - free, or of a granule that nobody waits for; which may be pinned all the same
 */
static inline bool pool_is_idle(const struct slot *s)
{
    return s->is_free || (s->cache && s->holds == 0);
}

/** pool_map_small() - new small pages for these slots, which are lost. 0 or -errno. */
[[gnu::warn_unused_result]] int pool_map_small(const struct pool *p, uint32_t first, uint32_t end);

/** pool_empty_segment() - give the memory of all its slots back; what comes there is small pages.
 * Under thp.mu. */
void pool_empty_segment(struct pool *p, uint32_t first);

void pool_unmap(struct pool *p);

/** pool_limit() - how many slots a budget is */
uint32_t pool_limit(const struct pool *p, uint64_t budget_bytes);

/** pool_shrink() - give back what is more than the limit allows, as far as it is not in use. May
 * block. */
void pool_shrink(struct pool *p);

/** pool_give_surplus() - give the memory of surplus slots back. Not under the lock. */
void pool_give_surplus(struct pool *p);

/* --- pool_thp.c --- */

/** pool_thp_start() - its thread, if the pool is in transparent huge pages. It can do without. */
void pool_thp_start(struct pool *p);

/** pool_thp_stop() - and wait for its end */
void pool_thp_stop(struct pool *p);

/** pool_thp_look_locked() - slots were taken, or allowed: wake the thread if it shall make some */
void pool_thp_look_locked(struct pool *p);

/* --- pool_huge.c --- */

/** pool_huge_init() - for a pool without; pool_huge_open() may follow, and pool_huge_finish() must
 */
void pool_huge_init(struct pool *p);

/** pool_huge_open() - slots are in huge pages from now on, if the host has them. 0 or -errno. */
[[gnu::warn_unused_result]] int pool_huge_open(struct pool *p);

void pool_huge_finish(struct pool *p);

/**
 * pool_huge_grow_locked() - before @slots are taken: make segments, until nothing that is fresh is
 * needed for them, or it is small pages
 *
 * Lets go of the lock meanwhile.
 */
void pool_huge_grow_locked(struct pool *p, uint32_t slots);

/** pool_fresh_is_small() - whether a slot that was never used may be, without a segment being made
 */
bool pool_fresh_is_small(const struct pool *p);

/**
 * enum pool_give - what segments are given back for
 *
 * POOL_GIVE_EXCESS: the budget, if they are more. POOL_GIVE_HOST: a host that is short of memory,
 * to which huge pages of the host's pool are no help: only those of small ones.
 */
enum pool_give { POOL_GIVE_EXCESS, POOL_GIVE_HOST };

/** pool_huge_give() - @most slots, or a few more, in whole segments; returns how many. May block.
 */
uint32_t pool_huge_give(struct pool *p, uint32_t most, enum pool_give why);

/** pool_huge_give_segment() - the one of @slot; whether that could be done. May block. */
bool pool_huge_give_segment(struct pool *p, uint32_t slot, enum pool_give why);

#endif

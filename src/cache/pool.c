/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/pool.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "cache/internal.h"
#include "cache/pool_internal.h"
#include "cache/segments.h"
#include "cache/tiered.h"

#define LOOKS          128u /* used ones that are passed over for one that is not */
#define RESERVE_ENOUGH 256u /* slots for what is being fetched; half of them for read-ahead */

/* --- life --- */

int pool_create(uint64_t budget_bytes, enum huge_pages huge, struct pool **ret)
{
    struct pool *p = calloc(1, sizeof(*p));
    char why_not[HUGE_PAGES_WHY_BYTES];
    int r;

    if (!p)
        return -ENOMEM;
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->thp.wake, NULL);
    pthread_mutex_init(&p->thp.mu, NULL);
    p->free = p->surplus = p->gone = p->queue = (struct list)LIST_INIT;
    pool_huge_init(p);
    r = pool_map(p, budget_bytes);
    if (r < 0) {
        pool_destroy(p);
        return r;
    }
    p->limit = pool_limit(p, budget_bytes);
    p->transparent = huge == HUGE_PAGES_THP && !huge_pages_missing("", huge, budget_bytes, why_not);
    if (huge == HUGE_PAGES_HUGETLB)
        (void)!pool_huge_open(p); /* small pages will do */
    pool_thp_start(p);
    *ret = p;
    return 0;
}

void pool_destroy(struct pool *p)
{
    if (!p)
        return;
    pool_thp_stop(p);
    assert(p->claimed == 0 && p->held == 0 && p->dirty == 0 && p->queue.count == 0);
    pool_unmap(p);
    pool_huge_finish(p);
    pthread_mutex_destroy(&p->thp.mu);
    pthread_cond_destroy(&p->thp.wake);
    pthread_mutex_destroy(&p->mu);
    free(p);
}

char *pool_memory(const struct pool *p)
{
    return p->memory;
}

uint32_t pool_next(const struct pool *p, uint32_t slot)
{
    return p->slots[slot].next;
}

void pool_link(struct pool *p, uint32_t slot, uint32_t next)
{
    p->slots[slot].next = next;
}

struct segment *pool_segment(struct pool *p, uint32_t slot)
{
    return &p->segments[slot];
}

/* Builds that look for mistakes: whoever reads a slot that is not his reads this. */
static void scribble(const struct pool *p, uint32_t first)
{
    if (!POOL_SCRIBBLES)
        return;
    for (uint32_t s = first; s != POOL_NONE; s = p->slots[s].next)
        memset(p->memory + s * GRANULE_BYTES, POOL_SCRIBBLE, GRANULE_BYTES);
}

/* --- how many --- */

/* Kept from overlays for what is being fetched: in a small pool, too, as much as a disk needs to
 * have asked of it. */
static uint32_t reserve_locked(const struct pool *p)
{
    uint32_t enough = MIN(p->limit / 4, RESERVE_ENOUGH);

    return MAX(MAX(p->limit / 8, enough), PASSING_PLACES);
}

/* Slots that may have memory: more than the limit only as far as they are dirty. */
static uint32_t most_locked(const struct pool *p)
{
    return MAX(p->limit, p->dirty + reserve_locked(p));
}

uint32_t pool_excess_locked(const struct pool *p)
{
    uint32_t live = p->live - p->surplus.count - p->giving, most = most_locked(p);

    return live > most ? live - most : 0;
}

/* Frees a list, in front of the others and in its order. */
static void untake_locked(struct pool *p, uint32_t first)
{
    uint32_t last = POOL_NONE, next;

    for (; first != POOL_NONE; first = next) {
        next = p->slots[first].next;
        if (p->huge.fd < 0 && pool_excess_locked(p) > 0) {
            push_surplus(p, first);
            continue;
        }
        link_between(p, &p->free, first, last,
                     last == POOL_NONE ? p->free.first : p->slots[last].next);
        p->slots[first].is_free = 1;
        last = first;
    }
}

/* --- taking --- */

/* How to look for one that can be evicted. */
struct search {
    uint32_t chances; /* how many used ones to spare */
    uint32_t looks;   /* after which to give up */
};

/* Goes twice around, if it must: the second time whatever is not pinned will do. */
static struct search any_locked(const struct pool *p)
{
    return (struct search){LOOKS, LOOKS + p->queue.count};
}

/* Once around at most: what it has spared is not taken right away. */
static struct search cold_locked(const struct pool *p)
{
    return (struct search){LOOKS, MIN(LOOKS, p->queue.count)};
}

static enum granule_eviction evict_one_locked(struct pool *p, uint32_t s, bool spare)
{
    enum granule_eviction e = granule_evict(p->slots[s].cache, p->slots[s].granule, spare);

    if (e == GRANULE_EVICTED) {
        p->slots[s].cache = NULL;
        p->slots[s].age = 0;
        p->evicted++;
    }
    return e;
}

/* A granule's slot, out of the queue; or POOL_NONE. */
static uint32_t evict_locked(struct pool *p, struct search *search)
{
    for (; search->looks > 0 && p->queue.count > 0; search->looks--) {
        uint32_t s = pop_first(p, &p->queue);

        if (evict_one_locked(p, s, search->chances > 0) == GRANULE_EVICTED) {
            search->looks--;
            return s;
        }
        search->chances -= search->chances > 0;
        push_last(p, &p->queue, s);
    }
    return POOL_NONE;
}

uint32_t pool_evict_locked(struct pool *p)
{
    struct search any = any_locked(p);

    return evict_locked(p, &any);
}

bool pool_evict_slot_locked(struct pool *p, uint32_t slot)
{
    if (evict_one_locked(p, slot, false) != GRANULE_EVICTED)
        return false;
    unlink_slot(p, &p->queue, slot);
    return true;
}

static uint32_t grow_locked(struct pool *p)
{
    uint32_t s;

    if (p->live >= p->limit || (p->gone.count == 0 && p->fresh == p->slot_count))
        return POOL_NONE;
    assert(p->gone.count > 0 || pool_fresh_is_small(p));
    p->live++;
    if (p->gone.count == 0)
        return p->fresh++;
    s = p->gone.first;
    unlink_gone(p, s);
    return s;
}

bool pool_is_calm_locked(struct pool *p)
{
    if (p->calm_until_ns > 0 && p->calm_until_ns <= clock_now_ns())
        p->calm_until_ns = 0;
    return p->calm_until_ns > 0;
}

static uint32_t take_one_locked(struct pool *p, struct search *search, bool only_cold)
{
    uint32_t s = pop_first(p, &p->free);

    if (s != POOL_NONE)
        p->slots[s].is_free = 0;
    if (s == POOL_NONE && !pool_is_calm_locked(p))
        s = grow_locked(p);
    if (s == POOL_NONE)
        s = evict_locked(p, search);
    if (s == POOL_NONE && !only_cold)
        s = grow_locked(p); /* somebody waits, and the budget allows it */
    return s;
}

/* How many more may be taken for @use, at most @slots. */
static uint32_t allowed_locked(const struct pool *p, uint32_t slots, enum pool_use use)
{
    uint32_t reserve = reserve_locked(p), most, taken;

    if (use == POOL_DIRTY) {
        most = p->limit - reserve;
        taken = p->dirty;
    } else {
        most = use == POOL_DEMAND ? reserve : reserve / 2;
        taken = p->claimed + p->held;
    }
    if (taken + slots <= most)
        return slots;
    return use == POOL_BACKGROUND && taken < most ? most - taken : 0;
}

/* A list of up to @slots in *@ret; returns how many. */
static uint32_t take_list_locked(struct pool *p, uint32_t slots, bool only_cold, uint32_t *ret)
{
    struct search search = cold_locked(p);
    uint32_t last = POOL_NONE, n = 0;

    *ret = POOL_NONE;
    for (; n < slots; n++) {
        uint32_t s;

        if (!only_cold)
            search = any_locked(p);
        s = take_one_locked(p, &search, only_cold);
        if (s == POOL_NONE)
            break;
        p->slots[s].next = POOL_NONE;
        *(last == POOL_NONE ? ret : &p->slots[last].next) = s;
        last = s;
    }
    return n;
}

static int take_locked(struct pool *p, uint32_t slots, enum pool_use use, uint32_t *ret)
{
    uint32_t wanted = allowed_locked(p, slots, use), n, first;

    if (wanted == 0)
        return use == POOL_DIRTY ? -ENOSPC : -EBUSY;
    n = take_list_locked(p, wanted, use == POOL_BACKGROUND, &first);
    if (n < slots && (n == 0 || use != POOL_BACKGROUND)) {
        untake_locked(p, first);
        if (use == POOL_DIRTY)
            return -ENOSPC;
        return use == POOL_DEMAND && p->claimed + p->held > 0 ? -EBUSY : -EAGAIN;
    }
    *(use == POOL_DIRTY ? &p->dirty : &p->claimed) += n;
    *ret = first;
    return (int)n;
}

int pool_take(struct pool *p, uint32_t slots, enum pool_use use, uint32_t *ret)
{
    int r;

    mutex_lock(&p->mu);
    pool_huge_grow_locked(p, slots);
    r = take_locked(p, slots, use, ret);
    pool_thp_look_locked(p);
    mutex_unlock(&p->mu);
    if (r > 0)
        scribble(p, *ret);
    return r;
}

/* --- freeing --- */

/* After @n slots were freed, @slot among them, while the pool is larger than its budget. */
static void give_excess(struct pool *p, uint32_t slot, uint32_t n)
{
    if (p->huge.fd < 0)
        pool_give_surplus(p);
    else if (n == 1)
        (void)pool_huge_give_segment(p, slot, POOL_GIVE_EXCESS);
    else
        pool_shrink(p); /* they may be of several segments */
}

static void put(struct pool *p, uint32_t first, uint32_t *count)
{
    uint32_t n = 0;
    bool excess;

    scribble(p, first);
    for (uint32_t s = first; s != POOL_NONE; s = p->slots[s].next)
        n++;
    mutex_lock(&p->mu);
    *count -= n;
    untake_locked(p, first);
    excess = p->surplus.count > 0 || pool_excess_locked(p) > 0;
    mutex_unlock(&p->mu);
    if (excess)
        give_excess(p, first, n);
}

void pool_put(struct pool *p, uint32_t first)
{
    put(p, first, &p->claimed);
}

void pool_put_dirty(struct pool *p, uint32_t first)
{
    put(p, first, &p->dirty);
}

/* --- what is ready --- */

struct cache_hold pool_publish(struct pool *p, uint32_t slot, struct cache *c, uint32_t granule)
{
    struct slot *s = &p->slots[slot];
    LOCK_SCOPE(&p->mu);

    p->claimed--;
    p->held++;
    s->cache = c;
    s->granule = granule;
    s->holds = 1;
    s->age = ++p->last_age;
    return (struct cache_hold){slot, s->age};
}

void pool_forget(struct pool *p, uint32_t slot)
{
    struct slot *s = &p->slots[slot];

    mutex_lock(&p->mu);
    if (s->holds > 0)
        p->held--;
    else
        unlink_slot(p, &p->queue, slot);
    s->cache = NULL;
    s->age = 0;
    s->holds = 0;
    s->next = POOL_NONE;
    p->claimed++;
    mutex_unlock(&p->mu);
    pool_put(p, slot);
}

void pool_adopt(struct pool *p, uint32_t slot, struct cache *c, uint32_t granule)
{
    struct slot *s = &p->slots[slot];
    bool excess;

    mutex_lock(&p->mu);
    p->dirty--;
    s->cache = c;
    s->granule = granule;
    s->holds = 0;
    s->age = ++p->last_age;
    push_last(p, &p->queue, slot);
    excess = pool_excess_locked(p) > 0;
    mutex_unlock(&p->mu);
    if (excess && p->huge.fd >= 0)
        (void)pool_huge_give_segment(p, slot, POOL_GIVE_EXCESS);
    else if (excess)
        pool_shrink(p);
}

/* The slot of a granule that is evicted for this; POOL_NONE if it is not. It is claimed then. */
static uint32_t drop_locked(struct pool *p, struct cache *c, uint32_t granule)
{
    /* It does not change while the granule is ready and the lock is held: pool_publish(). */
    uint32_t slot = tiered_slot(&c->memory, granule);
    struct slot *s;

    if (slot == POOL_NONE)
        return POOL_NONE;
    s = &p->slots[slot];
    if (s->cache != c || s->granule != granule ||
        granule_evict(c, granule, false) != GRANULE_EVICTED)
        return POOL_NONE;
    if (s->holds > 0)
        p->held--;
    else
        unlink_slot(p, &p->queue, slot);
    *s = (struct slot){.next = POOL_NONE};
    p->claimed++;
    return slot;
}

bool pool_drop(struct pool *p, struct cache *c, uint32_t granule)
{
    uint32_t slot;

    mutex_lock(&p->mu);
    slot = drop_locked(p, c, granule);
    mutex_unlock(&p->mu);
    if (slot == POOL_NONE)
        return cache_state(c, granule) == CACHE_ABSENT;
    pool_put(p, slot);
    return true;
}

uint32_t pool_dirty_most(struct pool *p)
{
    LOCK_SCOPE(&p->mu);

    return p->limit - reserve_locked(p);
}

void pool_settle(struct pool *p)
{
    LOCK_SCOPE(&p->mu); /* granule_evict() is called and comes back under it */
}

struct cache_hold pool_hold_share(struct pool *p, struct cache_hold hold)
{
    struct slot *s = &p->slots[hold.place];
    LOCK_SCOPE(&p->mu);

    if (s->age == hold.age)
        s->holds++;
    return hold;
}

bool pool_hold_put(struct pool *p, struct cache_hold hold)
{
    struct slot *s = &p->slots[hold.place];
    LOCK_SCOPE(&p->mu);

    if (s->age != hold.age)
        return true;
    s->holds--;
    if (s->holds == 0) {
        p->held--;
        push_last(p, &p->queue, hold.place);
    }
    return true;
}

bool pool_awaited(struct pool *p)
{
    LOCK_SCOPE(&p->mu);

    return p->claimed + p->held > 0;
}

struct pool_counters pool_counters(struct pool *p)
{
    LOCK_SCOPE(&p->mu);

    return (struct pool_counters){
        .used_bytes = (p->claimed + p->held + p->dirty + p->queue.count) * GRANULE_BYTES,
        .memory_bytes = p->live * GRANULE_BYTES,
        .evicted = p->evicted,
        .given_bytes = p->given_bytes,
    };
}

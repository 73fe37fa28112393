/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Passing granules: served, but not kept, since the budget is spent.
 *
 *     free --take--> claimed (room, or being filled) --add--> ready, held --put all--> ready
 *      ^                |                                                                |
 *      +------put-------+                                     dropped for another <------+
 *
 * The oldest one that is neither held nor pinned is dropped: its word goes from ready to filling,
 * so that nobody pins it any more, its memory is given back, and it is absent.
 *
 * Why this does not stop, however many ask: a granule that somebody waits for is held until his
 * message has been delivered, that is until he has had his chance to pin it, which he takes. Those
 * who find no place wait, and are sent for when a claim or a hold ends; claims end with a fill,
 * holds with a message, and neither waits for a place. So whoever got a place is served, after
 * which the place is another's; and there are always places, as they are nobody's for longer.
 *
 * The lock is a leaf. What is dropped under it is only marked: memory is given back afterwards.
 */
#include "cache/set_internal.h"

#include <errno.h>

#include "cache/pool.h"

#include "cache/internal.h"

#define DEMAND_PLACES (PASSING_PLACES / 2) /* which only demands may claim */

struct victim {
    struct cache *cache; /* entered */
    uint32_t granule;
};

static bool is_held(const struct passing *p)
{
    return p->cache && p->holds > 0;
}

/* The oldest granule which granules.c agrees to drop; out of its place. */
static bool drop_one_locked(struct cache_set *set, struct victim *ret)
{
    uint64_t younger = 0; /* than which to look: those up to it have been refused */

    for (;;) {
        struct passing *oldest = NULL;

        for (unsigned i = 0; i < PASSING_PLACES; i++) {
            struct passing *p = &set->places[i];

            if (p->cache && p->holds == 0 && p->age > younger && (!oldest || p->age < oldest->age))
                oldest = p;
        }
        if (!oldest)
            return false;
        if (granule_begin_drop(oldest->cache, oldest->granule)) {
            *ret = (struct victim){oldest->cache, oldest->granule};
            *oldest = (struct passing){0};
            return true;
        }
        younger = oldest->age;
    }
}

struct census {
    uint32_t free, awaited;
};

static struct census census_locked(const struct cache_set *set)
{
    struct census c = {.free = PASSING_PLACES - set->claimed, .awaited = set->claimed};

    for (unsigned i = 0; i < PASSING_PLACES; i++) {
        c.free -= set->places[i].cache != NULL;
        c.awaited += is_held(&set->places[i]);
    }
    return c;
}

int passing_take(struct cache_set *set, uint32_t places, bool demand)
{
    struct victim victims[PASSING_PLACES];
    unsigned dropped = 0;
    struct census c;
    int r = 0;

    mutex_lock(&set->mu);
    c = census_locked(set);
    if (c.awaited + places > (demand ? PASSING_PLACES : PASSING_PLACES - DEMAND_PLACES))
        r = -EBUSY;
    while (r == 0 && c.free < places) {
        if (drop_one_locked(set, &victims[dropped])) {
            c.free++;
            dropped++;
        } else {
            r = c.awaited > 0 ? -EBUSY : -EAGAIN;
        }
    }
    if (r == 0)
        set->claimed += places;
    mutex_unlock(&set->mu);
    /* On failure, too: their places are free for the next one. */
    for (unsigned i = 0; i < dropped; i++)
        granule_end_drop(victims[i].cache, victims[i].granule);
    set_count(&set->evicted, dropped);
    return r;
}

void passing_put(struct cache_set *set, uint32_t places)
{
    LOCK_SCOPE(&set->mu);

    set->claimed -= places;
}

struct cache_hold passing_add(struct cache_set *set, struct cache *c, uint32_t granule)
{
    uint32_t place = 0;
    LOCK_SCOPE(&set->mu);

    while (set->places[place].cache) /* one is free: it was claimed */
        place++;
    set->claimed--;
    set->places[place] = (struct passing){
        .cache = c,
        .granule = granule,
        .holds = 1,
        .age = ++set->last_age,
    };
    return (struct cache_hold){place, set->last_age};
}

void passing_forget(struct cache_set *set, struct cache *c)
{
    LOCK_SCOPE(&set->mu);

    for (unsigned i = 0; i < PASSING_PLACES; i++) {
        if (set->places[i].cache == c)
            set->places[i] = (struct passing){0};
    }
}

bool cache_room_awaited(struct cache_set *set)
{
    if (set->pool)
        return pool_awaited(set->pool);
    LOCK_SCOPE(&set->mu);

    return census_locked(set).awaited > 0;
}

/* --- holds --- */

/* The granule that @hold keeps, or NULL if its cache has been closed. */
static struct passing *held_locked(struct cache_set *set, struct cache_hold hold)
{
    struct passing *p = &set->places[hold.place];

    return hold.age != 0 && p->age == hold.age ? p : NULL;
}

struct cache_hold cache_hold_share(struct cache_set *set, struct cache_hold hold)
{
    struct passing *p;

    if (hold.age == 0)
        return hold;
    if (set->pool)
        return pool_hold_share(set->pool, hold);
    mutex_lock(&set->mu);
    p = held_locked(set, hold);
    if (p)
        p->holds++;
    mutex_unlock(&set->mu);
    return hold;
}

bool cache_hold_put(struct cache_set *set, struct cache_hold hold)
{
    struct passing *p;

    if (hold.age == 0)
        return false;
    if (set->pool)
        return pool_hold_put(set->pool, hold);
    mutex_lock(&set->mu);
    p = held_locked(set, hold);
    if (p)
        p->holds--;
    mutex_unlock(&set->mu);
    return true;
}

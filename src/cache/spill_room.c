/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Room for writes: what each overlay may have of the pool, how they tell each other, and who waits.
 *
 * A write that finds no room waits for a message: the end of a spill of its own; of another
 * overlay's, if it is the pool that is full and not the share; or a nudge, if what is in the way
 * goes by itself. Each of these makes it try again, and each try is for something that has
 * happened, so none goes on for ever.
 */
#include <assert.h>

#include "base/mailbox.h"
#include "cache/internal.h"
#include "cache/spill_internal.h"

#define SHARE_LEAST 32u /* slots: two writes of 1 MiB */

/* --- shares --- */

/* Of each overlay, if all are equal. */
static uint32_t even_share(const struct spill *s)
{
    struct cache_set *set = s->overlay->set;

    return pool_dirty_most(set->pool) /
           MAX(atomic_load_explicit(&set->overlays, memory_order_relaxed), 1);
}

uint32_t spill_share(const struct spill *s)
{
    return MAX(even_share(s), SHARE_LEAST);
}

/* Half of an even share may stay dirty. While the disk fails, only who needs room tries it. */
bool spill_is_due(const struct spill *s)
{
    return !s->failing && log_full(&s->overlay->memory) >= MAX(even_share(s) / 2, 1);
}

/* --- telling each other --- */

/* Any thread that keeps @s from going. */
static void nudge(struct spill *s)
{
    if (!atomic_exchange(&s->nudged, true))
        mailbox_post(s->to.inbox, &s->nudge);
}

static void nudge_others(const struct spill *s, bool only_starving)
{
    struct cache_set *set = s->overlay->set;

    mutex_lock(&set->spills_mu);
    for (struct spill *other = set->spills; other; other = other->next) {
        if (other != s && (!only_starving || atomic_load(&other->starving)))
            nudge(other);
    }
    mutex_unlock(&set->spills_mu);
}

/* With the first write. */
void spill_enlist(struct spill *s)
{
    struct cache_set *set = s->overlay->set;

    if (s->listed || s->stopped)
        return;
    mutex_lock(&set->spills_mu);
    s->next = set->spills;
    if (s->next)
        s->next->prev = s;
    set->spills = s;
    mutex_unlock(&set->spills_mu);
    s->listed = true;
    nudge_others(s, false);
}

static void set_starving(struct spill *s, bool starving)
{
    struct cache_set *set = s->overlay->set;

    if (atomic_exchange(&s->starving, starving) == starving)
        return;
    if (starving)
        atomic_fetch_add(&set->starving, 1);
    else
        atomic_fetch_sub(&set->starving, 1);
}

void cache_spill_stop(struct cache *c)
{
    struct spill *s = log_spill(&c->memory);

    if (!s || s->stopped)
        return;
    s->stopped = true;
    if (s->listed) {
        mutex_lock(&c->set->spills_mu);
        *(s->prev ? &s->prev->next : &c->set->spills) = s->next;
        if (s->next)
            s->next->prev = s->prev;
        mutex_unlock(&c->set->spills_mu);
    }
    s->listed = false;
    set_starving(s, false);
}

/* --- who waits for room --- */

/* After something has come, or may have: those who wait for room try again. */
static void resume(struct spill *s)
{
    if (!s->awaited)
        return;
    set_starving(s, false);
    s->awaited = false;
    s->to.resume(s->to.arg);
}

void spill_landed(struct spill *s)
{
    struct cache_set *set = s->overlay->set;

    /* In this order: who comes to starve looks at them the other way round. */
    atomic_fetch_sub(&set->spilling, 1);
    if (atomic_load(&set->starving) > 0)
        nudge_others(s, true);
    resume(s);
}

void spill_nudge_came(struct message *m)
{
    struct spill *s = container_of(m, struct spill, nudge);
    int r = cache_enter(s->overlay);

    assert(r == 0);
    (void)r;
    atomic_store(&s->nudged, false);
    overlay_settle(s->overlay);
    spill_pump(s);
    cache_leave(s->overlay);
    resume(s);
}

/* Whether others are spilling, as the pool is full of what is theirs: their end will be told. */
static bool others_spill(struct spill *s)
{
    const struct cache_set *set = s->overlay->set;

    if (atomic_load(&set->spilling) == 0)
        return false;
    set_starving(s, true);
    if (atomic_load(&set->spilling) == 0)
        nudge(s); /* it has just come: try once more */
    return true;
}

/* Whether something will come, or what is in the way will go by itself. */
static bool may_hope(struct spill *s)
{
    int r = 1;

    if (spill_writes_under_way(s) == 0) {
        spill_clean(s);
        r = spill_start(s);
    }
    if (r > 0)
        return true;
    /*
     * Others are looking at segments that we would give up; of the end of that nobody tells. It may
     * have come since the write was refused.
     */
    if (r < 0 || s->settled || log_waits(&s->overlay->memory))
        nudge(s);
    s->settled = false;
    return atomic_load(&s->nudged) || others_spill(s);
}

void spill_settled(struct spill *s)
{
    s->settled = true;
}

bool cache_await_room(struct cache *c, uint64_t *patience)
{
    struct spill *s = log_spill(&c->memory);
    bool first = *patience == 0;

    if (!s)
        return false;
    if (first)
        *patience = s->failures + 1;
    if (*patience != s->failures + 1 || !may_hope(s)) {
        set_count(&c->set->refused, 1);
        return false;
    }
    if (first) {
        set_count(&s->paced, 1);
        set_count(&c->set->paced, 1);
    }
    s->awaited = true;
    return true;
}

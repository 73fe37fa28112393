/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Flights on the ground: their pool, who waits for one, the queue of those that read ahead. See
 * fetch/internal.h for the states.
 */
#include <errno.h>

#include "fetch/internal.h"

static struct flight *take_locked(struct fetch *f, enum io_priority priority)
{
    struct flight *fl = f->free;

    if (!fl || (priority == IO_BACKGROUND && f->free_count <= FLIGHT_RESERVE))
        return NULL;
    f->free = fl->next;
    f->free_count--;
    return fl;
}

/* The oldest one parked, in a list of its own. */
static struct fetch_waiter *unpark_one(struct parking *p)
{
    struct fetch_waiter *w = p->first;

    if (w) {
        p->first = w->next;
        w->next = NULL;
    }
    return w;
}

/* Everybody, demands first. */
static struct fetch_waiter *unpark_all(struct parking *p)
{
    struct fetch_waiter *w = p[IO_DEMAND].first;

    if (w)
        p[IO_DEMAND].last->next = p[IO_BACKGROUND].first;
    else
        w = p[IO_BACKGROUND].first;
    p[IO_DEMAND].first = p[IO_BACKGROUND].first = NULL;
    return w;
}

/* One who may take what has become free. */
static struct fetch_waiter *unpark_next_locked(struct fetch *f)
{
    struct fetch_waiter *w = unpark_one(&f->parked[IO_DEMAND]);

    if (!w && f->free_count > FLIGHT_RESERVE)
        w = unpark_one(&f->parked[IO_BACKGROUND]);
    return w;
}

/* Returns who is to be sent for what has become free. */
static struct fetch_waiter *put_locked(struct fetch *f, struct flight *fl)
{
    fl->next = f->free;
    f->free = fl;
    f->free_count++;
    if (f->free_count == FLIGHT_POOL)
        return unpark_all(f->parked);
    return unpark_next_locked(f);
}

static void send_back(struct fetch_waiter *w)
{
    struct fetch_waiter *next;

    for (; w; w = next) {
        next = w->next;
        waiter_finish(w, -EAGAIN);
    }
}

/* --- the queue of background flights --- */

static void enqueue_locked(struct fetch *f, struct flight *fl)
{
    fl->queued = true;
    fl->queue_next = NULL;
    fl->queue_prev = f->queue_last;
    if (f->queue_last)
        f->queue_last->queue_next = fl;
    else
        f->queue_first = fl;
    f->queue_last = fl;
}

static void unqueue_locked(struct fetch *f, struct flight *fl)
{
    fl->queued = false;
    if (fl->queue_prev)
        fl->queue_prev->queue_next = fl->queue_next;
    else
        f->queue_first = fl->queue_next;
    if (fl->queue_next)
        fl->queue_next->queue_prev = fl->queue_prev;
    else
        f->queue_last = fl->queue_prev;
}

/* The next one to start, if there may be one more; it counts as under way from here on. */
static struct flight *next_background_locked(struct fetch *f)
{
    struct flight *fl = f->background < FLIGHT_BACKGROUND ? f->queue_first : NULL;

    if (fl) {
        unqueue_locked(f, fl);
        fl->background = true;
        f->background++;
    }
    return fl;
}

void flight_launch(struct flight *fl, enum io_priority priority)
{
    struct fetch *f = fl->object->fetch;
    struct flight *next;

    if (priority == IO_BACKGROUND) {
        mutex_lock(&f->mu);
        enqueue_locked(f, fl);
        next = next_background_locked(f);
        mutex_unlock(&f->mu);
        if (next)
            flight_start(next, priority);
        /* A demand that joined before it was queued has hurried nothing: that is for us to do. */
        if (atomic_load(&fl->demanded))
            flight_hurry(f, fl);
        return;
    }
    flight_start(fl, priority);
}

void flight_hurry(struct fetch *f, struct flight *fl)
{
    bool mine;

    mutex_lock(&f->mu);
    mine = fl->queued;
    if (mine)
        unqueue_locked(f, fl);
    mutex_unlock(&f->mu);
    if (mine)
        flight_start(fl, IO_DEMAND);
}

void flight_put(struct fetch *f, struct flight *fl)
{
    struct flight *next;
    struct fetch_waiter *w;

    if (!fl)
        return;
    cache_room_put(f->caches, &fl->room);
    mutex_lock(&f->mu);
    if (fl->background)
        f->background--;
    fl->background = false;
    w = put_locked(f, fl);
    next = next_background_locked(f);
    mutex_unlock(&f->mu);
    send_back(w);
    if (next)
        flight_start(next, IO_BACKGROUND);
}

/* A hold has ended: somebody else may find room now. */
void flight_room_made(struct fetch *f)
{
    bool last = !cache_room_awaited(f->caches);
    struct fetch_waiter *w;

    mutex_lock(&f->mu);
    if (last)
        w = unpark_all(f->parked);
    else
        w = unpark_next_locked(f);
    mutex_unlock(&f->mu);
    send_back(w);
}

static bool all_flights_free(struct fetch *f)
{
    LOCK_SCOPE(&f->mu);

    return f->free_count == FLIGHT_POOL;
}

/* Who is parked waits for a flight or for room. When neither is awaited, nobody else will send him:
 * then pins are all that is in the way, or nothing. */
static void send_if_nobody_will(struct fetch *f)
{
    if (all_flights_free(f) && !cache_room_awaited(f->caches))
        flight_room_made(f);
}

struct flight *flight_take(struct fetch *f, enum io_priority priority, uint32_t granules)
{
    struct cache_room room;
    struct flight *fl;

    if (cache_room_take(f->caches, granules, priority == IO_DEMAND, &room) < 0)
        return NULL;
    mutex_lock(&f->mu);
    fl = take_locked(f, priority);
    mutex_unlock(&f->mu);
    if (fl) {
        fl->room = room;
        return fl;
    }
    /* All were out; but they may have come back since, and who parked meanwhile waits for our room.
     */
    cache_room_put(f->caches, &room);
    send_if_nobody_will(f);
    return NULL;
}

void flight_park(struct fetch *f, struct fetch_waiter *w, enum io_priority priority)
{
    struct parking *p = &f->parked[priority];
    struct flight *fl;

    mutex_lock(&f->mu);
    w->next = NULL;
    if (p->first)
        p->last->next = w;
    else
        p->first = w;
    p->last = w;
    mutex_unlock(&f->mu);
    /* Both may have been given back since the caller looked: nobody else would send the waiter. */
    fl = flight_take(f, priority, 1);
    if (fl)
        flight_put(f, fl);
    else
        send_if_nobody_will(f);
}

void waiter_finish(struct fetch_waiter *w, int result)
{
    w->result = result;
    mailbox_post(w->to, &w->msg);
}

/* On the waiter's thread. Its deliver function may be the end of @m. */
static void deliver_held(struct message *m)
{
    struct fetch_waiter *w = container_of(m, struct fetch_waiter, msg);
    struct cache_hold hold = w->hold;
    struct fetch *f = w->fetch;

    m->deliver = w->deliver;
    m->deliver(m);
    cache_hold_put(f->caches, hold);
    flight_room_made(f);
}

void waiter_serve(struct fetch *f, struct fetch_waiter *w, struct cache_hold hold)
{
    if (hold.age != 0) {
        w->fetch = f;
        w->hold = cache_hold_share(f->caches, hold);
        w->deliver = w->msg.deliver;
        w->msg.deliver = deliver_held;
    }
    waiter_finish(w, 0);
}

/*
 * Of what was spilled, only what is in the file now. It is looked for when it has been reserved:
 * from then on nobody removes it from the file (cache/spill.c).
 */
static int reserve(struct fetch_object *o, uint32_t granule, struct cache_room *room, void **ret)
{
    int r = cache_reserve(o->cache, granule, room, ret);

    if (r == 0 && !o->data && !source_is_tier(o, granule)) {
        cache_unreserve(o->cache, granule, room);
        r = -ENOENT;
    }
    return r;
}

int flight_list_locked(struct fetch_object *o, struct flight *fl, uint32_t first)
{
    uint32_t max = MIN(fl->room.granules, READ_AHEAD_GRANULES);
    uint32_t end = MIN(cache_granules(o->cache), first + max);
    struct flight **list = &o->chunks[first / CHUNK_GRANULES];
    bool disk = source_is_tier(o, first);
    uint32_t g = first;
    void *memory;
    int r;

    end = MIN(end, (uint32_t)round_down(first, CHUNK_GRANULES) + (uint32_t)CHUNK_GRANULES);
    end = MIN(end, (first / SUMS_PER_PAGE + 1) * SUMS_PER_PAGE);
    r = reserve(o, g, &fl->room, &memory);
    if (r < 0)
        return r;
    fl->from_tier = disk || !o->data;
    do
        fl->memory[g++ - first] = memory;
    while (g < end && source_is_tier(o, g) == disk && reserve(o, g, &fl->room, &memory) == 0);
    fl->object = o;
    fl->first = first;
    fl->count = g - first;
    fl->waiters = NULL;
    atomic_store(&fl->demanded, false);
    fl->next = *list;
    *list = fl;
    o->flights++;
    atomic_store_explicit(&o->ends[o->next_end++ % STREAM_ENDS], g, memory_order_relaxed);
    return 0;
}

struct flight *flight_find_locked(const struct fetch_object *o, uint32_t granule)
{
    struct flight *fl = o->chunks[granule / CHUNK_GRANULES];

    while (fl && (granule < fl->first || granule - fl->first >= fl->count))
        fl = fl->next;
    return fl;
}

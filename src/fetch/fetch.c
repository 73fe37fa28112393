/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/fetch.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "fetch/internal.h"

static int flights_create(struct fetch *f)
{
    f->flights = calloc(FLIGHT_POOL, sizeof(*f->flights));
    if (!f->flights)
        return -ENOMEM;
    for (unsigned i = 0; i < FLIGHT_POOL; i++) {
        struct flight *fl = &f->flights[i];

        fl->sums_page = aligned_alloc(PAGE_BYTES, SUMS_PAGE_BYTES);
        fl->sums_decoded = calloc(SUMS_PER_PAGE, sizeof(*fl->sums_decoded));
        if (!fl->sums_page || !fl->sums_decoded)
            return -ENOMEM;
        fl->next = f->free;
        f->free = fl;
        f->free_count++;
    }
    return 0;
}

int fetch_create(struct cache_set *caches, struct fetch **ret, struct thaw_error *e)
{
    struct fetch *f = calloc(1, sizeof(*f));
    int r;

    if (!f)
        return err_set(e, -ENOMEM, "no memory for the fetcher");
    f->caches = caches;
    pthread_mutex_init(&f->mu, NULL);
    pthread_mutex_init(&f->objects_mu, NULL);
    pthread_cond_init(&f->released, NULL);
    r = flights_create(f);
    if (r == 0 && cache_set_tier(caches))
        r = behind_create(cache_set_tier(caches), &f->behind);
    if (r < 0) {
        fetch_destroy(f);
        return err_set(e, r, "no memory for the fetcher");
    }
    *ret = f;
    return 0;
}

struct cache_set *fetch_caches(const struct fetch *f)
{
    return f->caches;
}

void fetch_destroy(struct fetch *f)
{
    if (!f)
        return;
    behind_destroy(f->behind);
    for (unsigned i = 0; f->flights && i < FLIGHT_POOL; i++) {
        free(f->flights[i].sums_page);
        free(f->flights[i].sums_decoded);
    }
    free(f->flights);
    pthread_cond_destroy(&f->released);
    pthread_mutex_destroy(&f->objects_mu);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

struct fetch_counters fetch_counters(const struct fetch *f)
{
    struct behind_counters behind = behind_counters(f->behind);

    return (struct fetch_counters){
        .flights = atomic_load_explicit(&f->flight_count, memory_order_relaxed),
        .read_bytes = atomic_load_explicit(&f->read_bytes, memory_order_relaxed),
        .disk_bytes = atomic_load_explicit(&f->disk_bytes, memory_order_relaxed),
        .failed = atomic_load_explicit(&f->failed, memory_order_relaxed),
        .behind = behind.queued,
        .not_written = behind.dropped,
        .unverified_bytes = atomic_load_explicit(&f->unverified_bytes, memory_order_relaxed),
    };
}

const void *fetch_pin(struct fetch_object *o, uint32_t granule)
{
    return cache_pin(o->cache, granule);
}

void fetch_unpin(struct fetch_object *o, uint32_t granule)
{
    cache_unpin(o->cache, granule);
}

bool fetch_on_disk(const struct fetch_object *o, uint32_t granule)
{
    return source_is_tier(o, granule);
}

bool fetch_ready(const struct fetch_object *o, uint32_t granule)
{
    return cache_state(o->cache, granule) == CACHE_READY;
}

/*
 * Whether somebody reads on where a flight ended lately. That the granule before is there says
 * nothing: in memory that has been in use for a while it may have been there for long, and whoever
 * jumps about would read half as much again as he needs.
 */
static bool sequential(const struct fetch_object *o, uint32_t granule)
{
    if (granule == 0 || granule + 1 >= cache_granules(o->cache) ||
        cache_state(o->cache, granule + 1) != CACHE_ABSENT)
        return false;
    for (unsigned i = 0; i < STREAM_ENDS; i++) {
        if (atomic_load_explicit(&o->ends[i], memory_order_relaxed) == granule)
            return true;
    }
    return false;
}

/* The flights that a request has in hand: it takes them before it knows whether it needs them. */
struct tickets {
    struct flight *fresh, *ahead;           /* owned, may be NULL: not used yet */
    struct flight *started, *started_ahead; /* listed, to be launched */
    struct flight *joined;                  /* the flight that carries the granule */
};

static int list_locked(struct fetch_object *o, uint32_t granule, struct tickets *t)
{
    int r = flight_list_locked(o, t->fresh, granule);

    if (r < 0)
        return -EAGAIN; /* not absent any more */
    t->joined = t->started = TAKE_PTR(t->fresh);
    if (t->ahead && flight_list_locked(o, t->ahead, granule + 1) == 0)
        t->started_ahead = TAKE_PTR(t->ahead);
    return 0;
}

/*
 * Finds or makes the flight for w->granule and joins it. Returns: 0; -EALREADY: it is there;
 * -ENOBUFS: it must wait for a flight; -EAGAIN: it has just changed; -ESHUTDOWN.
 */
static int join_locked(struct fetch_object *o, struct fetch_waiter *w, enum io_priority priority,
                       struct tickets *t)
{
    enum cache_state state = cache_state(o->cache, w->granule);
    int r = 0;

    if (state == CACHE_READY)
        return -EALREADY;
    if (state == CACHE_CLOSED)
        return -ESHUTDOWN;
    t->joined = flight_find_locked(o, w->granule);
    if (state == CACHE_ABSENT && t->fresh)
        r = list_locked(o, w->granule, t);
    else if (!t->joined)
        r = state == CACHE_ABSENT ? -ENOBUFS : -EAGAIN; /* or it is being dropped */
    if (r < 0)
        return r;
    w->next = t->joined->waiters;
    t->joined->waiters = w;
    if (priority == IO_DEMAND)
        atomic_store(&t->joined->demanded, true);
    return 0;
}

int fetch_want(struct fetch_object *o, uint32_t granule, enum io_priority priority,
               struct fetch_waiter *w)
{
    struct fetch *f = o->fetch;
    struct tickets t = {.fresh = flight_take(f, priority, 1)};
    int r;

    if (t.fresh && sequential(o, granule))
        t.ahead = flight_take(f, IO_BACKGROUND, READ_AHEAD_GRANULES);
    w->granule = granule;
    mutex_lock(&o->mu);
    r = join_locked(o, w, priority, &t);
    mutex_unlock(&o->mu);

    if (t.started)
        flight_launch(t.started, priority);
    else if (r == 0 && priority == IO_DEMAND)
        flight_hurry(f, t.joined);
    if (t.started_ahead)
        flight_launch(t.started_ahead, IO_BACKGROUND);
    flight_put(f, t.fresh);
    flight_put(f, t.ahead);
    if (r == -ENOBUFS)
        flight_park(f, w, priority);
    else if (r == -EAGAIN || r == -ESHUTDOWN)
        waiter_finish(w, r);
    return r == -EALREADY ? r : 0;
}

int64_t fetch_allocated_bytes(const struct fetch_object *o)
{
    return cache_allocated_bytes(o->cache);
}

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

int fetch_create(struct fetch **ret, struct thaw_error *e)
{
    struct fetch *f = calloc(1, sizeof(*f));
    int r;

    if (!f)
        return err_set(e, -ENOMEM, "no memory for the fetcher");
    pthread_mutex_init(&f->mu, NULL);
    r = flights_create(f);
    if (r < 0) {
        fetch_destroy(f);
        return err_set(e, r, "no memory for the fetcher");
    }
    *ret = f;
    return 0;
}

void fetch_destroy(struct fetch *f)
{
    if (!f)
        return;
    for (unsigned i = 0; f->flights && i < FLIGHT_POOL; i++) {
        free(f->flights[i].sums_page);
        free(f->flights[i].sums_decoded);
    }
    free(f->flights);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

struct fetch_counters fetch_counters(const struct fetch *f)
{
    return (struct fetch_counters){
        .flights = atomic_load_explicit(&f->flight_count, memory_order_relaxed),
        .read_bytes = atomic_load_explicit(&f->read_bytes, memory_order_relaxed),
        .failed = atomic_load_explicit(&f->failed, memory_order_relaxed),
        .unverified_bytes = atomic_load_explicit(&f->unverified_bytes, memory_order_relaxed),
    };
}

static int object_init(struct fetch_object *o, const struct fetch_object_options *options,
                       struct thaw_error *e)
{
    int r = cache_create(&options->build, options->name, options->size_bytes, &o->cache, e);

    if (r < 0)
        return r;
    r = store_object_open(options->store, &options->build, options->name, &o->data);
    if (r == 0 && options->sums_name && *options->sums_name) {
        r = store_object_open(options->store, &options->build, options->sums_name, &o->sums.object);
        if (r == 0)
            r = sums_table_init(&o->sums, options->size_bytes);
    }
    if (r < 0)
        return err_errno(e, r, "opening object %s", options->name);
    o->chunks = calloc(div_round_up(options->size_bytes, CHUNK_BYTES) + 1, sizeof(struct flight *));
    return o->chunks ? 0 : err_set(e, -ENOMEM, "no memory to fetch %s", options->name);
}

int fetch_object_open(struct fetch *f, const struct fetch_object_options *options,
                      struct fetch_object **ret, struct thaw_error *e)
{
    struct fetch_object *o = calloc(1, sizeof(*o));
    int r;

    if (!o)
        return err_set(e, -ENOMEM, "no memory to fetch %s", options->name);
    o->fetch = f;
    pthread_mutex_init(&o->mu, NULL);
    pthread_cond_init(&o->landed, NULL);
    r = object_init(o, options, e);
    if (r < 0) {
        fetch_object_close(o);
        return r;
    }
    *ret = o;
    return 0;
}

void fetch_object_close(struct fetch_object *o)
{
    if (!o)
        return;
    mutex_lock(&o->mu);
    while (o->flights > 0)
        pthread_cond_wait(&o->landed, &o->mu);
    mutex_unlock(&o->mu);
    sums_table_finish(&o->sums);
    store_object_close(o->data);
    cache_destroy(o->cache);
    free(o->chunks);
    pthread_cond_destroy(&o->landed);
    pthread_mutex_destroy(&o->mu);
    free(o);
}

const void *fetch_pin(struct fetch_object *o, uint32_t granule)
{
    return cache_pin(o->cache, granule);
}

void fetch_unpin(struct fetch_object *o, uint32_t granule)
{
    cache_unpin(o->cache, granule);
}

bool fetch_ready(const struct fetch_object *o, uint32_t granule)
{
    return cache_state(o->cache, granule) == CACHE_READY;
}

static bool sequential(const struct fetch_object *o, uint32_t granule)
{
    return granule > 0 && cache_state(o->cache, granule - 1) != CACHE_ABSENT &&
           granule + 1 < cache_granules(o->cache) &&
           cache_state(o->cache, granule + 1) == CACHE_ABSENT;
}

int fetch_want(struct fetch_object *o, uint32_t granule, enum io_priority priority,
               struct fetch_waiter *w)
{
    bool read_ahead = sequential(o, granule);
    struct flight *fresh = flight_take(o->fetch, priority);
    struct flight *ahead = fresh && read_ahead ? flight_take(o->fetch, IO_BACKGROUND) : NULL;
    struct flight *started = NULL, *started_ahead = NULL, *fl;
    enum cache_state state;
    bool parked = false;

    w->granule = granule;
    mutex_lock(&o->mu);
    state = cache_state(o->cache, granule);
    fl = state == CACHE_READY ? NULL : flight_find_locked(o, granule);
    if (state == CACHE_ABSENT && fresh) {
        flight_list_locked(o, fresh, granule, 1);
        fl = started = TAKE_PTR(fresh);
        if (ahead && cache_state(o->cache, granule + 1) == CACHE_ABSENT) {
            flight_list_locked(o, ahead, granule + 1, READ_AHEAD_GRANULES);
            started_ahead = TAKE_PTR(ahead);
        }
    }
    if (fl) {
        w->next = fl->waiters;
        fl->waiters = w;
        if (priority == IO_DEMAND)
            atomic_store(&fl->demanded, true);
    } else {
        parked = state == CACHE_ABSENT;
    }
    mutex_unlock(&o->mu);

    if (started)
        flight_launch(started, priority);
    else if (fl && priority == IO_DEMAND)
        flight_hurry(o->fetch, fl);
    if (started_ahead)
        flight_launch(started_ahead, IO_BACKGROUND);
    flight_put(o->fetch, fresh);
    flight_put(o->fetch, ahead);
    if (parked)
        flight_park(o->fetch, w, priority);
    return state == CACHE_READY ? -EALREADY : 0;
}

int64_t fetch_allocated_bytes(const struct fetch_object *o)
{
    return cache_allocated_bytes(o->cache);
}

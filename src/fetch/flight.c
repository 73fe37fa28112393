/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The life of a flight, from the pool to its landing. See fetch/internal.h for the states.
 *
 * Verification runs where the last read completes, on the I/O thread: the sum of a granule takes
 * a few microseconds, a message to another processor and back takes a hundred.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "cache/bus.h"
#include "fetch/internal.h"
#include "observe/metrics.h"

static struct flight *take_locked(struct fetch *f, enum io_priority priority)
{
    struct flight *fl = f->free;

    if (!fl || (priority == IO_BACKGROUND && f->free_count <= FLIGHT_RESERVE))
        return NULL;
    f->free = fl->next;
    f->free_count--;
    return fl;
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
    if (fl)
        fl->room = room;
    else
        cache_room_put(f->caches, &room); /* who waits for room is sent for by one of the flights */
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

static void start(struct flight *fl, enum io_priority priority);

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
            start(next, priority);
        /* A demand that joined before it was queued has hurried nothing: that is for us to do. */
        if (atomic_load(&fl->demanded))
            flight_hurry(f, fl);
        return;
    }
    start(fl, priority);
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
        start(fl, IO_DEMAND);
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
        start(next, IO_BACKGROUND);
}

/* A hold has ended: somebody else may find room now. */
static void room_made(struct fetch *f)
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
    else if (all_flights_free(f) && !cache_room_awaited(f->caches))
        room_made(f); /* pins are all that is in the way, of whose end nobody tells */
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
    room_made(f);
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

int flight_list_locked(struct fetch_object *o, struct flight *fl, uint32_t first)
{
    uint32_t max = MIN(fl->room.granules, READ_AHEAD_GRANULES);
    uint32_t end = MIN(cache_granules(o->cache), first + max);
    struct flight **list = &o->chunks[first / CHUNK_GRANULES];
    uint32_t g = first;
    void *memory;
    int r;

    end = MIN(end, (uint32_t)round_down(first, CHUNK_GRANULES) + (uint32_t)CHUNK_GRANULES);
    end = MIN(end, (first / SUMS_PER_PAGE + 1) * SUMS_PER_PAGE);
    r = cache_reserve(o->cache, g, &fl->room, &memory);
    if (r < 0)
        return r;
    do
        fl->memory[g++ - first] = memory;
    while (g < end && cache_reserve(o->cache, g, &fl->room, &memory) == 0);
    fl->object = o;
    fl->first = first;
    fl->count = g - first;
    fl->waiters = NULL;
    atomic_store(&fl->demanded, false);
    fl->next = *list;
    *list = fl;
    o->flights++;
    return 0;
}

struct flight *flight_find_locked(const struct fetch_object *o, uint32_t granule)
{
    struct flight *fl = o->chunks[granule / CHUNK_GRANULES];

    while (fl && (granule < fl->first || granule - fl->first >= fl->count))
        fl = fl->next;
    return fl;
}

static size_t flight_bytes(const struct flight *fl)
{
    return (fl->count - 1) * GRANULE_BYTES +
           cache_granule_bytes(fl->object->cache, fl->first + fl->count - 1);
}

static void unlist_locked(struct flight *fl)
{
    struct flight **p = &fl->object->chunks[fl->first / CHUNK_GRANULES];

    while (*p != fl)
        p = &(*p)->next;
    *p = fl->next;
}

struct check {
    char *memory;
    size_t len;
    const uint64_t *sum; /* NULL: there is none */
    bool holds;
};

static void check_granule(void *arg)
{
    struct check *c = arg;

    c->holds = !c->sum || sums_of(c->memory, c->len) == *c->sum;
    /* What follows the object within its last page is zeros, whatever was there before. */
    memset(c->memory + c->len, 0, round_up(c->len, PAGE_BYTES) - c->len);
}

/* Whether granule @i of @fl is all there and what it should be: 0 or why not. */
static int verify_granule(const struct flight *fl, uint32_t i, const uint64_t *sums)
{
    struct cache *cache = fl->object->cache;
    struct check c = {
        .memory = fl->memory[i],
        .len = cache_granule_bytes(cache, fl->first + i),
        .sum = sums ? &sums[i] : NULL,
    };
    int r;

    if (fl->data_result < (int64_t)(i * GRANULE_BYTES + c.len))
        return -EBADMSG;
    /* The memory may be that of a disk, which may fail now. */
    r = bus_call(check_granule, &c);
    if (r < 0)
        return cache_fill_error(cache, fl->first + i, r);
    return c.holds ? 0 : -EBADMSG;
}

/*
 * Publishes what holds, and abandons the rest: bit i of the result is set when granule first + i
 * does not. Keeps a hold of each in fl->holds.
 */
static uint64_t verify(struct flight *fl, int *ret_cause)
{
    struct fetch_object *o = fl->object;
    const uint64_t *sums = NULL;
    uint64_t bad = 0;
    int r = fl->data_result < 0 ? (int)fl->data_result : 0;

    if (r < 0)
        r = cache_fill_error(o->cache, fl->first, r);
    else if (o->sums.object)
        r = sums_table_find(&o->sums, fl, &sums);
    for (uint32_t i = 0; i < fl->count; i++) {
        int cause = r < 0 ? r : verify_granule(fl, i, sums);

        fl->holds[i] = (struct cache_hold){0};
        if (cause < 0) {
            bad |= UINT64_C(1) << i;
            *ret_cause = cause;
            cache_abandon(o->cache, fl->first + i);
            continue;
        }
        if (!sums)
            atomic_fetch_add_explicit(&o->fetch->unverified_bytes,
                                      cache_granule_bytes(o->cache, fl->first + i),
                                      memory_order_relaxed);
        fl->holds[i] = cache_publish(o->cache, fl->first + i);
    }
    return bad;
}

/* Tells those who wait for granules from @first on, whose holds are in @holds. */
static void tell(struct fetch *f, struct fetch_waiter *w, uint32_t first, uint64_t bad, int cause,
                 const struct cache_hold *holds)
{
    struct fetch_waiter *next;

    for (; w; w = next) {
        uint32_t i = w->granule - first;

        next = w->next;
        if (bad >> i & 1)
            waiter_finish(w, cause);
        else
            waiter_serve(f, w, holds[i]);
    }
}

static void put_holds(struct fetch *f, const struct cache_hold *holds, uint32_t count)
{
    bool any = false;

    for (uint32_t i = 0; i < count; i++)
        any |= cache_hold_put(f->caches, holds[i]);
    if (any)
        room_made(f);
}

/* One batch: its reads were over at @read_ns, and what is good of it has just been published. */
static void measure(const struct flight *fl, uint64_t read_ns, bool good)
{
    enum metric_result result = good ? METRIC_SUCCESS : METRIC_FAILURE;
    uint64_t end_ns = clock_now_ns();

    metric_chunks_store_record(metric_ms(end_ns - fl->start_ns), result);
    metric_fetch_step_record(metric_ms(read_ns - fl->start_ns), METRIC_STEP_READ);
    metric_fetch_step_record(metric_ms(end_ns - read_ns), METRIC_STEP_VERIFY);
    if (fl->data_result > 0) {
        metric_chunks_store_bytes_add((uint64_t)fl->data_result, result);
        metric_fetch_bytes_add((uint64_t)fl->data_result, METRIC_SOURCE_STORE);
    }
    if (!good)
        metric_fetch_failures_add(1, METRIC_SOURCE_STORE);
}

static void land(struct flight *fl)
{
    struct fetch_object *o = fl->object;
    struct fetch *f = o->fetch;
    struct cache_hold holds[READ_AHEAD_GRANULES];
    struct fetch_waiter *w;
    uint64_t read_ns = clock_now_ns();
    int cause = 0;
    uint64_t bad = verify(fl, &cause);
    uint32_t first = fl->first, count = fl->count;

    if (fl->data_result > 0)
        atomic_fetch_add_explicit(&f->read_bytes, (uint64_t)fl->data_result, memory_order_relaxed);
    atomic_fetch_add_explicit(&f->failed, (uint64_t)__builtin_popcountll(bad),
                              memory_order_relaxed);
    measure(fl, read_ns, bad == 0);
    memcpy(holds, fl->holds, count * sizeof(*holds));
    mutex_lock(&o->mu);
    unlist_locked(fl);
    w = TAKE_PTR(fl->waiters);
    mutex_unlock(&o->mu);

    flight_put(f, fl);
    tell(f, w, first, bad, cause, holds);
    put_holds(f, holds, count);
    /* Last: from here on the object may be closed. */
    mutex_lock(&o->mu);
    if (--o->flights == 0)
        pthread_cond_broadcast(&o->landed);
    mutex_unlock(&o->mu);
}

static void read_done(struct flight *fl)
{
    /* acq_rel: the last one sees what the other one's thread wrote. */
    if (atomic_fetch_sub_explicit(&fl->pending, 1, memory_order_acq_rel) == 1)
        land(fl);
}

static void data_done(struct store_read *r, int64_t result)
{
    struct flight *fl = container_of(r, struct flight, data);

    fl->data_result = result;
    read_done(fl);
}

static void sums_done(struct store_read *r, int64_t result)
{
    struct flight *fl = container_of(r, struct flight, sums);

    fl->sums_result = result;
    read_done(fl);
}

/* Where to: memory of granules that is adjacent is one piece, and one piece needs no list. */
static void set_pieces(struct flight *fl)
{
    size_t left = round_up(flight_bytes(fl), PAGE_BYTES);
    struct iovec *last = fl->pieces;
    unsigned n = 0;

    for (uint32_t i = 0; i < fl->count; i++) {
        size_t len = MIN(left, GRANULE_BYTES);

        if (i > 0 && fl->memory[i] == (char *)last->iov_base + last->iov_len) {
            last->iov_len += len;
        } else {
            last = &fl->pieces[n++];
            *last = (struct iovec){fl->memory[i], len};
        }
        left -= len;
    }
    fl->data.buf = fl->memory[0];
    fl->data.iov = fl->pieces;
    fl->data.iov_count = n > 1 ? n : 0;
}

static void start(struct flight *fl, enum io_priority priority)
{
    struct fetch_object *o = fl->object;
    bool read_sums = o->sums.object && !sums_table_loaded(&o->sums, fl->first);

    atomic_fetch_add_explicit(&o->fetch->flight_count, 1, memory_order_relaxed);
    atomic_store_explicit(&fl->pending, read_sums ? 2 : 1, memory_order_relaxed);
    fl->start_ns = clock_now_ns();
    set_pieces(fl);
    fl->data.object = o->data;
    fl->data.len_bytes = flight_bytes(fl);
    fl->data.offset = (struct c_off){fl->first * GRANULE_BYTES};
    fl->data.priority = priority;
    fl->data.done = data_done;
    if (read_sums) {
        fl->sums.object = o->sums.object;
        fl->sums.buf = fl->sums_page;
        fl->sums.len_bytes = SUMS_PAGE_BYTES;
        fl->sums.offset = (struct c_off){fl->first / SUMS_PER_PAGE * (uint64_t)SUMS_PAGE_BYTES};
        fl->sums.priority = priority;
        fl->sums.done = sums_done;
        store_read(&fl->sums);
    }
    store_read(&fl->data);
}

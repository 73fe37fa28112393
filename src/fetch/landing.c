/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The end of a flight: what it has read is verified, published, and those who wait are told.
 *
 * Verification runs where the last read completes, on the I/O thread: the sum of a granule takes
 * a few microseconds, a message to another processor and back takes a hundred.
 *
 * What comes from the store is compared with the build's sums, which the flight has read besides
 * unless they were known. What comes from the disk tier had been verified before it was written
 * there, and is compared with the tier's own sums, or with the build's where they happen to be
 * known: a resume from a warm disk asks the store for nothing.
 */
#include <errno.h>
#include <string.h>

#include "base/clock.h"
#include "cache/bus.h"
#include "fetch/internal.h"
#include "observe/metrics.h"

static void unlist_locked(struct flight *fl)
{
    struct flight **p = &fl->object->chunks[fl->first / CHUNK_GRANULES];

    while (*p != fl)
        p = &(*p)->next;
    *p = fl->next;
}

/* --- verification --- */

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

/* The sums to go by: 0 and *@ret, NULL if the object has none; or why they cannot be had. */
static int find_sums(struct flight *fl, const uint64_t **ret)
{
    struct sums_table *t = &fl->object->sums;

    *ret = NULL;
    if (fl->from_tier && !(t->object && sums_table_loaded(t, fl->first))) {
        *ret = fl->tier.sums;
        return 0;
    }
    return t->object ? sums_table_find(t, fl, ret) : 0;
}

/* Fills in fl->causes; returns whether all granules are as they should be. */
static bool verify(struct flight *fl)
{
    struct fetch_object *o = fl->object;
    int r = fl->data_result < 0 ? (int)fl->data_result : 0;
    const uint64_t *sums = NULL;
    bool good = true;

    if (r < 0)
        r = cache_fill_error(o->cache, fl->first, r);
    else
        r = find_sums(fl, &sums);
    fl->unverified = !sums;
    for (uint32_t i = 0; i < fl->count; i++) {
        fl->causes[i] = r < 0 ? r : verify_granule(fl, i, sums);
        good = good && fl->causes[i] == 0;
    }
    return good;
}

/* --- publishing --- */

/*
 * Publishes what holds, and abandons the rest: bit i of the result is set when granule first + i
 * does not. Keeps a hold of each in fl->holds.
 */
static uint64_t publish(struct flight *fl, int *ret_cause)
{
    struct fetch_object *o = fl->object;
    uint64_t bad = 0;

    for (uint32_t i = 0; i < fl->count; i++) {
        fl->holds[i] = (struct cache_hold){0};
        if (fl->causes[i] < 0) {
            bad |= UINT64_C(1) << i;
            *ret_cause = fl->causes[i];
            cache_abandon(o->cache, fl->first + i);
            continue;
        }
        if (fl->unverified)
            atomic_fetch_add_explicit(&o->fetch->unverified_bytes,
                                      cache_granule_bytes(o->cache, fl->first + i),
                                      memory_order_relaxed);
        fl->holds[i] = cache_publish(o->cache, fl->first + i);
    }
    return bad;
}

/* --- what the disk tier fails --- */

/*
 * Whether to ask again may help: there is the store, or the fault may be another granule's, if it
 * is one of a read that failed as a whole.
 */
static bool may_come_yet(const struct flight *fl)
{
    return fl->from_tier && (fl->object->data || fl->count > 1);
}

/*
 * What the disk does not have as it was written, it is not asked for again: who waits for it asks
 * anew, and gets it from the store. What is good of the flight is served meanwhile. What an overlay
 * has spilled is nowhere else, and must not be forgotten; who asks anew asks for one granule.
 */
static void send_back_bad(struct flight *fl)
{
    for (uint32_t i = 0; i < fl->count; i++) {
        if (fl->causes[i] == 0)
            continue;
        if (fl->object->data)
            tier_forget(fl->object->tier, fl->first + i);
        fl->causes[i] = -EAGAIN;
    }
}

/* --- telling --- */

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
        flight_room_made(f);
}

/* One batch: its reads were over at @read_ns, and what is good of it has just been published. */
static void measure(const struct flight *fl, uint64_t read_ns, bool good)
{
    enum metric_result result = good ? METRIC_SUCCESS : METRIC_FAILURE;
    enum metric_source source = fl->from_tier ? METRIC_SOURCE_DISK : METRIC_SOURCE_STORE;
    uint64_t end_ns = clock_now_ns();

    metric_chunks_store_record(metric_ms(end_ns - fl->start_ns), result);
    metric_fetch_step_record(metric_ms(read_ns - fl->start_ns), METRIC_STEP_READ);
    metric_fetch_step_record(metric_ms(end_ns - read_ns), METRIC_STEP_VERIFY);
    if (fl->data_result > 0) {
        metric_chunks_store_bytes_add((uint64_t)fl->data_result, result);
        metric_fetch_bytes_add((uint64_t)fl->data_result, source);
        if (!fl->object->data)
            metric_cache_spill_read_add((uint64_t)fl->data_result);
    }
    if (!good)
        metric_fetch_failures_add(1, source);
}

static void count_read(const struct flight *fl, uint64_t bad)
{
    struct fetch *f = fl->object->fetch;

    if (fl->data_result > 0)
        atomic_fetch_add_explicit(fl->from_tier ? &f->disk_bytes : &f->read_bytes,
                                  (uint64_t)fl->data_result, memory_order_relaxed);
    if (!may_come_yet(fl))
        atomic_fetch_add_explicit(&f->failed, (uint64_t)__builtin_popcountll(bad),
                                  memory_order_relaxed);
}

/* --- landing --- */

/* Publishes, and takes the flight off its list; from there on @fl is free. */
static void settle(struct flight *fl, uint64_t read_ns)
{
    struct fetch_object *o = fl->object;
    struct fetch *f = o->fetch;
    struct cache_hold holds[READ_AHEAD_GRANULES];
    uint32_t first = fl->first, count = fl->count;
    bool from_tier = fl->from_tier;
    struct fetch_waiter *w;
    int cause = 0;
    uint64_t bad = publish(fl, &cause);

    count_read(fl, bad);
    measure(fl, read_ns, bad == 0);
    memcpy(holds, fl->holds, count * sizeof(*holds));
    mutex_lock(&o->mu);
    unlist_locked(fl);
    w = TAKE_PTR(fl->waiters);
    mutex_unlock(&o->mu);

    flight_put(f, fl);
    tell(f, w, first, bad, cause, holds);
    if (!from_tier)
        behind_add(f->behind, o, first, count);
    put_holds(f, holds, count);
}

void flight_land(struct flight *fl)
{
    struct fetch_object *o = fl->object;
    uint64_t read_ns = clock_now_ns();
    bool good = verify(fl);

    if (!good && may_come_yet(fl))
        send_back_bad(fl);
    settle(fl, read_ns);
    /* Last: from here on the object may be closed. */
    mutex_lock(&o->mu);
    if (--o->flights == 0)
        pthread_cond_broadcast(&o->landed);
    mutex_unlock(&o->mu);
}

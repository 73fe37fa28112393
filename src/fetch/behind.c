/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/behind.h"

#include <errno.h>
#include <stdlib.h>

#include "fetch/internal.h"

#define BEHIND_RUNS 32768u /* in the queue: of one granule each, they are 2 GiB */

/* Granules of an object, one after the other. */
struct run {
    struct fetch_object *object; /* NULL: forgotten */
    uint32_t first, count;
};

struct behind {
    struct tier_behind hook;
    struct tier *tier; /* borrowed */
    pthread_mutex_t mu;
    pthread_cond_t rested;
    struct run *runs;           /* owned: [m] mu: a ring */
    uint32_t oldest, run_count; /* [m] mu */
    uint64_t queued, dropped;   /* [m] mu: granules */
    struct fetch_object *busy;  /* [m] mu: whose granules are being pinned or written */
};

static struct run *oldest_locked(struct behind *b)
{
    return b->run_count > 0 ? &b->runs[b->oldest] : NULL;
}

static void pop_locked(struct behind *b)
{
    b->oldest = (b->oldest + 1) % BEHIND_RUNS;
    b->run_count--;
}

/* --- the tier's thread --- */

/* What is being put together: granules that follow each other, pinned. */
struct batch {
    struct fetch_object *object;
    uint32_t first, count;
};

/* Takes granules off the oldest run that can go on with @batch, at most what still fits. */
static bool take_locked(struct behind *b, const struct batch *batch, struct run *ret)
{
    struct run *r;
    uint32_t n;

    while ((r = oldest_locked(b)) && !r->object)
        pop_locked(b);
    if (!r)
        return false;
    if (batch->count > 0 && (r->object != batch->object || r->first != batch->first + batch->count))
        return false;
    n = MIN(r->count, TIER_WRITE_GRANULES - batch->count);
    *ret = (struct run){r->object, r->first, n};
    r->first += n;
    r->count -= n;
    b->queued -= n;
    if (r->count == 0)
        pop_locked(b);
    b->busy = ret->object;
    return n > 0;
}

static bool take(struct behind *b, const struct batch *batch, struct run *ret)
{
    LOCK_SCOPE(&b->mu);

    return take_locked(b, batch, ret);
}

/* The rest of a run, whose first granules cannot go with the others. */
static void put_back(struct behind *b, const struct run *run)
{
    LOCK_SCOPE(&b->mu);

    if (run->count == 0 || b->run_count == BEHIND_RUNS) {
        b->dropped += run->count;
        return;
    }
    b->oldest = (b->oldest + BEHIND_RUNS - 1) % BEHIND_RUNS;
    b->runs[b->oldest] = *run;
    b->run_count++;
    b->queued += run->count;
}

static void drop(struct behind *b, uint32_t granules)
{
    LOCK_SCOPE(&b->mu);

    b->dropped += granules;
}

static void rest(struct behind *b)
{
    mutex_lock(&b->mu);
    b->busy = NULL;
    pthread_cond_broadcast(&b->rested);
    mutex_unlock(&b->mu);
}

static uint64_t sum_of(const struct fetch_object *o, uint32_t granule, const void *memory)
{
    if (o->sums.object && sums_table_loaded(&o->sums, granule))
        return o->sums.sums[granule];
    return sums_of(memory, cache_granule_bytes(o->cache, granule));
}

/* Pins one granule for @w. Returns false if there is nothing of it to write. */
static bool add_granule(struct fetch_object *o, uint32_t granule, struct tier_write *w)
{
    size_t len = round_up(cache_granule_bytes(o->cache, granule), PAGE_BYTES);
    const void *memory = tier_has(o->tier, granule) ? NULL : cache_peek(o->cache, granule);

    if (!memory)
        return false;
    w->iov[w->count] = (struct iovec){(void *)(uintptr_t)memory, len};
    w->sums[w->count] = sum_of(o, granule, memory);
    w->count++;
    return true;
}

/* Adds what it can of @run; what is left of it afterwards comes behind a gap. */
static void add_run(struct behind *b, struct run *run, struct batch *batch, struct tier_write *w)
{
    for (; run->count > 0; run->first++, run->count--) {
        if (add_granule(run->object, run->first, w)) {
            if (batch->count++ == 0)
                batch->first = run->first;
            continue;
        }
        if (!tier_has(run->object->tier, run->first))
            drop(b, 1);
        if (batch->count > 0) {
            run->first++;
            run->count--;
            return;
        }
    }
}

static void written(struct tier_write *w, int result);

static bool next(struct tier_behind *hook, struct tier_write *w)
{
    struct behind *b = container_of(hook, struct behind, hook);
    struct batch batch = {0};
    struct run run;

    w->count = 0;
    while (batch.count < TIER_WRITE_GRANULES && take(b, &batch, &run)) {
        batch.object = run.object;
        add_run(b, &run, &batch, w);
        if (run.count > 0) {
            put_back(b, &run);
            break;
        }
    }
    if (batch.count == 0) {
        rest(b);
        return false;
    }
    w->file = batch.object->tier;
    w->first = batch.first;
    w->done = written;
    w->context = batch.object;
    return true;
}

static void written(struct tier_write *w, int result)
{
    struct fetch_object *o = w->context;
    struct behind *b = o->fetch->behind;

    for (uint32_t i = 0; i < w->count; i++)
        cache_unpin(o->cache, w->first + i);
    if (result < 0)
        drop(b, w->count);
    rest(b);
}

/* --- everybody else --- */

int behind_create(struct tier *tier, struct behind **ret)
{
    struct behind *b = calloc(1, sizeof(*b));

    if (!b)
        return -ENOMEM;
    b->runs = calloc(BEHIND_RUNS, sizeof(*b->runs));
    if (!b->runs) {
        free(b);
        return -ENOMEM;
    }
    pthread_mutex_init(&b->mu, NULL);
    pthread_cond_init(&b->rested, NULL);
    b->hook.next = next;
    b->tier = tier;
    tier_set_behind(tier, &b->hook);
    *ret = b;
    return 0;
}

void behind_destroy(struct behind *b)
{
    if (!b)
        return;
    tier_set_behind(b->tier, NULL);
    pthread_cond_destroy(&b->rested);
    pthread_mutex_destroy(&b->mu);
    free(b->runs);
    free(b);
}

void behind_add(struct behind *b, struct fetch_object *o, uint32_t first, uint32_t count)
{
    if (!b || !o->tier || !tier_writable(b->tier))
        return;
    mutex_lock(&b->mu);
    if (b->run_count < BEHIND_RUNS) {
        b->runs[(b->oldest + b->run_count++) % BEHIND_RUNS] = (struct run){o, first, count};
        b->queued += count;
    } else {
        b->dropped += count;
    }
    mutex_unlock(&b->mu);
    tier_wake(b->tier);
}

static void purge_locked(struct behind *b, const struct fetch_object *o)
{
    for (uint32_t i = 0; i < b->run_count; i++) {
        struct run *r = &b->runs[(b->oldest + i) % BEHIND_RUNS];

        if (r->object != o)
            continue;
        b->queued -= r->count;
        r->object = NULL;
    }
}

void behind_forget(struct behind *b, struct fetch_object *o)
{
    if (!b)
        return;
    mutex_lock(&b->mu);
    purge_locked(b, o);
    while (b->busy == o) {
        pthread_cond_wait(&b->rested, &b->mu);
        purge_locked(b, o); /* what was put back */
    }
    mutex_unlock(&b->mu);
}

/* When the disk has failed for good, the thread asks for nothing more: what waits then is dropped.
 */
static void give_up_locked(struct behind *b)
{
    if (b->queued == 0 || tier_writable(b->tier))
        return;
    b->dropped += b->queued;
    b->queued = 0;
    b->run_count = 0;
}

struct behind_counters behind_counters(struct behind *b)
{
    struct behind_counters c = {0};

    if (!b)
        return c;
    mutex_lock(&b->mu);
    give_up_locked(b);
    c = (struct behind_counters){b->queued, b->dropped};
    mutex_unlock(&b->mu);
    return c;
}

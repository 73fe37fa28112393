/* SPDX-License-Identifier: Apache-2.0 */

/* Requests: which of them run, which wait and for what, and how they end. */
#include "disk/disk.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "base/error.h"
#include "cache/spill.h"
#include "disk/disk_internal.h"

#define DISK_MEMORY_NAME "rootfs.overlay"

static void take_turn(struct message *m);
static void room_came(void *arg);

static int pools_create(struct disk *d)
{
    void *zeros = mmap(NULL, DISK_ZEROS_BYTES, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    d->zeros = zeros == MAP_FAILED ? NULL : zeros;
    d->bounces = malloc(DISK_BOUNCES * sizeof(*d->bounces));
    if (!d->zeros || !d->bounces)
        return -ENOMEM;
    return disk_waits_create(d);
}

int disk_create(const struct disk_options *options, struct disk **ret, struct thaw_error *e)
{
    struct disk *d CLEANUP_DISK = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return err_set(e, -ENOMEM, "no memory for a disk");
    d->image = options->image;
    d->inbox = options->inbox;
    d->read_only = options->read_only;
    d->turn.deliver = take_turn;
    r = pools_create(d);
    if (r < 0)
        return err_set(e, r, "no memory for a disk");
    r = overlay_create(options->image, &options->build, DISK_MEMORY_NAME, &d->overlay, e);
    if (r == 0 && !d->read_only)
        r = overlay_spill_to(d->overlay, d->inbox, room_came, d, e);
    if (r < 0)
        return r;
    d->size_bytes = overlay_bytes(d->overlay);
    *ret = TAKE_PTR(d);
    return 0;
}

void disk_destroy(struct disk *d)
{
    if (!d)
        return;
    assert(!d->oldest && disk_under_way(d) == 0);
    overlay_destroy(d->overlay);
    disk_waits_destroy(d);
    free(d->bounces);
    if (d->zeros)
        munmap(d->zeros, DISK_ZEROS_BYTES);
    free(d);
}

uint64_t disk_bytes(const struct disk *d)
{
    return d->size_bytes;
}

struct overlay *disk_overlay(struct disk *d)
{
    return d->overlay;
}

/* --- the queues --- */

static void queue_push(struct request_queue *q, struct disk_request *r, enum disk_queue which)
{
    r->queue = (uint8_t)which;
    r->queue_next = NULL;
    if (q->first)
        q->last->queue_next = r;
    else
        q->first = r;
    q->last = r;
}

static struct disk_request *queue_pop(struct request_queue *q)
{
    struct disk_request *r = q->first;

    if (r) {
        q->first = r->queue_next;
        r->queue = QUEUE_NONE;
    }
    return r;
}

static void queue_remove(struct request_queue *q, struct disk_request *r)
{
    struct disk_request *prev = NULL;

    for (struct disk_request *at = q->first; at != r; at = at->queue_next)
        prev = at;
    if (prev)
        prev->queue_next = r->queue_next;
    else
        q->first = r->queue_next;
    if (q->last == r)
        q->last = prev;
    r->queue = QUEUE_NONE;
}

void disk_yield(struct disk *d, struct disk_request *r)
{
    queue_push(&d->ready, r, QUEUE_READY);
    d->ready_count++;
    if (!d->turn_posted) {
        d->turn_posted = true;
        mailbox_post(d->inbox, &d->turn);
    }
}

bool disk_may_take(const struct disk *d, const struct disk_request *r)
{
    return d->starving == 0 || r->starved;
}

void disk_starve(struct disk *d, struct disk_request *r)
{
    d->starving += !r->starved;
    r->starved = true;
    queue_push(&d->starved, r, QUEUE_STARVED);
}

void disk_fed(struct disk *d, struct disk_request *r)
{
    d->starving -= r->starved;
    r->starved = false;
}

void disk_pace(struct disk *d, struct disk_request *r)
{
    queue_push(&d->paced, r, QUEUE_PACED);
    d->paced_count++;
}

/* At once and in their order, so that who waits has the room and not who comes later. */
static void room_came(void *arg)
{
    struct disk *d = arg;

    for (unsigned n = d->paced_count; n > 0 && d->paced.first; n--) {
        struct disk_request *r = queue_pop(&d->paced);

        d->paced_count--;
        disk_resume(d, r);
    }
}

void disk_gave_back(struct disk *d)
{
    struct disk_request *r;

    /* All of them, as each may lack something else; in their order, so that none is overtaken. */
    while ((r = queue_pop(&d->starved)) != NULL)
        disk_yield(d, r);
}

/* --- order: of two that overlap and change something, the first one goes first --- */

static bool overlap(const struct disk_request *a, const struct disk_request *b)
{
    return a->op != DISK_READ && b->op != DISK_READ && a->start < b->end && b->start < a->end;
}

static unsigned count_blockers(const struct disk *d, const struct disk_request *r)
{
    unsigned n = 0;

    for (const struct disk_request *other = d->oldest; other; other = other->next)
        n += overlap(other, r);
    return n;
}

static void link_newest(struct disk *d, struct disk_request *r)
{
    r->prev = d->newest;
    if (r->prev)
        r->prev->next = r;
    else
        d->oldest = r;
    d->newest = r;
}

/* And let those go on that it blocked. */
static void unlink_request(struct disk *d, struct disk_request *r)
{
    for (struct disk_request *other = r->next; other; other = other->next) {
        if (overlap(r, other) && --other->blockers == 0)
            disk_yield(d, other);
    }
    if (r->prev)
        r->prev->next = r->next;
    else
        d->oldest = r->next;
    if (r->next)
        r->next->prev = r->prev;
    else
        d->newest = r->prev;
}

/* --- the life of a request --- */

void disk_fail(struct disk_request *r, int result, int cause)
{
    if (r->result < 0)
        return;
    r->result = result;
    r->cause = cause;
}

static void keep_books(struct disk *d, const struct disk_request *r)
{
    struct disk_books *b = &d->books;

    if (r->result < 0) {
        book(&b->failed, 1);
        return;
    }
    book(&b->ops[r->op], 1);
    if (r->op == DISK_READ)
        book(&b->read_bytes, r->len_bytes);
    else if (r->op == DISK_WRITE)
        book(&b->written_bytes, r->len_bytes);
}

/* What a request has of the disk's; it waits for nothing any more. */
static void release(struct disk *d, struct disk_request *r)
{
    disk_fed(d, r);
    disk_bounce_put(d, r);
    /* Without having taken anything it may have kept others from it. */
    disk_gave_back(d);
    keep_books(d, r);
}

static bool step(struct disk *d, struct disk_request *r)
{
    return r->op == DISK_READ ? disk_read_step(d, r) : disk_write_step(d, r);
}

static void complete(struct disk *d, struct disk_request *r)
{
    unlink_request(d, r);
    release(d, r);
    r->done(r);
}

void disk_resume(struct disk *d, struct disk_request *r)
{
    if (r->queue == QUEUE_NONE && step(d, r))
        complete(d, r);
}

/* Those that are ready now; whoever becomes ready meanwhile has his turn after other messages. */
static void take_turn(struct message *m)
{
    struct disk *d = container_of(m, struct disk, turn);
    unsigned n = d->ready_count;

    d->turn_posted = false;
    for (; n > 0 && d->ready.first; n--) {
        struct disk_request *r = queue_pop(&d->ready);

        d->ready_count--;
        disk_resume(d, r);
    }
}

/* --- from outside --- */

static int check(const struct disk *d, const struct disk_request *r)
{
    if (d->ended)
        return -ESHUTDOWN;
    if (r->op == DISK_FLUSH)
        return 0;
    if (r->off > d->size_bytes || r->len_bytes > d->size_bytes - r->off)
        return -EINVAL;
    return r->op != DISK_READ && d->read_only ? -EROFS : 0;
}

static void begin(struct disk *d, struct disk_request *r)
{
    r->start = r->at = r->off;
    r->end = r->stop = r->off + r->len_bytes;
    r->edges[0] = r->edges[1] = EDGE_NONE;
    r->queue = QUEUE_NONE;
    r->counted = r->starved = false;
    r->waits = r->blockers = 0;
    r->patience = 0;
    r->bounce = NULL;
    r->prev = r->next = r->queue_next = NULL;
    if (r->op != DISK_READ)
        disk_write_begin(d, r);
}

int disk_submit(struct disk *d, struct disk_request *r)
{
    r->result = check(d, r);
    r->cause = 0;
    /* What was written has been in memory that outlives us since before it was answered. */
    if (r->result < 0 || r->op == DISK_FLUSH || r->len_bytes == 0) {
        keep_books(d, r);
        return 1;
    }
    begin(d, r);
    r->blockers = count_blockers(d, r);
    if (r->blockers == 0 && step(d, r)) {
        release(d, r);
        return 1;
    }
    link_newest(d, r);
    return 0;
}

void disk_cancel(struct disk *d, struct disk_request *r)
{
    if (r->queue == QUEUE_READY) {
        queue_remove(&d->ready, r);
        d->ready_count--;
    } else if (r->queue == QUEUE_STARVED) {
        queue_remove(&d->starved, r);
    } else if (r->queue == QUEUE_PACED) {
        queue_remove(&d->paced, r);
        d->paced_count--;
    }
    disk_forget(d, r);
    disk_fail(r, -ECANCELED, 0);
    complete(d, r);
}

void disk_cancel_all(struct disk *d)
{
    d->ended = true;
    while (d->newest)
        disk_cancel(d, d->newest);
    overlay_stop(d->overlay);
}

unsigned disk_under_way(const struct disk *d)
{
    return d->waits_out + d->turn_posted + overlay_under_way(d->overlay);
}

static uint64_t counter(const _Atomic(uint64_t) *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

struct disk_counters disk_counters(const struct disk *d)
{
    const struct disk_books *b = &d->books;
    int64_t bytes = overlay_allocated_bytes(d->overlay);
    struct cache_spill_counters spill = overlay_spill_counters(d->overlay);

    return (struct disk_counters){
        .reads = counter(&b->ops[DISK_READ]),
        .writes = counter(&b->ops[DISK_WRITE]),
        .zeroes = counter(&b->ops[DISK_ZERO]),
        .trims = counter(&b->ops[DISK_TRIM]),
        .flushes = counter(&b->ops[DISK_FLUSH]),
        .failed = counter(&b->failed),
        .read_bytes = counter(&b->read_bytes),
        .written_bytes = counter(&b->written_bytes),
        .waited = counter(&b->waited),
        .paced = spill.paced,
        .dirty_bytes = (uint64_t)MAX(bytes - (int64_t)spill.disk_bytes, 0),
        .disk_bytes = spill.disk_bytes,
        .spilled_bytes = spill.written_bytes,
    };
}

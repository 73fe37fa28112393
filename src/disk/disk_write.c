/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Writing, zeroing, trimming. Whole blocks need nothing but room in the overlay. Of a block that is
 * changed in part, the rest is read first, into the request's bounce:
 *
 *     OPEN --there--------------------------> READ --no room--> MERGED
 *       |                                      ^                   |
 *       +--fetch--> ASKED --granule came-------+---others wrote----+
 *
 * When both edges have been read, they are written in one go. Nothing is lost if others have
 * written to an edge in the meantime: it is read again, from the overlay, where no block ever goes
 * away. If what the overlay has of it was spilled, and is not in memory any more, it is OPEN again:
 * in however many rounds, as its granule is there while its message is delivered. And what was read
 * of the image is so for ever.
 *
 * A write that finds no room waits until something has been spilled, if there is hope; it goes on
 * where it was.
 */
#include "disk/disk_internal.h"

#include <assert.h>
#include <errno.h>
#include <string.h>

static uint64_t block_end(const struct disk *d, uint64_t block)
{
    return MIN(block + PAGE_BYTES, d->size_bytes);
}

/* A trim is of those blocks only that lie within it as a whole. */
static void trim_begin(const struct disk *d, struct disk_request *r)
{
    r->start = round_up(r->start, PAGE_BYTES);
    if (r->end < d->size_bytes)
        r->end = round_down(r->end, PAGE_BYTES);
    r->at = r->start = MIN(r->start, r->end);
    r->stop = r->end;
}

void disk_write_begin(struct disk *d, struct disk_request *r)
{
    uint64_t first = round_down(r->start, PAGE_BYTES);
    uint64_t last = round_down(r->end - 1, PAGE_BYTES);

    if (r->op == DISK_TRIM) {
        trim_begin(d, r);
        return;
    }
    r->edge_blocks[0] = first;
    r->edge_blocks[1] = last;
    if (r->start > first || r->end < block_end(d, first)) {
        r->edges[0] = EDGE_OPEN;
        r->at = block_end(d, first);
    }
    if (last > first && r->end < block_end(d, last)) {
        r->edges[1] = EDGE_OPEN;
        r->stop = last;
    }
}

static bool has_edges(const struct disk_request *r)
{
    return r->edges[0] != EDGE_NONE || r->edges[1] != EDGE_NONE;
}

/* --- bounces --- */

static struct disk_bounce *bounce_take(struct disk *d)
{
    struct disk_bounce *b = d->free_bounces;

    if (b)
        d->free_bounces = b->next;
    else if (d->bounces_used < DISK_BOUNCES)
        b = &d->bounces[d->bounces_used++];
    return b;
}

static bool bounce_get(struct disk *d, struct disk_request *r)
{
    if (!r->bounce && disk_may_take(d, r))
        r->bounce = bounce_take(d);
    return r->bounce;
}

void disk_bounce_put(struct disk *d, struct disk_request *r)
{
    struct disk_bounce *b = r->bounce;

    if (!b)
        return;
    r->bounce = NULL;
    b->next = d->free_bounces;
    d->free_bounces = b;
    disk_gave_back(d);
}

/* --- the edges --- */

/* Returns 0, or -EAGAIN when it takes a wait and there is none. */
static int edge_open(struct disk *d, struct disk_request *r, unsigned i)
{
    uint64_t block = r->edge_blocks[i], end = block_end(d, block);
    char *to = r->bounce->blocks[i];
    struct overlay_extent x;
    int result = overlay_lookup(d->overlay, block, end - block, &x);

    /* What may still change is read when it is needed; but it has to be there then. */
    if (result == 0 && (x.source == OVERLAY_IMAGE || x.source == OVERLAY_SPILLED))
        result = overlay_copy(d->overlay, &x, to, x.len_bytes);
    if (result == 0)
        r->edges[i] = EDGE_READ;
    if (result == -EAGAIN) {
        r->edges[i] = EDGE_ASKED;
        result = disk_fetch(d, r, block, end, to, &r->edges[i]);
        if (result == -EAGAIN)
            r->edges[i] = EDGE_OPEN;
    }
    if (result < 0 && result != -EAGAIN)
        disk_fail(r, -EIO, result);
    return result == -EAGAIN ? result : 0;
}

/* Returns whether both edges have been read, or the request has failed and waits for nothing. */
static bool edges_gather(struct disk *d, struct disk_request *r)
{
    bool lacking = !bounce_get(d, r);

    for (unsigned i = 0; i < 2 && !lacking && r->result == 0; i++)
        lacking = r->edges[i] == EDGE_OPEN && edge_open(d, r, i) < 0;
    if (r->waits > 0)
        return false;
    if (lacking)
        disk_starve(d, r);
    return !lacking;
}

/* What the overlay has of an edge, also since it was read. */
static int edge_refresh(struct disk *d, struct disk_request *r, unsigned i)
{
    uint64_t block = r->edge_blocks[i];
    struct overlay_extent x;
    int result = overlay_lookup(d->overlay, block, block_end(d, block) - block, &x);

    if (result < 0 || x.source == OVERLAY_IMAGE)
        return result;
    r->edges[i] = EDGE_READ;
    return overlay_copy(d->overlay, &x, r->bounce->blocks[i], x.len_bytes);
}

/* Puts the request's part into an edge; returns whether that changes anything. */
static bool edge_merge(const struct disk *d, const struct disk_request *r, unsigned i)
{
    uint64_t block = r->edge_blocks[i];
    uint64_t from = MAX(r->start, block), to = MIN(r->end, block_end(d, block));
    char *part = r->bounce->blocks[i] + (from - block);

    if (r->op == DISK_WRITE) {
        memcpy(part, (const char *)r->data + (from - r->start), to - from);
        return true;
    }
    if (memcmp(part, d->zeros, to - from) == 0)
        return false;
    memset(part, 0, to - from);
    return true;
}

/* Returns whether what both held is in the bounce now; if not, one is open again, or it failed. */
static bool edges_refresh(struct disk *d, struct disk_request *r)
{
    for (unsigned i = 0; i < 2; i++) {
        int result = r->edges[i] == EDGE_NONE ? 0 : edge_refresh(d, r, i);

        if (result == 0)
            continue;
        if (result == -EAGAIN)
            r->edges[i] = EDGE_OPEN;
        else
            disk_fail(r, -EIO, result);
        return false;
    }
    return true;
}

/* After a write: whether it has to wait for room. Otherwise it may have failed. */
static bool is_paced(struct disk *d, struct disk_request *r, int result)
{
    if (result == -ENOSPC && overlay_await_room(d->overlay, &r->patience)) {
        disk_pace(d, r);
        return true;
    }
    if (result < 0) {
        disk_fail(r, result, 0);
        r->edges[0] = r->edges[1] = EDGE_NONE;
    }
    r->patience = 0;
    return false;
}

/*
 * Both are read before the first one is written: a request that fails for it has changed nothing.
 * Returns false if it waits for room.
 */
static bool edges_write(struct disk *d, struct disk_request *r)
{
    if (!edges_refresh(d, r))
        return true;
    for (unsigned i = 0; i < 2 && r->result == 0; i++) {
        uint64_t block = r->edge_blocks[i];
        int result = 0;

        if (r->edges[i] == EDGE_READ && edge_merge(d, r, i))
            r->edges[i] = EDGE_MERGED;
        if (r->edges[i] == EDGE_MERGED)
            result =
                overlay_write(d->overlay, block, r->bounce->blocks[i], block_end(d, block) - block);
        if (is_paced(d, r, result))
            return false;
        r->edges[i] = EDGE_NONE;
    }
    return true;
}

/* --- whole blocks --- */

/* Returns false if it waits for room. */
static bool write_slice(struct disk *d, struct disk_request *r)
{
    uint64_t slice = r->op == DISK_WRITE ? DISK_COPY_SLICE : DISK_ZERO_SLICE;
    uint64_t n = MIN(r->stop - r->at, slice);
    int result;

    if (r->op == DISK_WRITE)
        result = overlay_write(d->overlay, r->at, (const char *)r->data + (r->at - r->start), n);
    else
        result = overlay_zero(d->overlay, r->at, n);
    if (is_paced(d, r, result))
        return false;
    r->at += n;
    return true;
}

bool disk_write_step(struct disk *d, struct disk_request *r)
{
    while (has_edges(r)) {
        if (!edges_gather(d, r))
            return false;
        if (r->result < 0)
            return true;
        if (!edges_write(d, r))
            return false;
    }
    if (r->result == 0 && r->at < r->stop && !write_slice(d, r))
        return false;
    if (r->result < 0 || r->at >= r->stop)
        return true;
    disk_yield(d, r);
    return false;
}

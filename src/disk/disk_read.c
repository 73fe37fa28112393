/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/disk_internal.h"

#include <errno.h>

/*
 * Goes on at r->at with up to @len_bytes: copies what is there, sends for what is not. Returns 0,
 * or -EAGAIN when that takes a wait and there is none.
 */
static int read_piece(struct disk *d, struct disk_request *r, uint64_t len_bytes)
{
    char *to = (char *)r->data + (r->at - r->start);
    struct overlay_extent x;
    int result = overlay_lookup(d->overlay, r->at, len_bytes, &x);

    if (result == 0)
        result = overlay_copy(d->overlay, &x, to, x.len_bytes);
    if (result == -EAGAIN)
        result = disk_fetch(d, r, r->at, r->at + x.len_bytes, to, NULL);
    if (result == -EAGAIN)
        return result;
    if (result < 0)
        disk_fail(r, -EIO, result);
    else
        r->at += x.len_bytes;
    return 0;
}

bool disk_read_step(struct disk *d, struct disk_request *r)
{
    uint64_t until = MIN(r->stop, r->at + DISK_COPY_SLICE);

    while (r->result == 0 && r->at < until) {
        if (read_piece(d, r, until - r->at) < 0) {
            /* One of its own waits brings it back, if it has any. */
            if (r->waits == 0)
                disk_starve(d, r);
            return false;
        }
    }
    if (r->result == 0 && r->at < r->stop) {
        disk_yield(d, r);
        return false;
    }
    return r->waits == 0;
}

/* --- views --- */

static int view_add(struct disk_view *v, const void *memory, size_t len)
{
    struct iovec *last = v->pieces > 0 ? &v->iov[v->pieces - 1] : NULL;

    /* Granules that follow each other follow each other in memory. */
    if (last && (const char *)last->iov_base + last->iov_len == memory) {
        last->iov_len += len;
        return 0;
    }
    if (v->pieces == DISK_VIEW_PIECES)
        return -EAGAIN;
    v->iov[v->pieces].iov_base = (void *)(uintptr_t)memory;
    v->iov[v->pieces].iov_len = len;
    v->pieces++;
    return 0;
}

static int view_zeros(const struct disk *d, struct disk_view *v, uint64_t len)
{
    while (len > 0) {
        size_t n = MIN(len, DISK_ZEROS_BYTES);
        int r = view_add(v, d->zeros, n);

        if (r < 0)
            return r;
        len -= n;
    }
    return 0;
}

static int view_pinned(struct disk *d, struct disk_view *v, const struct overlay_extent *x)
{
    const void *memory;

    if (v->pins == DISK_VIEW_PIECES)
        return -EAGAIN;
    memory = overlay_pin(d->overlay, x);
    if (!memory)
        return -EAGAIN;
    v->pinned[v->pins].granule = x->at.granule;
    v->pinned[v->pins].layer = x->at.layer;
    v->pinned[v->pins].spilled = x->source == OVERLAY_SPILLED;
    v->pins++;
    return view_add(v, memory, x->len_bytes);
}

static int view_changed(struct disk *d, struct disk_view *v, struct overlay_extent x)
{
    while (x.len_bytes > 0) {
        const void *memory;
        uint64_t n;
        int r = overlay_memory(d->overlay, &x, &memory, &n);

        if (r == 0)
            r = view_add(v, memory, n);
        if (r < 0)
            return r;
        x.off += n;
        x.len_bytes -= n;
    }
    return 0;
}

static int view_extent(struct disk *d, struct disk_view *v, const struct overlay_extent *x)
{
    switch (x->source) {
    case OVERLAY_ZEROS:
        return view_zeros(d, v, x->len_bytes);
    case OVERLAY_IMAGE:
    case OVERLAY_SPILLED:
        return view_pinned(d, v, x);
    case OVERLAY_CHANGED:
        break;
    }
    return view_changed(d, v, *x);
}

int disk_view(struct disk *d, uint64_t off, uint32_t len_bytes, struct disk_view *ret)
{
    uint64_t end = off + len_bytes;
    int r = 0;

    if (off > d->size_bytes || len_bytes > d->size_bytes - off)
        return -EINVAL;
    if (d->ended)
        return -ESHUTDOWN;
    ret->pieces = ret->pins = 0;
    while (off < end && r == 0) {
        struct overlay_extent x;

        r = overlay_lookup(d->overlay, off, end - off, &x);
        if (r < 0)
            break;
        r = view_extent(d, ret, &x);
        off += x.len_bytes;
    }
    if (r < 0) {
        disk_view_end(d, ret);
        return r;
    }
    book(&d->books.ops[DISK_READ], 1);
    book(&d->books.read_bytes, len_bytes);
    return 0;
}

void disk_view_end(struct disk *d, struct disk_view *v)
{
    for (unsigned i = 0; i < v->pins; i++) {
        const struct disk_view_pin *pin = &v->pinned[i];
        struct overlay_extent x = {
            .source = pin->spilled ? OVERLAY_SPILLED : OVERLAY_IMAGE,
            .at = {.layer = pin->layer, .granule = pin->granule},
        };

        overlay_unpin(d->overlay, &x);
    }
    v->pins = v->pieces = 0;
}

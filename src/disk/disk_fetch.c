/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Parts of requests that need a granule of the image, or of what was spilled. Each is copied by
 * itself as soon as its granule has come, so that none is needed for longer than that, and a small
 * cache is enough for any number of requests. Until then the guest may have written to the same
 * blocks: what is copied is what the disk holds at that moment.
 */
#include "disk/disk_internal.h"

#include <assert.h>
#include <errno.h>

static void granule_came(struct message *m);

int disk_waits_create(struct disk *d)
{
    d->waits = calloc(DISK_WAITS, sizeof(*d->waits));
    if (!d->waits)
        return -ENOMEM;
    for (unsigned i = 0; i < DISK_WAITS; i++) {
        struct disk_wait *w = &d->waits[i];

        w->disk = d;
        w->waiter.to = d->inbox;
        w->waiter.msg.deliver = granule_came;
        w->next = d->free_waits;
        d->free_waits = w;
    }
    return 0;
}

void disk_waits_destroy(struct disk *d)
{
    assert(d->waits_out == 0);
    free(d->waits);
}

static struct disk_wait *wait_get(struct disk *d, struct disk_request *r)
{
    struct disk_wait *w = d->free_waits;

    if (!w || r->waits == DISK_REQUEST_WAITS || !disk_may_take(d, r))
        return NULL;
    d->free_waits = w->next;
    d->waits_out++;
    r->waits++;
    w->request = r;
    disk_fed(d, r);
    return w;
}

static void wait_put(struct disk *d, struct disk_wait *w)
{
    if (w->request)
        w->request->waits--;
    w->request = NULL;
    w->next = d->free_waits;
    d->free_waits = w;
    d->waits_out--;
    disk_gave_back(d);
}

/*
 * Copies what is there, from the front. Returns 0 when all has been copied, -EINPROGRESS when a
 * message will come, or why the rest cannot be had.
 */
static int advance(struct disk *d, struct disk_wait *w)
{
    while (w->off < w->end) {
        struct overlay_extent x;
        int r = overlay_lookup(d->overlay, w->off, w->end - w->off, &x);

        if (r == 0)
            r = overlay_copy(d->overlay, &x, w->to, x.len_bytes);
        if (r == -EAGAIN) {
            r = overlay_want(d->overlay, &x, IO_DEMAND, &w->waiter);
            if (r == 0)
                return -EINPROGRESS;
            if (r == -EALREADY || r == -EAGAIN)
                continue;
        }
        if (r < 0)
            return r;
        w->off += x.len_bytes;
        w->to += x.len_bytes;
    }
    return 0;
}

/* Returns whether a message will come; otherwise the wait has been given back. */
static bool go_on(struct disk *d, struct disk_wait *w)
{
    int result = advance(d, w);

    if (result == -EINPROGRESS)
        return true;
    if (result < 0)
        disk_fail(w->request, -EIO, result);
    else if (w->edge)
        *w->edge = EDGE_READ;
    wait_put(d, w);
    return false;
}

static void granule_came(struct message *m)
{
    struct disk_wait *w =
        container_of(container_of(m, struct fetch_waiter, msg), struct disk_wait, waiter);
    struct disk_request *r = w->request;
    struct disk *d = w->disk;

    if (r && w->waiter.result < 0 && w->waiter.result != -EAGAIN)
        disk_fail(r, -EIO, w->waiter.result);
    if (!r || r->result < 0)
        wait_put(d, w);
    else if (go_on(d, w))
        return;
    if (r)
        disk_resume(d, r);
}

int disk_fetch(struct disk *d, struct disk_request *r, uint64_t off, uint64_t end, char *to,
               uint8_t *edge)
{
    struct disk_wait *w = wait_get(d, r);

    if (!w)
        return -EAGAIN;
    w->off = off;
    w->end = end;
    w->to = to;
    w->edge = edge;
    if (go_on(d, w) && !r->counted) {
        r->counted = true;
        book(&d->books.waited, 1);
    }
    return 0;
}

void disk_forget(struct disk *d, struct disk_request *r)
{
    for (unsigned i = 0; i < DISK_WAITS && r->waits > 0; i++) {
        if (d->waits[i].request != r)
            continue;
        d->waits[i].request = NULL;
        r->waits--;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The way out: a queue of parts, each a head and data, sent in order by as few calls as they fit
 * into. A part that the disk has yet to fill in holds up those behind it, so a read in one piece
 * can be queued before all of it is there.
 */
#include <assert.h>
#include <errno.h>

#include "base/units.h"
#include "disk/nbd_conn_internal.h"

#define IOVS 64

static void append(struct nbd_part **first, struct nbd_part **last, struct nbd_part *p)
{
    p->next = NULL;
    if (*first)
        (*last)->next = p;
    else
        *first = p;
    *last = p;
}

void nbd_queue(struct nbd_part *p)
{
    struct nbd_conn *c = p->slot->conn;

    if (c->stream && p->slot != c->stream)
        append(&c->held, &c->held_last, p);
    else
        append(&c->queue, &c->queue_last, p);
}

void nbd_stream_end(struct nbd_conn *c)
{
    c->stream = NULL;
    if (!c->held)
        return;
    if (c->queue)
        c->queue_last->next = c->held;
    else
        c->queue = c->held;
    c->queue_last = c->held_last;
    c->held = c->held_last = NULL;
}

/* All of @p is on its way. */
static void sent(struct nbd_part *p)
{
    struct nbd_slot *s = p->slot;
    bool last = p->last;

    if (nbd_is_large(p))
        nbd_large_free(p);
    if (last) {
        nbd_measure_answer(s);
        nbd_slot_free(s);
    }
}

static void fail(struct nbd_conn *c, int error)
{
    c->error = error;
    nbd_conn_break(c);
}

static size_t gather(const struct nbd_conn *c, struct iovec *iov, size_t *ret_bytes)
{
    size_t n = 0;

    *ret_bytes = 0;
    for (struct nbd_part *p = c->queue; p && p->ready && n + 2 <= IOVS; p = p->next) {
        if (p->head_at < p->head_len)
            iov[n++] = (struct iovec){p->head + p->head_at, p->head_len - p->head_at};
        if (p->data_len > 0)
            iov[n++] = (struct iovec){(void *)(uintptr_t)p->data, p->data_len};
        *ret_bytes += p->head_len - p->head_at + p->data_len;
    }
    return n;
}

/* Takes @n bytes off a part; what is left of @n. */
static size_t take_off(struct nbd_part *p, size_t n)
{
    uint32_t head = (uint32_t)MIN(n, (size_t)(p->head_len - p->head_at));
    uint32_t data = (uint32_t)MIN(n - head, (size_t)p->data_len);

    p->head_at += head;
    p->data += data;
    p->data_len -= data;
    return n - head - data;
}

static void advance(struct nbd_conn *c, size_t n)
{
    while (c->queue && c->queue->ready) {
        struct nbd_part *p = c->queue;

        n = take_off(p, n);
        if (p->head_at < p->head_len || p->data_len > 0)
            return;
        c->queue = p->next;
        sent(p);
    }
}

bool nbd_send(struct nbd_conn *c)
{
    bool moved = false;

    while (c->writable && c->queue && c->queue->ready) {
        struct iovec iov[IOVS];
        size_t bytes, count = gather(c, iov, &bytes);
        ssize_t n = c->ops->send(c->peer, iov, count);

        if (n < 0 && n != -EAGAIN) {
            fail(c, (int)n);
            return true;
        }
        if (n < (ssize_t)bytes)
            c->writable = false;
        if (n > 0) {
            advance(c, (size_t)n);
            moved = true;
        }
    }
    return moved;
}

/* --- in place --- */

static void rest_read(struct nbd_part *p)
{
    struct nbd_conn *c = p->slot->conn;

    p->with_disk = false;
    c->at_disk--;
    p->ready = true;
    if (p->disk.result < 0) {
        nbd_measure_failure(&p->disk);
        fail(c, p->disk.result); /* the head has promised those bytes */
    }
}

static void rest_done(struct disk_request *r)
{
    struct nbd_part *p = container_of(r, struct nbd_part, disk);
    struct nbd_conn *c = p->slot->conn;

    rest_read(p);
    c->ops->wake(c->peer);
}

/* The stream took @n bytes of the head and the data: the rest is copied, by the disk. */
static void queue_rest(struct nbd_part *p, uint64_t off, uint32_t len_bytes, size_t n)
{
    struct nbd_conn *c = p->slot->conn;
    uint32_t head = (uint32_t)MIN(n, (size_t)p->head_len);
    uint32_t data = (uint32_t)(n - head);

    p->head_at = head;
    p->data = p->buffer;
    p->data_len = len_bytes - data;
    p->ready = false;
    p->disk = (struct disk_request){
        .op = DISK_READ,
        .off = off + data,
        .len_bytes = len_bytes - data,
        .data = p->buffer,
        .done = rest_done,
    };
    nbd_queue(p);
    p->with_disk = true;
    c->at_disk++;
    if (c->ops->submit(c->disk, &p->disk) == 1)
        rest_read(p);
}

/* Head and data by one call. What send() said. */
static ssize_t send_in_place(struct nbd_part *p, const struct disk_view *v)
{
    struct nbd_conn *c = p->slot->conn;
    struct iovec iov[DISK_VIEW_PIECES + 1];
    size_t count = 0;

    if (p->head_len > 0)
        iov[count++] = (struct iovec){p->head, p->head_len};
    for (unsigned i = 0; i < v->pieces; i++)
        iov[count++] = v->iov[i];
    return c->ops->send(c->peer, iov, count);
}

enum nbd_view_result nbd_send_view(struct nbd_part *p, uint64_t off, uint32_t len_bytes)
{
    struct nbd_conn *c = p->slot->conn;
    struct disk_view v;
    ssize_t n;

    nbd_send(c);
    if (c->queue || !c->writable || c->state == NBD_CONN_OVER)
        return NBD_VIEW_NOT_NOW;
    if (c->ops->view(c->disk, off, len_bytes, &v) < 0)
        return NBD_VIEW_MISSING;
    n = send_in_place(p, &v);
    c->ops->view_end(c->disk, &v);
    if (n == -EFAULT)
        return NBD_VIEW_MISSING; /* whatever is wrong there: the request will tell */
    if (n < 0 && n != -EAGAIN)
        fail(c, (int)n);
    if (n <= 0) {
        c->writable = false;
        return NBD_VIEW_NOT_NOW;
    }
    nbd_count(&c->counters->viewed_bytes, MAX((size_t)n, p->head_len) - p->head_len);
    if ((size_t)n < p->head_len + (size_t)len_bytes) {
        c->writable = false;
        queue_rest(p, off, len_bytes, (size_t)n);
    } else {
        sent(p);
    }
    return NBD_VIEW_SENT;
}

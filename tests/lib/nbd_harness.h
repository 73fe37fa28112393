/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_NBD_HARNESS_H
#define THAW_TESTS_NBD_HARNESS_H

/*
 * A connection without socket and disk: bytes in, bytes out, and a disk in memory whose requests
 * end when the seed says so. The stream gives and takes pieces of any size. Reads and writes of the
 * bad range fail.
 */

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/units.h"
#include "disk/disk.h"
#include "disk/nbd_conn.h"
#include "test_random.h"

#define HARNESS_DISK_BYTES (3 * MIB + 12345)
#define HARNESS_BAD_BEGIN  (2 * MIB + 100000)
#define HARNESS_BAD_END    (2 * MIB + 100512)
#define HARNESS_PENDING    512

struct harness {
    struct nbd_conn *conn;
    struct nbd_counters counters;
    struct test_random random;
    const uint8_t *in; /* what the client sends, and has not been taken */
    size_t in_left;
    bool eof;       /* after that the stream ends */
    bool stuck;     /* the client reads nothing */
    struct buf out; /* what the client got */
    uint8_t *disk;  /* owned */
    struct disk_request *pending[HARNESS_PENDING];
    unsigned pending_count;
    unsigned views; /* that are not ended */
};

/* The functions get the harness as peer and as disk. */
static inline struct harness *harness_of(struct disk *d)
{
    return (struct harness *)(void *)d;
}

static inline ssize_t harness_receive(void *peer, struct iovec *iov, size_t count)
{
    struct harness *h = peer;
    size_t room = 0, n, done = 0;

    for (size_t i = 0; i < count; i++)
        room += iov[i].iov_len;
    if (h->in_left == 0)
        return h->eof ? 0 : -EAGAIN;
    n = MIN(room, h->in_left);
    if (test_random_below(&h->random, 2) == 0)
        n = 1 + (size_t)test_random_below(&h->random, n);
    for (size_t i = 0; done < n; i++) {
        size_t part = MIN(iov[i].iov_len, n - done);

        memcpy(iov[i].iov_base, h->in + done, part);
        done += part;
    }
    h->in += n;
    h->in_left -= n;
    return (ssize_t)n;
}

static inline ssize_t harness_send(void *peer, struct iovec *iov, size_t count)
{
    struct harness *h = peer;
    size_t all = 0, n, done = 0;

    for (size_t i = 0; i < count; i++)
        all += iov[i].iov_len;
    if (h->stuck || test_random_below(&h->random, 8) == 0)
        return -EAGAIN;
    n = test_random_below(&h->random, 2) ? all : 1 + (size_t)test_random_below(&h->random, all);
    for (size_t i = 0; done < n; i++) {
        size_t part = MIN(iov[i].iov_len, n - done);

        buf_put(&h->out, iov[i].iov_base, part);
        done += part;
    }
    return (ssize_t)n;
}

static inline bool harness_is_bad(uint64_t off, uint64_t len)
{
    return off < HARNESS_BAD_END && HARNESS_BAD_BEGIN < off + len;
}

static inline void harness_execute(struct harness *h, struct disk_request *r)
{
    r->result = 0;
    if (r->op == DISK_FLUSH)
        return;
    if (r->off > HARNESS_DISK_BYTES || r->len_bytes > HARNESS_DISK_BYTES - r->off)
        abort(); /* the connection lets nothing through that does not fit */
    if (harness_is_bad(r->off, r->len_bytes))
        r->result = -EIO;
    else if (r->op == DISK_READ)
        memcpy(r->data, h->disk + r->off, r->len_bytes);
    else if (r->op == DISK_WRITE)
        memcpy(h->disk + r->off, r->data, r->len_bytes);
    else
        memset(h->disk + r->off, 0, r->len_bytes);
}

static inline int harness_submit(struct disk *d, struct disk_request *r)
{
    struct harness *h = harness_of(d);

    if (h->views > 0)
        abort(); /* a view is to be ended first */
    if (test_random_below(&h->random, 2) || h->pending_count == HARNESS_PENDING) {
        harness_execute(h, r);
        return 1;
    }
    h->pending[h->pending_count++] = r;
    return 0;
}

static inline void harness_finish_one(struct harness *h, unsigned i, int result)
{
    struct disk_request *r = h->pending[i];

    h->pending[i] = h->pending[--h->pending_count];
    if (result == 0)
        harness_execute(h, r);
    else
        r->result = result;
    r->done(r);
}

static inline void harness_cancel(struct disk *d, struct disk_request *r)
{
    struct harness *h = harness_of(d);

    for (unsigned i = 0; i < h->pending_count; i++) {
        if (h->pending[i] == r) {
            harness_finish_one(h, i, -ECANCELED);
            return;
        }
    }
    abort(); /* it is not under way */
}

static inline int harness_view(struct disk *d, uint64_t off, uint32_t len, struct disk_view *ret)
{
    struct harness *h = harness_of(d);
    uint32_t first = len / 3;

    if (harness_is_bad(off, len) || test_random_below(&h->random, 3) == 0)
        return -EAGAIN;
    ret->iov[0] = (struct iovec){h->disk + off, first};
    ret->iov[1] = (struct iovec){h->disk + off + first, len - first};
    ret->pieces = 2;
    h->views++;
    return 0;
}

static inline void harness_view_end(struct disk *d, struct disk_view *v)
{
    (void)v;
    harness_of(d)->views--;
}

static inline int harness_zeros(struct disk *d, uint64_t off, uint64_t len, uint64_t *ret)
{
    struct harness *h = harness_of(d);
    bool zero = h->disk[off] == 0 && !harness_is_bad(off, 1);
    uint64_t n = 1;

    while (n < len && (h->disk[off + n] == 0 && !harness_is_bad(off + n, 1)) == zero)
        n++;
    *ret = n > 1 ? 1 + test_random_below(&h->random, n) : n; /* it may say less than it knows */
    return zero;
}

static inline void harness_wake(void *peer)
{
    (void)peer;
}

static const struct nbd_conn_ops harness_ops = {
    .receive = harness_receive,
    .send = harness_send,
    .submit = harness_submit,
    .cancel = harness_cancel,
    .view = harness_view,
    .view_end = harness_view_end,
    .zeros = harness_zeros,
    .wake = harness_wake,
};

static const struct nbd_export_info harness_exports[] = {
    {.name = "one", .description = "the first", .bytes = HARNESS_DISK_BYTES},
    {.name = "two", .description = "", .bytes = HARNESS_DISK_BYTES, .read_only = true},
};

static inline void harness_init(struct harness *h, uint64_t seed)
{
    *h = (struct harness){.random = {.state = seed}};
    h->disk = calloc(1, HARNESS_DISK_BYTES);
    if (!h->disk || nbd_conn_create(
                        &(struct nbd_conn_options){
                            .ops = &harness_ops,
                            .peer = h,
                            .exports = harness_exports,
                            .export_count = ARRAY_SIZE(harness_exports),
                        },
                        &h->conn) < 0)
        abort();
}

static inline void harness_finish(struct harness *h)
{
    nbd_conn_destroy(h->conn);
    if (h->pending_count > 0 || h->views > 0)
        abort(); /* the disk would write into memory that is gone */
    buf_finish(&h->out);
    free(h->disk);
}

/** harness_settle() - run until nothing moves: all input taken, all answers out, none under way */
static inline void harness_settle(struct harness *h)
{
    for (unsigned idle = 0; idle < 40;) {
        size_t before = h->in_left, out = h->out.len;
        bool moved;

        if (nbd_conn_state(h->conn) == NBD_CONN_CHOSEN)
            nbd_conn_attach(h->conn, (struct disk *)(void *)h, &h->counters);
        nbd_conn_ready(h->conn, true, true, h->eof);
        moved = nbd_conn_run(h->conn);
        if (h->pending_count > 0 && test_random_below(&h->random, 2) == 0) {
            harness_finish_one(h, (unsigned)test_random_below(&h->random, h->pending_count), 0);
            moved = true;
        }
        moved |= before != h->in_left || out != h->out.len;
        idle = moved ? 0 : idle + 1;
    }
}

#endif

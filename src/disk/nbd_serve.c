/* SPDX-License-Identifier: Apache-2.0 */

/*
 * What becomes of a request. A short one is one request to the disk. A long one is active: it is
 * served piece by piece, one piece in each turn, so that no request keeps others from theirs; the
 * answer comes when all pieces have landed.
 *
 * The pieces of a read are chunks of a structured reply, in any order. Where a reply has to be in
 * one piece (no structured replies, or "don't fragment"), everything is made sure to be there
 * first, while an error can still be told; then it becomes the connection's stream.
 */
#include <errno.h>

#include "base/units.h"
#include "disk/nbd_conn_internal.h"
#include "format/nbd_bytes.h"

#define ZERO_STEP_BYTES (1u << 24)
#define STATUS_LOOKUPS  4096u

enum step { STEP_BLOCKED, STEP_MOVED, STEP_OVER };

static bool is_write(const struct nbd_request *q)
{
    return q->command == NBD_CMD_WRITE || q->command == NBD_CMD_WRITE_ZEROES ||
           q->command == NBD_CMD_TRIM;
}

/* --- answers --- */

static void put_out(struct nbd_part *p, size_t head_len, const uint8_t *data, uint32_t data_len,
                    bool last)
{
    p->head_at = 0;
    p->head_len = (uint32_t)head_len;
    p->data = data;
    p->data_len = data_len;
    p->ready = true;
    p->last = last;
}

/* The last words of a request, from its own part. */
static void answer(struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;
    bool chunks = s->conn->handshake.structured &&
                  (q->command == NBD_CMD_READ || q->command == NBD_CMD_BLOCK_STATUS);
    uint32_t error = nbd_error(s->error);
    uint8_t *head = s->own.head;
    size_t len;

    if (!chunks)
        len = nbd_simple_encode(head, q->cookie, error);
    else if (error == 0)
        len = nbd_none_chunk_encode(head, q->cookie);
    else if (s->pos > 0)
        len = nbd_error_offset_encode(head, q->cookie, error, s->error_at);
    else
        len = nbd_error_chunk_encode(head, q->cookie, error);
    if (s->error < 0)
        nbd_count(&s->conn->counters->failed, 1);
    put_out(&s->own, len, s->own.buffer, 0, true);
    s->phase = NBD_ANSWER;
    nbd_queue(&s->own);
}

static void fail(struct nbd_slot *s, int error)
{
    s->error = error;
    answer(s);
}

/* Writes the head of a read's data into @p: of all of it, or of a chunk. */
static size_t read_head(struct nbd_part *p, uint64_t off, uint32_t len_bytes, bool done)
{
    const struct nbd_slot *s = p->slot;

    if (!s->conn->handshake.structured)
        return nbd_simple_encode(p->head, s->request.cookie, 0);
    return nbd_read_chunk_encode(p->head, s->request.cookie, off, len_bytes, done);
}

/* --- the disk --- */

static void landed(struct nbd_part *p)
{
    struct nbd_slot *s = p->slot;

    p->with_disk = false;
    s->parts_out--;
    s->conn->at_disk--;
    if (p->disk.result < 0 && s->error == 0) {
        s->error = p->disk.result;
        s->error_at = p->disk.off;
        nbd_measure_failure(&p->disk);
    }
}

static void part_landed(struct nbd_part *p);

static void disk_done(struct disk_request *r)
{
    struct nbd_part *p = container_of(r, struct nbd_part, disk);
    struct nbd_conn *c = p->slot->conn;

    landed(p);
    part_landed(p);
    c->ops->wake(c->peer);
}

/* Whether it is done already; else part_landed() will be called. */
static bool submit(struct nbd_part *p, enum disk_op op, uint64_t off, uint32_t len_bytes)
{
    struct nbd_slot *s = p->slot;
    struct nbd_conn *c = s->conn;

    p->disk.op = op;
    p->disk.off = off;
    p->disk.len_bytes = len_bytes;
    p->disk.data = p->buffer;
    p->disk.done = disk_done;
    p->disk.result = 0;
    p->with_disk = true;
    s->parts_out++;
    c->at_disk++;
    if (c->ops->submit(c->disk, &p->disk) == 0)
        return false;
    landed(p);
    return true;
}

/* All is begun: the answer follows once all has landed. */
static void settle(struct nbd_slot *s)
{
    if (s->phase == NBD_LANDING && s->parts_out == 0)
        answer(s);
}

/* --- short reads, and flushes --- */

static void short_read_landed(struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;

    if (s->error < 0) {
        answer(s);
        return;
    }
    put_out(&s->own, read_head(&s->own, q->off, q->len_bytes, true), s->own.buffer, q->len_bytes,
            true);
    s->phase = NBD_ANSWER;
    nbd_queue(&s->own);
}

static void short_read(struct nbd_slot *s)
{
    s->phase = NBD_LANDING;
    if (submit(&s->own, DISK_READ, s->request.off, s->request.len_bytes))
        short_read_landed(s);
}

static void flush(struct nbd_slot *s)
{
    s->phase = NBD_LANDING;
    if (submit(&s->own, DISK_FLUSH, 0, 0))
        settle(s);
}

/* --- long reads --- */

/* Whether the reply has to be in one piece that is longer than a part. */
static bool in_one_piece(const struct nbd_slot *s)
{
    return s->request.len_bytes > NBD_LARGE_BYTES &&
           (!s->conn->handshake.structured || (s->request.flags & NBD_FLAG_DF));
}

/* Pieces end where granules do. What fits into one part is one piece, wherever it lies. */
static uint32_t piece_bytes(const struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;
    uint64_t at = q->off + s->pos;

    if (q->len_bytes <= NBD_LARGE_BYTES)
        return q->len_bytes;
    return MIN(q->len_bytes - s->pos, NBD_LARGE_BYTES - (uint32_t)(at % NBD_LARGE_BYTES));
}

/* A read piece that had to be waited for is there, or is not to be had. */
static void read_landed(struct nbd_part *p)
{
    struct nbd_slot *s = p->slot;

    bool stream = s->conn->stream == s;

    if (p->disk.result == 0) {
        put_out(p, p->head_len, p->buffer, p->disk.len_bytes, p->last);
        nbd_queue(p);
        if (p->last)
            s->phase = NBD_ANSWER; /* with it all is said */
        if (p->last && stream)
            nbd_stream_end(s->conn);
        return;
    }
    if (stream)
        nbd_conn_break(s->conn); /* its head is sent: there is no way left to tell */
    if (p->last)
        answer(s); /* the only piece */
    nbd_large_free(p);
}

/* One piece, to be sent from where it is or, if it is not there, read first. */
static enum step send_piece(struct nbd_slot *s, size_t (*head)(struct nbd_part *p, uint32_t n),
                            bool last_frees)
{
    uint32_t n = piece_bytes(s);
    uint64_t off = s->request.off + s->pos;
    bool last = s->pos + n == s->request.len_bytes;
    struct nbd_part *p = nbd_large_take(s);
    enum nbd_view_result r;

    if (!p)
        return STEP_BLOCKED;
    put_out(p, head(p, n), p->buffer, 0, last && last_frees);
    r = nbd_send_view(p, off, n);
    if (r == NBD_VIEW_NOT_NOW) {
        nbd_large_free(p);
        return STEP_BLOCKED;
    }
    if (r == NBD_VIEW_SENT && last && last_frees)
        return STEP_OVER; /* @s may be free already */
    s->pos += n;
    if (last)
        s->phase = NBD_LANDING;
    if (r == NBD_VIEW_MISSING && submit(p, DISK_READ, off, n))
        read_landed(p);
    return last ? STEP_OVER : STEP_MOVED;
}

static size_t chunk_head(struct nbd_part *p, uint32_t n)
{
    const struct nbd_slot *s = p->slot;

    return read_head(p, s->request.off + s->pos, n, n == s->request.len_bytes);
}

/* Zeros take no room on the wire. STEP_BLOCKED when the piece is none, or has to be data. */
static enum step send_hole(struct nbd_slot *s, bool only)
{
    const struct nbd_request *q = &s->request;
    struct nbd_conn *c = s->conn;
    uint32_t n = piece_bytes(s);
    uint64_t off = q->off + s->pos, run = 0;
    bool last = s->pos + n == q->len_bytes;
    struct nbd_part *p;

    if (!c->handshake.structured || (q->flags & NBD_FLAG_DF) ||
        c->ops->zeros(c->disk, off, n, &run) != 1 || run < n)
        return STEP_BLOCKED;
    p = nbd_large_take(s);
    if (!p)
        return STEP_BLOCKED;
    put_out(p, nbd_hole_chunk_encode(p->head, q->cookie, off, n, only), p->buffer, 0, only);
    s->pos += n;
    if (last)
        s->phase = only ? NBD_ANSWER : NBD_LANDING;
    nbd_queue(p);
    return last ? STEP_OVER : STEP_MOVED;
}

/* In chunks, or in one that fits into a part. */
static enum step step_chunks(struct nbd_slot *s)
{
    bool only = s->request.len_bytes <= NBD_LARGE_BYTES;
    enum step r;

    if (s->error < 0) {
        s->phase = NBD_LANDING;
        settle(s);
        return STEP_OVER;
    }
    if (s->conn->stream)
        return STEP_BLOCKED;
    r = send_hole(s, only);
    if (r == STEP_BLOCKED)
        r = send_piece(s, chunk_head, only);
    if (r == STEP_OVER && !only)
        settle(s);
    return r;
}

static size_t stream_head(struct nbd_part *p, uint32_t n)
{
    const struct nbd_request *q = &p->slot->request;

    (void)n;
    return p->slot->pos == 0 ? read_head(p, q->off, q->len_bytes, true) : 0;
}

/* In one piece; everything has been there a moment ago. */
static enum step step_stream(struct nbd_slot *s)
{
    struct nbd_conn *c = s->conn;
    enum step r;

    if (s->parts_out > 0 || (c->stream && c->stream != s))
        return STEP_BLOCKED;
    c->stream = s;
    r = send_piece(s, stream_head, true);
    if (r == STEP_BLOCKED && s->pos == 0)
        nbd_stream_end(c); /* not begun: let the others pass */
    /* The last piece is in the queue, or will see to that itself. (A free slot has no parts out.)
     */
    if (r == STEP_OVER && s->parts_out == 0)
        nbd_stream_end(c);
    return r;
}

/* Makes sure that a piece is there: all there is to NBD_CMD_CACHE, too. */
static enum step step_check(struct nbd_slot *s)
{
    uint64_t off = s->request.off + s->pos;
    uint32_t n = piece_bytes(s);
    struct nbd_conn *c = s->conn;
    struct disk_view v;
    struct nbd_part *p;

    if (c->ops->view(c->disk, off, n, &v) == 0) {
        c->ops->view_end(c->disk, &v);
    } else {
        p = nbd_large_take(s);
        if (!p)
            return STEP_BLOCKED;
        if (submit(p, DISK_READ, off, n))
            nbd_large_free(p);
    }
    s->pos += n;
    return STEP_MOVED;
}

static enum step step_checks(struct nbd_slot *s)
{
    if (s->error == 0 && s->pos < s->request.len_bytes)
        return step_check(s);
    if (s->parts_out > 0)
        return STEP_BLOCKED;
    if (s->error < 0 || s->request.command == NBD_CMD_CACHE) {
        answer(s);
        return STEP_OVER;
    }
    s->checked = true;
    s->pos = 0;
    return STEP_MOVED;
}

/* --- zeroes and trims --- */

static enum step step_zeroes(struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;
    uint64_t off = q->off + s->pos;
    uint32_t n = MIN(q->len_bytes - s->pos, ZERO_STEP_BYTES - (uint32_t)(off % ZERO_STEP_BYTES));

    if (s->parts_out > 0)
        return STEP_BLOCKED;
    if (s->error < 0 || n == 0) {
        answer(s);
        return STEP_OVER;
    }
    s->pos += n;
    if (!submit(&s->own, q->command == NBD_CMD_TRIM ? DISK_TRIM : DISK_ZERO, off, n))
        return STEP_BLOCKED;
    return STEP_MOVED;
}

/* --- active requests --- */

static void activate(struct nbd_slot *s)
{
    struct nbd_slots *list = &s->conn->active;

    s->phase = NBD_STEPS;
    s->next = NULL;
    if (list->first)
        list->last->next = s;
    else
        list->first = s;
    list->last = s;
}

static enum step step(struct nbd_slot *s)
{
    if (s->request.command == NBD_CMD_READ) {
        if (!in_one_piece(s))
            return step_chunks(s);
        if (s->checked)
            return step_stream(s);
        return step_checks(s);
    }
    if (s->request.command == NBD_CMD_CACHE)
        return step_checks(s);
    return step_zeroes(s);
}

bool nbd_steps(struct nbd_conn *c)
{
    struct nbd_slot *s = c->active.first;
    bool moved = false;

    c->active = (struct nbd_slots){0};
    while (s) {
        struct nbd_slot *next = s->next;
        enum step r = c->state == NBD_CONN_OVER ? STEP_BLOCKED : step(s);

        if (r != STEP_OVER)
            activate(s);
        moved |= r != STEP_BLOCKED;
        s = next;
    }
    return moved;
}

static void part_landed(struct nbd_part *p)
{
    struct nbd_slot *s = p->slot;
    const struct nbd_request *q = &s->request;

    if (q->command == NBD_CMD_READ && !nbd_is_large(p)) {
        short_read_landed(s);
    } else if (q->command == NBD_CMD_READ && (!in_one_piece(s) || s->checked)) {
        read_landed(p);
        settle(s);
    } else {
        if (nbd_is_large(p))
            nbd_large_free(p);
        settle(s);
    }
}

/* --- writes --- */

void nbd_payload(struct nbd_part *p, uint32_t len_bytes, bool last)
{
    struct nbd_slot *s = p->slot;
    uint64_t off = s->request.off + s->pos;

    s->pos += len_bytes;
    if (last)
        s->phase = NBD_LANDING;
    nbd_count(&s->conn->counters->received_bytes, len_bytes);
    if (s->error < 0 || submit(p, DISK_WRITE, off, len_bytes)) {
        if (nbd_is_large(p))
            nbd_large_free(p);
    }
    settle(s);
}

void nbd_payload_discarded(struct nbd_slot *s)
{
    answer(s);
}

/* --- block status --- */

/*
 * The next descriptor: as many bytes as have one status, found in *@lookups steps at most. 0 when
 * the disk does not say.
 */
static uint32_t status_run(const struct nbd_conn *c, uint64_t off, uint32_t len_bytes,
                           unsigned *lookups, uint32_t *ret_status)
{
    uint32_t run = 0;
    int zeros = -1;

    while (run<len_bytes && * lookups> 0) {
        uint64_t n = 0;
        int r = c->ops->zeros(c->disk, off + run, len_bytes - run, &n);

        if (r < 0 || (zeros >= 0 && r != zeros))
            break;
        zeros = r;
        run += (uint32_t)n;
        --*lookups;
    }
    *ret_status = zeros == 1 ? NBD_STATE_HOLE | NBD_STATE_ZERO : 0;
    return run;
}

/* An answer may cover less than was asked for, so it can be had in bounded time and space. */
static void block_status(struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;
    uint32_t most = q->flags & NBD_FLAG_REQ_ONE ? 1 : NBD_SMALL_BYTES / 8, count = 0, done = 0;
    unsigned lookups = STATUS_LOOKUPS;

    while (count < most && done < q->len_bytes) {
        uint32_t status,
            n = status_run(s->conn, q->off + done, q->len_bytes - done, &lookups, &status);

        if (n == 0)
            break;
        store_be(s->own.buffer + 8 * (size_t)count, n, 4);
        store_be(s->own.buffer + 8 * (size_t)count + 4, status, 4);
        done += n;
        count++;
    }
    if (count == 0) {
        fail(s, -EIO);
        return;
    }
    put_out(&s->own, nbd_status_chunk_encode(s->own.head, q->cookie, NBD_ALLOCATION_ID, count),
            s->own.buffer, 8 * count, true);
    s->phase = NBD_ANSWER;
    nbd_queue(&s->own);
}

/* --- what comes in --- */

static unsigned known_flags(const struct nbd_conn *c, const struct nbd_request *q)
{
    switch (q->command) {
    case NBD_CMD_READ:
        return NBD_FLAG_FUA | (c->handshake.structured ? NBD_FLAG_DF : 0u);
    case NBD_CMD_WRITE_ZEROES:
        return NBD_FLAG_FUA | NBD_FLAG_NO_HOLE | NBD_FLAG_FAST_ZERO;
    case NBD_CMD_BLOCK_STATUS:
        return NBD_FLAG_FUA | NBD_FLAG_REQ_ONE;
    default:
        return NBD_FLAG_FUA;
    }
}

/* Whether a request makes sense: 0, or the error that it gets. */
static int check(const struct nbd_conn *c, const struct nbd_request *q)
{
    const struct nbd_export_info *x = &c->handshake.exports[c->handshake.chosen];

    if (q->command > NBD_CMD_BLOCK_STATUS || (q->flags & ~known_flags(c, q)) != 0)
        return -EINVAL;
    if (x->read_only && is_write(q))
        return -EPERM;
    if (q->command == NBD_CMD_FLUSH)
        return 0;
    if (q->off > x->bytes || q->len_bytes > x->bytes - q->off) {
        bool write = q->command == NBD_CMD_WRITE || q->command == NBD_CMD_WRITE_ZEROES;

        return write ? -ENOSPC : -EINVAL;
    }
    if (q->len_bytes > NBD_PAYLOAD_MAX_BYTES &&
        (q->command == NBD_CMD_READ || q->command == NBD_CMD_WRITE))
        return -EINVAL;
    if (q->command == NBD_CMD_BLOCK_STATUS &&
        (c->handshake.allocation != (int)c->handshake.chosen || q->len_bytes == 0))
        return -EINVAL;
    return 0;
}

static void count(struct nbd_counters *c, const struct nbd_request *q)
{
    _Atomic(uint64_t) *const of[] = {
        [NBD_CMD_READ] = &c->reads,
        [NBD_CMD_WRITE] = &c->writes,
        [NBD_CMD_FLUSH] = &c->flushes,
        [NBD_CMD_TRIM] = &c->trims,
        [NBD_CMD_CACHE] = &c->caches,
        [NBD_CMD_WRITE_ZEROES] = &c->zeroes,
        [NBD_CMD_BLOCK_STATUS] = &c->statuses,
    };

    if (q->command < ARRAY_SIZE(of) && of[q->command])
        nbd_count(of[q->command], 1);
    if (q->command == NBD_CMD_READ)
        nbd_count(&c->sent_bytes, q->len_bytes);
}

void nbd_begin(struct nbd_slot *s)
{
    const struct nbd_request *q = &s->request;
    int r = check(s->conn, q);

    count(s->conn->counters, q);
    if (q->command == NBD_CMD_WRITE) {
        s->error = r;
        s->phase = r < 0 || q->len_bytes == 0 ? NBD_DISCARD : NBD_PAYLOAD;
    } else if (r < 0) {
        fail(s, r);
    } else if (q->command == NBD_CMD_FLUSH) {
        flush(s);
    } else if (q->command == NBD_CMD_BLOCK_STATUS) {
        block_status(s);
    } else if (q->len_bytes == 0) {
        answer(s);
    } else if (q->command == NBD_CMD_READ && q->len_bytes <= NBD_SMALL_BYTES) {
        short_read(s);
    } else {
        activate(s);
    }
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The way in. Bytes are taken in big gulps into one buffer and requests are read from there; the
 * payload of a longer write goes from the socket to its part without that detour.
 */
#include <assert.h>
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "disk/nbd_conn_internal.h"

static_assert(NBD_IN_BYTES >= NBD_HANDSHAKE_IN_BYTES, "a whole option has room");

static uint32_t available(const struct nbd_conn *c)
{
    return c->in_end - c->in_at;
}

/* --- payload --- */

/* How much of the payload goes into the part that is being filled. */
static uint32_t part_bytes(const struct nbd_conn *c)
{
    const struct nbd_slot *s = c->writing;
    uint64_t at = s->request.off + s->pos;

    if (!nbd_is_large(c->filling))
        return s->request.len_bytes;
    return MIN(s->request.len_bytes - s->pos, NBD_LARGE_BYTES - (uint32_t)(at % NBD_LARGE_BYTES));
}

static bool have_part(struct nbd_conn *c)
{
    struct nbd_slot *s = c->writing;

    if (!c->filling) {
        c->filling = s->request.len_bytes <= NBD_SMALL_BYTES ? &s->own : nbd_large_take(s);
        c->filled = 0;
    }
    return c->filling != NULL;
}

/* @n more bytes of the payload have been put where they belong. */
static void filled(struct nbd_conn *c, uint32_t n)
{
    c->filled += n;
    c->left -= n;
    if (c->filled < part_bytes(c))
        return;
    if (c->left == 0)
        c->writing = NULL;
    nbd_payload(TAKE_PTR(c->filling), c->filled, c->left == 0);
}

static bool take_discarded(struct nbd_conn *c)
{
    uint32_t n = MIN(c->left, available(c));

    c->in_at += n;
    c->left -= n;
    if (c->left == 0)
        nbd_payload_discarded(TAKE_PTR(c->writing));
    return n > 0 || !c->writing;
}

/* What of the payload came in the same gulp as its request. */
static bool take_payload(struct nbd_conn *c)
{
    uint32_t n;

    if (c->writing->phase == NBD_DISCARD)
        return take_discarded(c);
    if (!have_part(c))
        return false;
    n = MIN(part_bytes(c) - c->filled, available(c));
    if (n == 0)
        return false;
    memcpy(c->filling->buffer + c->filled, c->in + c->in_at, n);
    c->in_at += n;
    filled(c, n);
    return true;
}

/* --- requests --- */

static void begin(struct nbd_conn *c, const struct nbd_request *q)
{
    struct nbd_slot *s = nbd_slot_take(c);

    s->request = *q;
    c->long_writes = q->command == NBD_CMD_WRITE && q->len_bytes > NBD_SMALL_BYTES;
    nbd_begin(s);
    if (q->command != NBD_CMD_WRITE)
        return;
    c->writing = s;
    c->left = q->len_bytes;
    if (c->left == 0) {
        c->writing = NULL;
        nbd_payload_discarded(s);
    }
}

static bool take_request(struct nbd_conn *c)
{
    struct nbd_request q;

    if (available(c) < NBD_REQUEST_BYTES || !c->free_slots)
        return false;
    /* Too long to be meant: skipping gigabytes of garbage would be no service. */
    if (nbd_request_decode(c->in + c->in_at, &q) < 0 ||
        (q.command == NBD_CMD_WRITE && q.len_bytes > 2 * NBD_PAYLOAD_MAX_BYTES)) {
        c->error = -EPROTO;
        nbd_conn_break(c);
        return false;
    }
    c->in_at += NBD_REQUEST_BYTES;
    if (q.command == NBD_CMD_DISC)
        nbd_conn_drain(c);
    else
        begin(c, &q);
    return true;
}

/* --- the stream --- */

/* Where the next bytes go: into the part, and what follows the payload into the buffer. */
static size_t targets(struct nbd_conn *c, struct iovec *iov)
{
    size_t n = 0, room;
    bool filling = c->writing && c->writing->phase == NBD_PAYLOAD;

    if (c->in_at == c->in_end) {
        c->in_at = c->in_end = 0;
    } else if (c->in_at > 0) {
        memmove(c->in, c->in + c->in_at, available(c));
        c->in_end = available(c);
        c->in_at = 0;
    }
    room = NBD_IN_BYTES - c->in_end;
    if (filling) {
        uint32_t rest = part_bytes(c) - c->filled;

        iov[n++] = (struct iovec){c->filling->buffer + c->filled, rest};
        if (rest < c->left)
            return n; /* more of the same follows, for the next part */
    }
    /* Behind a long write there will be another: its payload is not for this buffer. */
    if (c->long_writes && (filling || !c->writing))
        room = MIN(room, (size_t)NBD_REQUEST_BYTES - MIN(c->in_end, (size_t)NBD_REQUEST_BYTES - 1));
    if (room > 0)
        iov[n++] = (struct iovec){c->in + c->in_end, room};
    return n;
}

static void received(struct nbd_conn *c, uint32_t n)
{
    if (c->writing && c->writing->phase == NBD_PAYLOAD) {
        uint32_t into = MIN(n, part_bytes(c) - c->filled);

        filled(c, into);
        n -= into;
    }
    c->in_end += n;
}

static bool receive(struct nbd_conn *c)
{
    struct iovec iov[2];
    size_t count, asked = 0;
    ssize_t n;

    if (!c->readable)
        return false;
    count = targets(c, iov);
    for (size_t i = 0; i < count; i++)
        asked += iov[i].iov_len;
    if (asked == 0)
        return false;
    n = c->ops->receive(c->peer, iov, count);
    if (n == 0) {
        nbd_conn_drain(c); /* no more requests; what is under way is still answered */
        return true;
    }
    if (n < 0 && n != -EAGAIN) {
        c->error = (int)n;
        nbd_conn_break(c);
        return true;
    }
    if (n < (ssize_t)asked)
        c->readable = c->hung_up; /* if so, there is still the end to be read */
    if (n < 0)
        return false;
    received(c, (uint32_t)n);
    return true;
}

static bool take_all(struct nbd_conn *c)
{
    bool moved = false;

    while (c->state == NBD_CONN_SERVING && (c->writing ? take_payload(c) : take_request(c)))
        moved = true;
    return moved;
}

/* Whether what comes next has no place: no slot for a request, no part for a payload. */
static bool crowded(struct nbd_conn *c)
{
    if (!c->writing)
        return !c->free_slots;
    return c->writing->phase == NBD_PAYLOAD && !have_part(c);
}

bool nbd_input(struct nbd_conn *c)
{
    bool moved;

    if (c->state == NBD_CONN_HANDSHAKE)
        return receive(c);
    moved = take_all(c);
    if (c->state != NBD_CONN_SERVING || crowded(c) || !receive(c))
        return moved;
    take_all(c);
    return true;
}

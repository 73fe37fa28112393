/* SPDX-License-Identifier: Apache-2.0 */
#include <stdio.h>

#include "../lib/nbd_harness.h"
#include "format/nbd.h"
#include "format/nbd_bytes.h"
#include "unit.h"

/* A connection against a model: every byte of every answer is accounted for. */

#define BATCH 40

struct client {
    struct harness h;
    struct buf to_send;
    struct buf gone; /* what was sent before, which the harness may still point into */
    uint8_t *model;
    bool structured;
    size_t read_at; /* in h.out */
};

static void put_be(struct buf *b, uint64_t v, size_t len)
{
    uint8_t bytes[8];

    store_be(bytes, v, len);
    buf_put(b, bytes, len);
}

static void put_option(struct client *c, uint32_t option, const void *payload, size_t len)
{
    put_be(&c->to_send, NBD_OPTION_MAGIC, 8);
    put_be(&c->to_send, option, 4);
    put_be(&c->to_send, len, 4);
    buf_put(&c->to_send, payload, len);
}

static void send_all(struct client *c)
{
    buf_finish(&c->gone);
    c->gone = c->to_send;
    c->to_send = (struct buf){0};
    c->h.in = c->gone.data;
    c->h.in_left = c->gone.len;
    harness_settle(&c->h);
}

static const uint8_t *got(struct client *c, size_t len)
{
    const uint8_t *p = c->h.out.data + c->read_at;

    assert_true(c->h.out.len - c->read_at >= len);
    c->read_at += len;
    return p;
}

static void skip_option_reply(struct client *c, uint32_t option, uint32_t type)
{
    const uint8_t *p = got(c, NBD_REPLY_BYTES);

    assert_true(load_be(p, 8) == NBD_REPLY_MAGIC);
    assert_int_equal(load_be(p + 8, 4), option);
    assert_int_equal(load_be(p + 12, 4), type);
    got(c, (size_t)load_be(p + 16, 4));
}

static void connect_client(struct client *c, uint64_t seed, bool structured)
{
    static const char go[] = "\0\0\0\3one\0\0";
    static const char meta[] = "\0\0\0\3one\0\0\0\1\0\0\0\17base:allocation";

    *c = (struct client){.structured = structured};
    harness_init(&c->h, seed);
    c->model = calloc(1, HARNESS_DISK_BYTES);
    put_be(&c->to_send, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES, 4);
    if (structured) {
        put_option(c, NBD_OPT_STRUCTURED_REPLY, NULL, 0);
        put_option(c, NBD_OPT_SET_META_CONTEXT, meta, sizeof(meta) - 1);
    }
    put_option(c, NBD_OPT_GO, go, sizeof(go) - 1);
    send_all(c);
    assert_int_equal(nbd_conn_state(c->h.conn), NBD_CONN_SERVING);
    got(c, NBD_GREETING_BYTES);
    if (structured) {
        skip_option_reply(c, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ACK);
        skip_option_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_META_CONTEXT);
        skip_option_reply(c, NBD_OPT_SET_META_CONTEXT, NBD_REP_ACK);
    }
    skip_option_reply(c, NBD_OPT_GO, NBD_REP_INFO);
    skip_option_reply(c, NBD_OPT_GO, NBD_REP_ACK);
    assert_int_equal(c->read_at, c->h.out.len);
}

static void disconnect_client(struct client *c)
{
    c->h.eof = true;
    harness_settle(&c->h);
    assert_int_equal(nbd_conn_state(c->h.conn), NBD_CONN_OVER);
    harness_finish(&c->h);
    buf_finish(&c->to_send);
    buf_finish(&c->gone);
    free(c->model);
}

/* What a request must lead to. */
struct expected {
    uint64_t covered; /* bytes of a read that have come */
    struct nbd_request q;
    uint32_t error;
    bool done;
};

static void put_request(struct client *c, const struct nbd_request *q)
{
    put_be(&c->to_send, NBD_REQUEST_MAGIC, 4);
    put_be(&c->to_send, q->flags, 2);
    put_be(&c->to_send, q->command, 2);
    put_be(&c->to_send, q->cookie, 8);
    put_be(&c->to_send, q->off, 8);
    put_be(&c->to_send, q->len_bytes, 4);
}

static void put_payload(struct client *c, uint64_t seed, uint8_t *model, uint32_t len)
{
    uint8_t *p = buf_extend(&c->to_send, len);
    struct test_random t = {.state = seed};

    for (uint32_t i = 0; i < len; i++)
        p[i] = (uint8_t)test_random_next(&t);
    if (model)
        memcpy(model, p, len);
}

static void require_data(const struct client *c, struct expected *x, uint64_t off,
                         const uint8_t *data, uint64_t len)
{
    assert_true(off >= x->q.off && off + len <= x->q.off + x->q.len_bytes && len > 0);
    assert_memory_equal(data, c->model + off, len);
    x->covered += len;
}

static void require_zeros(const struct client *c, struct expected *x, uint64_t off, uint64_t len)
{
    static const uint8_t zeros[NBD_LARGE_BYTES];

    assert_true(len <= sizeof(zeros));
    require_data(c, x, off, zeros, len);
}

/* Descriptors that follow each other, of what was asked for; what is said to be zeros, is. */
static void require_status(const struct client *c, const struct expected *x, const uint8_t *p,
                           uint64_t len)
{
    uint64_t off = x->q.off;

    assert_int_equal(load_be(p, 4), NBD_ALLOCATION_ID);
    assert_true(len > 4 && len % 8 == 4);
    for (size_t i = 4; i < len; i += 8) {
        uint64_t n = load_be(p + i, 4), status = load_be(p + i + 4, 4);

        assert_true(n > 0 && off + n <= x->q.off + x->q.len_bytes);
        assert_true(status == 0 || status == (NBD_STATE_HOLE | NBD_STATE_ZERO));
        for (uint64_t at = off; status != 0 && at < off + n; at++)
            assert_int_equal(c->h.disk[at], 0);
        off += n;
    }
}

static void take_simple(struct client *c, struct expected *batch)
{
    const uint8_t *p = got(c, NBD_SIMPLE_BYTES);
    struct expected *x = &batch[load_be(p + 8, 8)];

    assert_true(load_be(p + 8, 8) < BATCH && !x->done);
    assert_true(!c->structured || x->q.command != NBD_CMD_READ);
    assert_int_equal(load_be(p + 4, 4), x->error);
    if (x->q.command == NBD_CMD_READ && x->error == 0 && x->q.len_bytes > 0)
        require_data(c, x, x->q.off, got(c, x->q.len_bytes), x->q.len_bytes);
    x->done = true;
}

static void take_chunk(struct client *c, struct expected *batch)
{
    const uint8_t *p = got(c, NBD_CHUNK_BYTES), *payload;
    struct expected *x = &batch[load_be(p + 8, 8)];
    uint64_t type = load_be(p + 6, 2), len = load_be(p + 16, 4);

    assert_true(c->structured && load_be(p + 8, 8) < BATCH && !x->done);
    payload = got(c, (size_t)len);
    if (type == 1) {
        assert_true(!(x->q.flags & NBD_FLAG_DF) || len - 8 == x->q.len_bytes);
        require_data(c, x, load_be(payload, 8), payload + 8, len - 8);
    } else if (type == 2) {
        assert_true(!(x->q.flags & NBD_FLAG_DF) && len == 12);
        require_zeros(c, x, load_be(payload, 8), load_be(payload + 8, 4));
    } else if (type == 5) {
        require_status(c, x, payload, len);
    } else if (type != 0) {
        assert_true(type == 0x8001 || type == 0x8002);
        assert_int_equal(load_be(payload, 4), x->error);
        assert_true(x->error != 0);
    }
    if (load_be(p + 4, 2) & 1) {
        x->done = true;
        assert_true(type > 0x8000 || x->error == 0);
        if (x->q.command == NBD_CMD_READ && x->error == 0)
            assert_int_equal(x->covered, x->q.len_bytes);
    }
}

static void take_answers(struct client *c, struct expected *batch, unsigned count)
{
    while (c->read_at < c->h.out.len) {
        if (load_be(c->h.out.data + c->read_at, 4) == NBD_SIMPLE_MAGIC)
            take_simple(c, batch);
        else
            take_chunk(c, batch);
    }
    for (unsigned i = 0; i < count; i++)
        assert_true(batch[i].done);
    c->h.out.len = c->read_at = 0;
}

/* Makes up a request for [off, off + len) and says what must come of it. */
static void make_up(struct client *c, struct test_random *t, struct expected *x, uint64_t cookie,
                    uint64_t off, uint32_t len)
{
    static const uint16_t commands[] = {NBD_CMD_READ,  NBD_CMD_READ,         NBD_CMD_WRITE,
                                        NBD_CMD_WRITE, NBD_CMD_WRITE_ZEROES, NBD_CMD_TRIM,
                                        NBD_CMD_FLUSH, NBD_CMD_CACHE,        NBD_CMD_BLOCK_STATUS};
    struct nbd_request *q = &x->q;

    *x = (struct expected){0};
    q->command = commands[test_random_below(t, ARRAY_SIZE(commands))];
    q->cookie = cookie;
    q->flags = test_random_below(t, 3) == 0 ? NBD_FLAG_FUA : 0;
    if (q->command == NBD_CMD_READ && c->structured && test_random_below(t, 3) == 0)
        q->flags |= NBD_FLAG_DF;
    if (q->command == NBD_CMD_FLUSH) {
        off = len = 0;
    } else if (q->command == NBD_CMD_BLOCK_STATUS) {
        if (!c->structured)
            x->error = NBD_EINVAL;
    } else if (harness_is_bad(off, len)) {
        x->error = NBD_EIO;
    }
    q->off = off;
    q->len_bytes = len;
    put_request(c, q);
    if (q->command == NBD_CMD_WRITE)
        put_payload(c, test_random_next(t), x->error ? NULL : c->model + off, len);
    else if (x->error == 0 && (q->command == NBD_CMD_WRITE_ZEROES || q->command == NBD_CMD_TRIM))
        memset(c->model + off, 0, len);
}

/* Requests that do not overlap, all at once; what failed may have changed anything of its own. */
static void run_batch(struct client *c, struct test_random *t)
{
    struct expected batch[BATCH];
    uint64_t off = test_random_below(t, 10000);
    unsigned n = 0;

    while (n < BATCH) {
        uint64_t longest = test_random_below(t, 4) == 0 ? 900000 : 30000;
        uint32_t len = (uint32_t)(1 + test_random_below(t, longest));

        if (off + len > HARNESS_DISK_BYTES)
            break;
        make_up(c, t, &batch[n], n, off, len);
        off += len + test_random_below(t, 5000);
        n++;
    }
    send_all(c);
    take_answers(c, batch, n);
    for (unsigned i = 0; i < n; i++) {
        const struct nbd_request *q = &batch[i].q;

        if (batch[i].error == NBD_EIO)
            memcpy(c->model + q->off, c->h.disk + q->off, q->len_bytes);
    }
    assert_memory_equal(c->model, c->h.disk, HARNESS_DISK_BYTES);
}

static void model_holds(bool structured)
{
    for (uint64_t seed = 1; seed <= 12; seed++) {
        struct test_random t = {.state = seed * 1000 + structured};
        struct client c;

        connect_client(&c, seed, structured);
        for (int i = 0; i < 12; i++)
            run_batch(&c, &t);
        disconnect_client(&c);
    }
}

static void structured_replies_hold_what_the_model_holds(void **state)
{
    (void)state;
    model_holds(true);
}

static void simple_replies_hold_what_the_model_holds(void **state)
{
    (void)state;
    model_holds(false);
}

/* --- requests that make no sense --- */

static void require_error(struct client *c, struct nbd_request q, bool payload, uint32_t error)
{
    struct nbd_request flush = {.command = NBD_CMD_FLUSH, .cookie = 1};
    struct expected batch[BATCH] = {{.q = q, .error = error}, {.q = flush}};

    put_request(c, &q);
    if (payload)
        put_payload(c, 1, NULL, q.len_bytes);
    put_request(c, &flush); /* understood only if the payload was skipped, and no byte more */
    send_all(c);
    take_answers(c, batch, 2);
}

static void bad_requests_are_refused_and_forgotten(void **state)
{
    const uint64_t end = HARNESS_DISK_BYTES;

    (void)state;
    for (int structured = 0; structured < 2; structured++) {
        struct client c;

        connect_client(&c, 5, structured);
        require_error(&c, (struct nbd_request){.off = end, .len_bytes = 1}, false, NBD_EINVAL);
        require_error(&c, (struct nbd_request){.off = UINT64_MAX, .len_bytes = 2}, false,
                      NBD_EINVAL);
        require_error(&c, (struct nbd_request){.command = 1, .off = end - 1, .len_bytes = 2}, true,
                      NBD_ENOSPC);
        require_error(&c, (struct nbd_request){.command = 1, .len_bytes = 40u << 20}, true,
                      NBD_ENOSPC);
        require_error(&c, (struct nbd_request){.command = 6, .off = end - 1, .len_bytes = 2}, false,
                      NBD_ENOSPC);
        require_error(&c, (struct nbd_request){.command = 4, .off = end, .len_bytes = 2}, false,
                      NBD_EINVAL);
        require_error(&c, (struct nbd_request){.command = 77}, false, NBD_EINVAL);
        require_error(&c, (struct nbd_request){.flags = 0x8000, .len_bytes = 1}, false, NBD_EINVAL);
        require_error(&c, (struct nbd_request){.command = 1, .flags = 4, .len_bytes = 99}, true,
                      NBD_EINVAL);
        require_error(&c, (struct nbd_request){.command = 7, .len_bytes = 0}, false, NBD_EINVAL);
        disconnect_client(&c);
    }
}

static void protocol_is_broken_by(const void *bytes, size_t len)
{
    struct client c;

    connect_client(&c, 9, true);
    buf_put(&c.to_send, bytes, len);
    send_all(&c);
    assert_int_equal(nbd_conn_state(c.h.conn), NBD_CONN_OVER);
    assert_int_equal(nbd_conn_error(c.h.conn), -EPROTO);
    disconnect_client(&c);
}

static void garbage_ends_the_connection(void **state)
{
    static const uint8_t huge_write[NBD_REQUEST_BYTES] = {
        0x25, 0x60, 0x95, 0x13, [7] = NBD_CMD_WRITE, [24] = 0xff};

    (void)state;
    protocol_is_broken_by("this is no request at all...", 28);
    protocol_is_broken_by(huge_write, sizeof(huge_write));
}

/* A client that asks and asks and takes no answer: what it holds is bounded, and goes with it. */
static void deaf_client_is_not_heard(void **state)
{
    struct client c;
    size_t left;

    (void)state;
    connect_client(&c, 3, true);
    c.h.stuck = true;
    for (unsigned i = 0; i < 1000; i++)
        put_request(&c, &(struct nbd_request){.off = i, .len_bytes = 200000, .cookie = i});
    for (unsigned i = 0; i < 5000; i++)
        put_request(&c, &(struct nbd_request){.off = i, .len_bytes = 20, .cookie = i});
    send_all(&c);
    left = c.h.in_left;
    assert_true(left > 5000 * NBD_REQUEST_BYTES / 2);
    harness_settle(&c.h);
    assert_int_equal(c.h.in_left, left);
    nbd_conn_break(c.h.conn);
    harness_finish(&c.h);
    buf_finish(&c.to_send);
    buf_finish(&c.gone);
    free(c.model);
}

/* Whoever vanishes while the disk is at work takes that with it. */
static void vanished_client_leaves_nothing_at_the_disk(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 50; seed++) {
        struct client c;
        bool more = true;

        connect_client(&c, seed, seed & 1);
        for (unsigned i = 0; i < 60; i++)
            put_request(&c, &(struct nbd_request){.off = i * 9000, .len_bytes = i * 9000});
        c.h.in = c.to_send.data;
        c.h.in_left = c.to_send.len;
        for (unsigned i = 0; i < seed && more; i++) {
            nbd_conn_ready(c.h.conn, true, true, false);
            more = nbd_conn_run(c.h.conn);
        }
        harness_finish(&c.h); /* which aborts if something is left there */
        buf_finish(&c.to_send);
        buf_finish(&c.gone);
        free(c.model);
    }
}

static void leave_is_taken_after_the_answers(void **state)
{
    struct client c;
    struct expected batch[BATCH] = {{.q = {.len_bytes = 3 << 20}}};

    (void)state;
    connect_client(&c, 11, true);
    batch[0].error = NBD_EIO; /* it covers the bad range */
    put_request(&c, &batch[0].q);
    put_request(&c, &(struct nbd_request){.command = NBD_CMD_DISC});
    put_request(&c, &(struct nbd_request){.command = NBD_CMD_FLUSH, .cookie = 1});
    send_all(&c);
    take_answers(&c, batch, 1);
    assert_int_equal(nbd_conn_state(c.h.conn), NBD_CONN_OVER);
    assert_int_equal(nbd_conn_error(c.h.conn), 0);
    disconnect_client(&c);
}

/* The kernel tells of the last bytes and of the end behind them once, and together. */
static void end_is_seen_behind_the_last_bytes(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed < 30; seed++) {
        struct client c;

        connect_client(&c, seed, true);
        put_request(&c, &(struct nbd_request){.command = NBD_CMD_FLUSH});
        c.h.in = c.to_send.data;
        c.h.in_left = c.to_send.len;
        c.h.eof = true;
        nbd_conn_ready(c.h.conn, true, true, true);
        for (int i = 0; i < 100 && nbd_conn_state(c.h.conn) != NBD_CONN_OVER; i++) {
            nbd_conn_ready(c.h.conn, false, true, false);
            if (!nbd_conn_run(c.h.conn) && c.h.pending_count > 0)
                harness_finish_one(&c.h, 0, 0);
        }
        assert_int_equal(nbd_conn_state(c.h.conn), NBD_CONN_OVER);
        disconnect_client(&c);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(structured_replies_hold_what_the_model_holds),
        cmocka_unit_test(simple_replies_hold_what_the_model_holds),
        cmocka_unit_test(bad_requests_are_refused_and_forgotten),
        cmocka_unit_test(garbage_ends_the_connection),
        cmocka_unit_test(deaf_client_is_not_heard),
        cmocka_unit_test(vanished_client_leaves_nothing_at_the_disk),
        cmocka_unit_test(leave_is_taken_after_the_answers),
        cmocka_unit_test(end_is_seen_behind_the_last_bytes),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

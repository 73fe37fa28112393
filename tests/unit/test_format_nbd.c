/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "base/units.h"
#include "disk/nbd_handshake.h"
#include "format/nbd.h"
#include "format/nbd_bytes.h"
#include "unit.h"

/* The codec against bytes written by hand from proto.md, and the handshake that stands on it. */

static void greeting_is_fixed_newstyle(void **state)
{
    uint8_t bytes[64];
    struct nbd_writer w = {.at = bytes, .end = bytes + sizeof(bytes)};

    (void)state;
    nbd_put_greeting(&w);
    assert_int_equal(w.at - bytes, 18);
    assert_memory_equal(bytes, "NBDMAGICIHAVEOPT\0\3", 18);
}

static void requests_are_read(void **state)
{
    static const uint8_t bytes[] = "\x25\x60\x95\x13\0\1\0\6cookie!!\1\2\3\4\5\6\7\x8\0\1\0\2";
    struct nbd_request q = {0};
    uint8_t bad[NBD_REQUEST_BYTES];

    (void)state;
    assert_int_equal(nbd_request_decode(bytes, &q), 0);
    assert_int_equal(q.flags, NBD_FLAG_FUA);
    assert_int_equal(q.command, NBD_CMD_WRITE_ZEROES);
    assert_true(q.cookie == load_be("cookie!!", 8));
    assert_true(q.off == UINT64_C(0x0102030405060708));
    assert_int_equal(q.len_bytes, 65538);
    for (size_t i = 0; i < 4; i++) {
        memcpy(bad, bytes, sizeof(bad));
        bad[i] ^= 1;
        assert_int_equal(nbd_request_decode(bad, &q), -EPROTO);
    }
}

static void replies_are_written(void **state)
{
    uint8_t b[NBD_HEAD_MAX_BYTES];

    (void)state;
    assert_int_equal(nbd_simple_encode(b, 0x4141414141414141, NBD_EIO), 16);
    assert_memory_equal(b, "\x67\x44\x66\x98\0\0\0\5AAAAAAAA", 16);
    assert_int_equal(nbd_read_chunk_encode(b, 0x4141414141414141, 3, 512, false), 28);
    assert_memory_equal(b, "\x66\x8e\x33\xef\0\0\0\1AAAAAAAA\0\0\2\x8\0\0\0\0\0\0\0\3", 28);
    nbd_read_chunk_encode(b, 0, 3, 512, true);
    assert_memory_equal(b, "\x66\x8e\x33\xef\0\1\0\1", 8);
    assert_int_equal(nbd_hole_chunk_encode(b, 0x4141414141414141, 3, 512, true), 32);
    assert_memory_equal(b, "\x66\x8e\x33\xef\0\1\0\2AAAAAAAA\0\0\0\xc\0\0\0\0\0\0\0\3\0\0\2\0", 32);
    assert_int_equal(nbd_none_chunk_encode(b, 0x4141414141414141), 20);
    assert_memory_equal(b, "\x66\x8e\x33\xef\0\1\0\0AAAAAAAA\0\0\0\0", 20);
    assert_int_equal(nbd_error_chunk_encode(b, 0x4141414141414141, 22), 26);
    assert_memory_equal(b, "\x66\x8e\x33\xef\0\1\x80\1AAAAAAAA\0\0\0\6\0\0\0\x16\0\0", 26);
    assert_int_equal(nbd_error_offset_encode(b, 0x4141414141414141, 5, 9), 34);
    assert_memory_equal(
        b, "\x66\x8e\x33\xef\0\1\x80\2AAAAAAAA\0\0\0\xe\0\0\0\5\0\0\0\0\0\0\0\0\0\x9", 34);
    assert_int_equal(nbd_status_chunk_encode(b, 0x4141414141414141, 1, 2), 24);
    assert_memory_equal(b, "\x66\x8e\x33\xef\0\1\0\5AAAAAAAA\0\0\0\x14\0\0\0\1", 24);
}

static void errors_are_those_of_the_protocol(void **state)
{
    static const int known[][2] = {
        {0, 0},           {-EPERM, 1},       {-EROFS, 1},       {-EIO, 5},
        {-ENOMEM, 12},    {-EINVAL, 22},     {-ENOSPC, 28},     {-EDQUOT, 28},
        {-EOVERFLOW, 75}, {-EOPNOTSUPP, 95}, {-ESHUTDOWN, 108}, {-EBADMSG, 5},
        {-ETIMEDOUT, 5},  {-ESTALE, 5},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(known); i++)
        assert_int_equal(nbd_error(known[i][0]), known[i][1]);
}

static void payloads_have_to_fit(void **state)
{
    static const uint8_t info[] = "\0\0\0\3one\0\2\0\1\0\3";
    static const uint8_t meta[] = "\0\0\0\1x\0\0\0\1\0\0\0\5base:";
    struct nbd_info_query i;
    struct nbd_meta_query m;

    (void)state;
    assert_int_equal(nbd_info_query_decode(info, sizeof(info) - 1, &i), 0);
    assert_int_equal(i.name.len, 3);
    assert_int_equal(i.wants, 1 << NBD_INFO_NAME | 1 << NBD_INFO_BLOCK_SIZE);
    for (size_t len = 0; len < sizeof(info) - 1; len++)
        assert_int_equal(nbd_info_query_decode(info, len, &i), -EINVAL);
    assert_int_equal(nbd_info_query_decode(info, sizeof(info), &i), -EINVAL);
    assert_int_equal(nbd_meta_query_decode(meta, sizeof(meta) - 1, &m), 0);
    assert_true(m.base && !m.allocation && m.queries == 1);
    for (size_t len = 0; len < sizeof(meta) - 1; len++)
        assert_int_equal(nbd_meta_query_decode(meta, len, &m), -EINVAL);
    assert_int_equal(nbd_meta_query_decode(meta, sizeof(meta), &m), -EINVAL);
}

/* --- the handshake --- */

static const struct nbd_export_info exports[] = {
    {.name = "one", .description = "first", .bytes = 0x123000},
    {.name = "two", .description = "", .bytes = 4096, .read_only = true},
};

struct shake {
    uint8_t out[1 << 17];
    size_t len;
    struct nbd_handshake h;
    int result;
};

static void shake(struct shake *s, const void *in, size_t len)
{
    struct nbd_writer w = {.at = s->out, .end = s->out + sizeof(s->out)};
    size_t used;

    nbd_handshake_init(&s->h, exports, ARRAY_SIZE(exports));
    s->result = nbd_handshake_step(&s->h, in, len, &used, &w);
    s->len = (size_t)(w.at - s->out);
}

#define SHAKE(s, bytes) shake((s), (bytes), sizeof(bytes) - 1)
#define NEWSTYLE        "\0\0\0\3"
#define OPTION(n, len)  "IHAVEOPT\0\0\0" n "\0\0\0" len
#define REPLY(n)        "\0\3\xe8\x89\4\x55\x65\xa9\0\0\0" n

static void require_out(const struct shake *s, const char *bytes, size_t len)
{
    assert_int_equal(s->len - NBD_GREETING_BYTES, len);
    assert_memory_equal(s->out + NBD_GREETING_BYTES, bytes, len);
}

#define REQUIRE_OUT(s, bytes) require_out((s), (bytes), sizeof(bytes) - 1)

static void go_tells_and_begins(void **state)
{
    static struct shake s;

    (void)state;
    SHAKE(&s, NEWSTYLE OPTION("\7", "\xb") "\0\0\0\3two\0\1\0\3");
    assert_int_equal(s.result, NBD_HANDSHAKE_CHOSEN);
    assert_int_equal(s.h.chosen, 1);
    REQUIRE_OUT(&s, REPLY("\7") "\0\0\0\3\0\0\0\xc\0\0\0\0\0\0\0\0\x10\0\5\x0f" REPLY(
                        "\7") "\0\0\0\3\0\0\0\xe\0\3\0\0\0\1\0\0\x10\0\2\0\0\0" REPLY("\7") "\0\0\0"
                                                                                            "\1\0\0"
                                                                                            "\0\0");
}

static void export_name_begins_without_words(void **state)
{
    static struct shake s;
    static const char zeroes[124];

    (void)state;
    SHAKE(&s, "\0\0\0\0" OPTION("\1", "\3") "one");
    assert_int_equal(s.result, NBD_HANDSHAKE_CHOSEN);
    assert_int_equal(s.len, NBD_GREETING_BYTES + 10 + 124);
    assert_memory_equal(s.out + NBD_GREETING_BYTES, "\0\0\0\0\0\x12\x30\0\x0d\x6d", 10);
    assert_memory_equal(s.out + NBD_GREETING_BYTES + 10, zeroes, 124);
    SHAKE(&s, NEWSTYLE OPTION("\1", "\0"));
    assert_int_equal(s.result, NBD_HANDSHAKE_CHOSEN);
    assert_int_equal(s.len, NBD_GREETING_BYTES + 10);
    SHAKE(&s, NEWSTYLE OPTION("\1", "\4") "none");
    assert_int_equal(s.result, -EPROTO);
}

/* The type of reply number @n, counted from 0. */
static uint32_t reply_type(const struct shake *s, unsigned n)
{
    size_t at = NBD_GREETING_BYTES;

    while (n-- > 0)
        at += NBD_REPLY_BYTES + (size_t)load_be(s->out + at + 16, 4);
    assert_true(at + NBD_REPLY_BYTES <= s->len);
    return (uint32_t)load_be(s->out + at + 12, 4);
}

static void what_is_not_known_is_refused(void **state)
{
    static struct shake s;

    (void)state;
    SHAKE(&s, NEWSTYLE OPTION("\5", "\0") OPTION("\xb", "\0")
                  OPTION("\7", "\6") "\0\0\0\0\0\1" OPTION("\7", "\7") "\0\0\0\1z\0\0" OPTION(
                      "\x9", "\7") "\0\0\0\3one" OPTION("\3", "\1") "x" OPTION("\2", "\0"));
    assert_int_equal(s.result, NBD_HANDSHAKE_END);
    assert_int_equal(reply_type(&s, 0), NBD_REP_ERROR_BIT | NBD_REP_ERR_POLICY);
    assert_int_equal(reply_type(&s, 1), NBD_REP_ERROR_BIT | NBD_REP_ERR_UNSUP);
    assert_int_equal(reply_type(&s, 2), NBD_REP_ERROR_BIT | NBD_REP_ERR_INVALID);
    assert_int_equal(reply_type(&s, 3), NBD_REP_ERROR_BIT | NBD_REP_ERR_UNKNOWN);
    assert_int_equal(reply_type(&s, 4), NBD_REP_ERROR_BIT | NBD_REP_ERR_INVALID);
    assert_int_equal(reply_type(&s, 5), NBD_REP_ERROR_BIT | NBD_REP_ERR_INVALID);
    assert_int_equal(reply_type(&s, 6), NBD_REP_ACK);
}

static void too_long_an_option_is_skipped(void **state)
{
    static struct shake s;
    static char in[20 + 20000 + 16];

    (void)state;
    memcpy(in, NEWSTYLE OPTION("\6", "\0"), 20);
    store_be(in + 16, 20000, 4);
    memcpy(in + 20 + 20000, OPTION("\2", "\0"), 16);
    shake(&s, in, sizeof(in));
    assert_int_equal(reply_type(&s, 0), NBD_REP_ERROR_BIT | NBD_REP_ERR_TOO_BIG);
    assert_int_equal(reply_type(&s, 1), NBD_REP_ACK);
    assert_int_equal(s.result, NBD_HANDSHAKE_END);
    store_be(in + 16, 0x7fffffff, 4);
    shake(&s, in, sizeof(in));
    assert_int_equal(s.result, -EPROTO);
}

static void who_breaks_the_handshake_is_left(void **state)
{
    static struct shake s;

    (void)state;
    SHAKE(&s, "\0\0\0\7");
    assert_int_equal(s.result, -EPROTO);
    SHAKE(&s, NEWSTYLE "GET / HTTP/1.1\r\n\r\n");
    assert_int_equal(s.result, -EPROTO);
    SHAKE(&s, "\0\0\0\0" OPTION("\3", "\0"));
    assert_int_equal(s.result, -EPROTO);
    SHAKE(&s, NEWSTYLE "IHAVE");
    assert_int_equal(s.result, NBD_HANDSHAKE_MORE);
    assert_int_equal(s.len, NBD_GREETING_BYTES);
}

/* Contexts hold for the export that they were set for, until they are set again. */
static void contexts_are_of_one_export(void **state)
{
    static struct shake s;

    (void)state;
    SHAKE(&s, NEWSTYLE OPTION("\x8", "\0") OPTION("\xa", "\x1e") "\0\0\0\3one\0\0\0\1\0\0\0\xf"
                                                                 "base:allocation");
    assert_int_equal(s.h.allocation, 0);
    SHAKE(&s, NEWSTYLE OPTION("\x8", "\0")
                  OPTION("\xa", "\x1e") "\0\0\0\3one\0\0\0\1\0\0\0\xf"
                                        "base:allocation" OPTION("\xa", "\1") "x");
    assert_int_equal(s.h.allocation, -1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(greeting_is_fixed_newstyle),
        cmocka_unit_test(requests_are_read),
        cmocka_unit_test(replies_are_written),
        cmocka_unit_test(errors_are_those_of_the_protocol),
        cmocka_unit_test(payloads_have_to_fit),
        cmocka_unit_test(go_tells_and_begins),
        cmocka_unit_test(export_name_begins_without_words),
        cmocka_unit_test(what_is_not_known_is_refused),
        cmocka_unit_test(too_long_an_option_is_skipped),
        cmocka_unit_test(who_breaks_the_handshake_is_left),
        cmocka_unit_test(contexts_are_of_one_export),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/mailbox.h"
#include "base/size.h"
#include "base/thread.h"
#include "base/units.h"
#include "base/uuid.h"
#include "unit.h"

static void error_context_comes_first(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(err_errno(&e, -ENOENT, "opening %s", "x"), -ENOENT);
    assert_string_equal(e.text, "opening x: No such file or directory");
    assert_int_equal(err_wrap(&e, "build %d", 7), -ENOENT);
    assert_string_equal(e.text, "build 7: opening x: No such file or directory");
    assert_int_equal(err_set(NULL, -EINVAL, "nobody reads this"), -EINVAL);
    assert_int_equal(err_wrap(NULL, "nor this"), -EIO);
}

static void error_text_never_overflows(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char longer[1000];

    (void)state;
    memset(longer, 'x', sizeof(longer) - 1);
    longer[sizeof(longer) - 1] = '\0';
    err_errno(&e, -EIO, "%s", longer);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    err_wrap(&e, "%s", longer);
    assert_int_equal(strlen(e.text), sizeof(e.text) - 1);
    assert_int_equal(e.code, -EIO);
}

static void uuid_text_round_trips(void **state)
{
    struct uuid a, b;
    char text[UUID_TEXT_BYTES];

    (void)state;
    for (int i = 0; i < 100; i++) {
        assert_int_equal(uuid_random(&a), 0);
        assert_int_equal(uuid_parse(uuid_format(&a, text), &b), 0);
        assert_int_equal(uuid_compare(&a, &b), 0);
        assert_int_equal(text[14], '4');
        assert_non_null(strchr("89ab", text[19]));
    }
    assert_int_equal(uuid_parse("00000000-0000-0000-0000-000000000000", &a), 0);
    assert_true(uuid_is_nil(&a));
    assert_int_equal(uuid_parse("A0B1C2D3-E4F5-0617-2839-4a5b6c7d8e9F", &a), 0);
    assert_string_equal(uuid_format(&a, text), "a0b1c2d3-e4f5-0617-2839-4a5b6c7d8e9f");
}

static void uuid_refuses_what_is_not_one(void **state)
{
    static const char *const bad[] = {
        "",
        "a",
        "a0b1c2d3-e4f5-0617-2839-4a5b6c7d8e9",
        "a0b1c2d3-e4f5-0617-2839-4a5b6c7d8e9f0",
        "a0b1c2d3-e4f5-0617-2839-4a5b6c7d8e9g",
        "a0b1c2d3e4f5-0617-2839-4a5b6c7d8e9f0",
        "../../../../../../../../etc/passwd\0\0\0",
    };
    struct uuid id = {{1}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(uuid_parse(bad[i], &id), -EINVAL);
    assert_int_equal(id.b[0], 1);
}

static void sizes_parse_and_print(void **state)
{
    char text[SIZE_TEXT_BYTES];
    uint64_t v = 7;

    (void)state;
    assert_int_equal(size_parse("0", &v), 0);
    assert_int_equal(v, 0);
    assert_int_equal(size_parse("64k", &v), 0);
    assert_int_equal(v, 64 * KIB);
    assert_int_equal(size_parse("32G", &v), 0);
    assert_int_equal(v, 32 * GIB);
    assert_int_equal(size_parse("16777215T", &v), 0);
    assert_int_equal(size_parse("16777216T", &v), -ERANGE);
    assert_int_equal(size_parse("18446744073709551616", &v), -ERANGE);
    assert_int_equal(size_parse("", &v), -EINVAL);
    assert_int_equal(size_parse("-1", &v), -EINVAL);
    assert_int_equal(size_parse("4KB", &v), -EINVAL);
    assert_int_equal(size_parse("4 K", &v), -EINVAL);
    assert_int_equal(v, 16777215 * TIB);
    assert_string_equal(size_format(1023, text), "1023 B");
    assert_string_equal(size_format(64 * KIB, text), "64.0 KiB");
    assert_string_equal(size_format(MIB - 1, text), "1.0 MiB");
    assert_string_equal(size_format(UINT64_MAX, text), "16.0 EiB");
}

static void reader_stops_at_the_end(void **state)
{
    static const uint8_t bytes[] = {1, 2, 0, 0, 0, 3, 4};
    struct reader r = reader_init(bytes, sizeof(bytes));

    (void)state;
    assert_int_equal(reader_u8(&r), 1);
    assert_int_equal(reader_u32(&r), 2);
    assert_false(r.failed);
    assert_int_equal(reader_u32(&r), 0);
    assert_true(r.failed);
    assert_int_equal(reader_u8(&r), 0); /* once failed, nothing more is handed out */
    assert_int_equal(reader_offset(&r), 5);
}

static void buf_grows(void **state)
{
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    assert_non_null(buf_extend(&b, 0)); /* NULL means failure and nothing else */
    for (uint64_t i = 0; i < 10000; i++)
        buf_put_u64(&b, i * UINT64_C(0x0101010101010101));
    assert_false(b.failed);
    assert_int_equal(b.len, 80000);
    assert_int_equal(load_le(b.data + 8 * 255, 8), UINT64_MAX);
    assert_null(buf_extend(&b, SIZE_MAX - 5));
    assert_true(b.failed);
}

/* Many senders, one receiver: nothing lost, nothing doubled, each sender's order kept. */
#define SENDERS    4
#define PER_SENDER 20000
struct numbered {
    struct message msg;
    unsigned sender, number;
};
static struct numbered messages[SENDERS][PER_SENDER];
static unsigned next_number[SENDERS];
static struct mailbox box;

static void receive(struct message *m)
{
    struct numbered *n = container_of(m, struct numbered, msg);

    assert_int_equal(n->number, next_number[n->sender]);
    next_number[n->sender]++;
}

static void *send_all(void *arg)
{
    struct numbered *mine = arg;

    for (unsigned i = 0; i < PER_SENDER; i++)
        mailbox_post(&box, &mine[i].msg);
    return NULL;
}

static void mailbox_keeps_order(void **state)
{
    pthread_t senders[SENDERS];
    size_t got = 0;

    (void)state;
    assert_int_equal(mailbox_init(&box), 0);
    for (unsigned s = 0; s < SENDERS; s++) {
        for (unsigned i = 0; i < PER_SENDER; i++)
            messages[s][i] = (struct numbered){{NULL, receive}, s, i};
        assert_int_equal(thread_start(&senders[s], "sender", send_all, messages[s]), 0);
    }
    while (got < SENDERS * PER_SENDER) {
        struct pollfd p = {.fd = box.event_fd, .events = POLLIN};

        assert_int_equal(poll(&p, 1, 10000), 1); /* a lost wake-up shows as a timeout */
        got += mailbox_deliver(&box);
    }
    for (unsigned s = 0; s < SENDERS; s++)
        thread_join(senders[s]);
    assert_int_equal(mailbox_deliver(&box), 0);
    mailbox_finish(&box);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(error_context_comes_first),
        cmocka_unit_test(error_text_never_overflows),
        cmocka_unit_test(uuid_text_round_trips),
        cmocka_unit_test(uuid_refuses_what_is_not_one),
        cmocka_unit_test(sizes_parse_and_print),
        cmocka_unit_test(reader_stops_at_the_end),
        cmocka_unit_test(buf_grows),
        cmocka_unit_test(mailbox_keeps_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

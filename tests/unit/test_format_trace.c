/* SPDX-License-Identifier: Apache-2.0 */

/* Descriptions of tracepoints, by BTF and by tracefs. The arguments are files of the fuzz corpora:
 * BTF with 8 arguments, with 12, and a format. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/file.h"
#include "format/btf.h"
#include "format/trace_format.h"
#include "unit.h"

static struct buf btf_8, btf_12, format;

/* Pointers and unsigned words, then the pause and the time of the start. */
static void assert_arguments(const struct buf *b, size_t count)
{
    struct btf_tracepoint event;

    assert_int_equal(btf_tracepoint(b->data, b->len, "balance_dirty_pages", &event), 0);
    assert_int_equal(event.count, count);
    assert_int_equal(event.args[0].integer_bytes, 0);
    assert_int_equal(event.args[1].integer_bytes, 8); /* const, typedef, unsigned long */
    assert_false(event.args[1].is_signed);
    assert_int_equal(event.args[count - 2].integer_bytes, 8);
    assert_true(event.args[count - 2].is_signed);
    assert_int_equal(event.args[count - 1].integer_bytes, 8);
    assert_false(event.args[count - 1].is_signed);
}

static void test_btf(void **state)
{
    struct btf_tracepoint event;

    (void)state;
    assert_arguments(&btf_8, 8);
    assert_arguments(&btf_12, 12);
    assert_int_equal(btf_tracepoint(btf_8.data, btf_8.len, "balance_dirty", &event), -ENOENT);
    assert_int_equal(btf_tracepoint(btf_8.data, btf_8.len, "", &event), -ENOENT);
    for (size_t len = 0; len < btf_8.len; len++)
        assert_int_equal(btf_tracepoint(btf_8.data, len, "balance_dirty_pages", &event), -EBADMSG);
}

/* A type that is an alias of itself ends, too. The ulong of the corpus is type 5 and names type 2.
 */
static void test_btf_circle(void **state)
{
    struct buf b CLEANUP_BUF = {0};
    struct btf_tracepoint event;
    size_t found = 0;

    (void)state;
    buf_put(&b, btf_8.data, btf_8.len);
    for (size_t at = 24; at + 12 <= b.len; at++) {
        if (load_le(b.data + at + 4, 4) == 8U << 24 && load_le(b.data + at + 8, 4) == 2) {
            store_le(b.data + at + 8, 5, 4);
            found++;
        }
    }
    assert_int_equal(found, 1);
    assert_int_equal(btf_tracepoint(b.data, b.len, "balance_dirty_pages", &event), -EBADMSG);
}

/* The kernel that runs this. */
static void test_btf_here(void **state)
{
    struct buf b CLEANUP_BUF = {0};
    struct btf_tracepoint event;

    (void)state;
    if (file_load(AT_FDCWD, BTF_VMLINUX_PATH, BTF_MAX_BYTES, &b) < 0)
        skip();
    assert_int_equal(btf_tracepoint(b.data, b.len, "balance_dirty_pages", &event), 0);
    assert_true(event.count == 8 || event.count == 12);
    assert_true(event.args[event.count - 2].is_signed);
    assert_int_equal(btf_tracepoint(b.data, b.len, "no_such_event_of_ours", &event), -ENOENT);
}

static int decode(const char *text, struct trace_field *ret, uint32_t *ret_id)
{
    return trace_format_decode(text, strlen(text), "pause", ret_id, ret);
}

static void test_format(void **state)
{
    struct trace_field field = {0};
    uint32_t id = 0;

    (void)state;
    assert_int_equal(trace_format_decode(format.data, format.len, "pause", &id, &field), 0);
    assert_int_equal(id, 985);
    assert_int_equal(field.offset, 112); /* and not that of `paused`, which comes first */
    assert_int_equal(field.bytes, 8);
    assert_true(field.is_signed);
    assert_int_equal(trace_format_decode(format.data, format.len, "ause", &id, &field), -ENOENT);
}

static void test_format_bad(void **state)
{
    struct trace_field field = {0};
    uint32_t id = 0;

    (void)state;
    assert_int_equal(decode("", &field, &id), -EBADMSG);
    assert_int_equal(decode("ID: x\n", &field, &id), -EBADMSG);
    assert_int_equal(decode("ID: -1\n", &field, &id), -EBADMSG);
    assert_int_equal(decode("ID: 9999999999\n", &field, &id), -EBADMSG);
    assert_int_equal(decode("ID: 5\n", &field, &id), -ENOENT);
    assert_int_equal(decode("ID: 5\n\tfield:long pause;\toffset:8;\n", &field, &id), -EBADMSG);
    assert_int_equal(decode("\tfield:long pause;\toffset:8;\tsize:8;\tsigned:1;\n", &field, &id),
                     -EBADMSG);
    assert_int_equal(
        decode("ID: 5\n\tfield:long pause;\toffset:8;\tsize:8;\tsigned:1;", &field, &id), 0);
}

static void load(const char *path, struct buf *ret)
{
    if (file_load(AT_FDCWD, path, 1 << 16, ret) < 0) {
        fprintf(stderr, "%s cannot be read\n", path);
        exit(1);
    }
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_btf),        cmocka_unit_test(test_btf_circle),
        cmocka_unit_test(test_btf_here),   cmocka_unit_test(test_format),
        cmocka_unit_test(test_format_bad),
    };
    int failed;

    if (argc != 4)
        return 2;
    load(argv[1], &btf_8);
    load(argv[2], &btf_12);
    load(argv[3], &format);
    failed = cmocka_run_group_tests(tests, NULL, NULL);
    buf_finish(&btf_8);
    buf_finish(&btf_12);
    buf_finish(&format);
    return failed;
}

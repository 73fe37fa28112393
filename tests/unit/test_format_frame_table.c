/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "format/frame_table.h"
#include "unit.h"

static int append(struct frame_table *t, uint64_t u, uint64_t c, uint32_t u_bytes, uint32_t c_bytes)
{
    return frame_table_append(t, (struct u_off){u}, (struct c_off){c}, u_bytes, c_bytes, NULL);
}

static uint64_t found_at(const struct frame_table *t, uint64_t off)
{
    const struct frame *f = frame_table_find(t, (struct u_off){off});

    return f ? f->u.v : UINT64_MAX;
}

static bool covers(const struct frame_table *t, uint64_t off, uint64_t len_bytes)
{
    return frame_table_covers(t, (struct u_off){off}, len_bytes);
}

/* Frames [0, 100) and [100, 150), a gap, [200, 300). */
static void fill(struct frame_table *t)
{
    t->codec = CODEC_LZ4;
    assert_int_equal(append(t, 0, 0, 100, 10), 0);
    assert_int_equal(append(t, 100, 10, 50, 60), 0);
    assert_int_equal(append(t, 200, 90, 100, 1), 0);
}

static void frames_are_found(void **state)
{
    struct frame_table t CLEANUP_FRAME_TABLE = {0};

    (void)state;
    assert_null(frame_table_find(&t, (struct u_off){0}));
    fill(&t);
    assert_int_equal(found_at(&t, 0), 0);
    assert_int_equal(found_at(&t, 99), 0);
    assert_int_equal(found_at(&t, 100), 100);
    assert_int_equal(found_at(&t, 149), 100);
    assert_int_equal(found_at(&t, 150), UINT64_MAX);
    assert_int_equal(found_at(&t, 199), UINT64_MAX);
    assert_int_equal(found_at(&t, 299), 200);
    assert_int_equal(found_at(&t, 300), UINT64_MAX);
    assert_int_equal(found_at(&t, UINT64_MAX), UINT64_MAX);
}

/* Every range of the space against a look at each of its bytes. */
static void ranges_are_covered_or_not(void **state)
{
    struct frame_table t CLEANUP_FRAME_TABLE = {0};

    (void)state;
    fill(&t);
    for (uint64_t off = 0; off < 310; off++) {
        bool all = true;

        for (uint64_t len = 0; off + len < 310; len++) {
            assert_int_equal(covers(&t, off, len), all);
            all = all && found_at(&t, off + len) != UINT64_MAX;
        }
    }
    assert_false(covers(&t, 1, UINT64_MAX));
    assert_false(covers(&t, UINT64_MAX, UINT64_MAX));
}

static void bad_frames_are_refused(void **state)
{
    struct frame_table t CLEANUP_FRAME_TABLE = {0};
    struct frame_table none CLEANUP_FRAME_TABLE = {0};

    (void)state;
    assert_int_equal(append(&none, 0, 0, 1, 1), -EINVAL);
    fill(&t);
    assert_int_equal(append(&t, 299, 91, 1, 1), -EINVAL);
    assert_int_equal(append(&t, 300, 90, 1, 1), -EINVAL);
    assert_int_equal(append(&t, 300, 91, 0, 1), -EINVAL);
    assert_int_equal(append(&t, 300, 91, 1, 0), -EINVAL);
    assert_int_equal(append(&t, 300, 91, UINT32_C(1) << 31, 1), -EINVAL);
    assert_int_equal(append(&t, 300, 91, 1, UINT32_C(1) << 31), -EINVAL);
    assert_int_equal(append(&t, INT64_MAX, 91, 1, 1), -EINVAL);
    assert_int_equal(append(&t, 300, UINT64_MAX, 1, 1), -EINVAL);
    assert_int_equal(t.count, 3);
    assert_int_equal(append(&t, 300, 91, INT32_MAX, INT32_MAX), 0);
}

static void encoded_as_described(void **state)
{
    static const uint8_t golden[] = {
        2,   0, 0, 0, 2, 0, 0, 0,                                                     /**/
        100, 0, 0, 0, 0, 0, 0, 0, 10, 0, 0, 0, 0, 0, 0, 0, 50,  0, 0, 0, 60, 0, 0, 0, /**/
        200, 0, 0, 0, 0, 0, 0, 0, 90, 0, 0, 0, 0, 0, 0, 0, 100, 0, 0, 0, 1,  0, 0, 0,
    };
    static const bool keep[] = {false, true, true};
    struct frame_table t CLEANUP_FRAME_TABLE = {0};
    struct frame_table again CLEANUP_FRAME_TABLE = {0};
    struct buf b CLEANUP_BUF = {0};
    struct reader r;

    (void)state;
    fill(&t);
    frame_table_encode(&t, keep, &b);
    assert_int_equal(b.len, sizeof(golden));
    assert_memory_equal(b.data, golden, sizeof(golden));
    r = reader_init(golden, sizeof(golden));
    assert_int_equal(frame_table_decode(&r, &again, NULL), 0);
    assert_int_equal(reader_left(&r), 0);
    assert_int_equal(again.count, 2);
    assert_int_equal(again.codec, CODEC_LZ4);
    assert_int_equal(again.frames[1].c.v, 90);
    assert_true(frame_table_covers(&again, (struct u_off){100}, 50));
    assert_false(frame_table_covers(&again, (struct u_off){100}, 101));
}

static void truncated_at_every_length(void **state)
{
    struct frame_table t CLEANUP_FRAME_TABLE = {0};
    struct frame_table again CLEANUP_FRAME_TABLE = {0};
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    fill(&t);
    frame_table_encode(&t, NULL, &b);
    for (size_t len = 0; len < b.len; len++) {
        struct thaw_error e = THAW_ERROR_INIT;
        struct reader r = reader_init(b.data, len);

        assert_int_equal(frame_table_decode(&r, &again, &e), -EBADMSG);
        assert_non_null(strstr(e.text, "byte"));
    }
    assert_int_equal(again.count, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(frames_are_found),          cmocka_unit_test(ranges_are_covered_or_not),
        cmocka_unit_test(bad_frames_are_refused),    cmocka_unit_test(encoded_as_described),
        cmocka_unit_test(truncated_at_every_length),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The disk tier: what is written is read, also by the next process; damage is noticed. */
#include "tier_fixture.h"

#define SIZE     (37 * MIB + 12345) /* of an object: three pages of sums, an odd end */
#define GRANULES ((uint32_t)div_round_up(SIZE, GRANULE_BYTES))

static char *folder;
static struct io_engine *io;
static enum io_kind kind;

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    return io_engine_create(kind, &io, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

/* --- what is written is there --- */

static void what_is_written_is_read(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);

    (void)state;
    assert_true(tier_writable(t));
    assert_int_equal(count_present(f, 0, GRANULES), 0);
    write_range(t, f, SIZE, 1, 0, 40);
    write_range(t, f, SIZE, 1, GRANULES - 3, 3);
    assert_int_equal(count_present(f, 0, GRANULES), 43);
    assert_int_equal(count_good(f, SIZE, 1, 0, 40), 40);
    assert_int_equal(count_good(f, SIZE, 1, GRANULES - 3, 3), 3);
    assert_false(tier_has(f, 40));
    assert_false(tier_has(f, GRANULES));
    tier_file_close(f);
    tier_destroy(t);
}

static void it_is_there_after_a_close_and_a_restart(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);

    (void)state;
    write_range(t, f, SIZE, 1, 0, GRANULES);
    tier_file_close(f);
    f = open_object(t, "memfile", SIZE);
    assert_int_equal(count_present(f, 0, GRANULES), GRANULES);
    tier_file_close(f);
    tier_destroy(t);

    t = open_tier(folder, io, 0);
    f = open_object(t, "memfile", SIZE);
    assert_int_equal(count_good(f, SIZE, 1, 0, GRANULES), GRANULES);
    tier_file_close(f);
    tier_destroy(t);
}

int main(void)
{
    static const enum io_kind kinds[] = {IO_KIND_AUTO, IO_KIND_POOL};
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read),
        TEST(it_is_there_after_a_close_and_a_restart),
    };
    int failed = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++) {
        kind = kinds[i];
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}

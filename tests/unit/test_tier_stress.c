/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The disk tier with everything at once, in a folder that is too small for it: objects are written
 * behind, read and forgotten; an overlay is written, read and forgotten; another object comes and
 * goes; and a second tier reads what the first one writes. What holds by its sum must be right.
 */
#include "tier_fixture.h"

#include <stdatomic.h>

#include "../lib/test_random.h"

#define SIZE     (24 * MIB + 5 * KIB)
#define GRANULES ((uint32_t)div_round_up(SIZE, GRANULE_BYTES))
#define BOUND    (20 * MIB)
#define OVERLAY  64u /* granules, of which each has a seed that counts its writes */
#define BATCHES  150u
#define STEPS    300u

static char *folder;
static struct io_engine *io;
static struct tier *tier, *reader;
static struct tier_file *file, *seen; /* the object, as the one and the other tier have it */
static _Atomic(unsigned) good, bad;

/* --- what is behind --- */

struct source {
    struct tier_behind behind;
    struct test_random random;
    struct waited waited;
    unsigned left;
    char *buf;
};

static void source_done(struct tier_write *w, int result)
{
    struct source *s = w->context;

    assert_true(result == 0 || result == -ENOSPC);
    if (s->left == 0)
        waited_over(&s->waited, 0);
}

static bool source_next(struct tier_behind *b, struct tier_write *w)
{
    struct source *s = container_of(b, struct source, behind);
    uint32_t count = 1 + (uint32_t)test_random_below(&s->random, TIER_WRITE_GRANULES);
    uint32_t first = (uint32_t)test_random_below(&s->random, GRANULES - count + 1);

    if (s->left == 0)
        return false;
    s->left--;
    fill_write(w, file, SIZE, 1, first, count, s->buf);
    w->done = source_done;
    w->context = s;
    return true;
}

/* --- threads --- */

/* Reads granules of one of the two files, and now and then forgets one that is good. */
static void *read_some(void *arg)
{
    struct test_random random = {.state = (uintptr_t)arg};
    struct tier_file *f = (uintptr_t)arg % 2 ? file : seen;

    for (unsigned i = 0; i < STEPS; i++) {
        uint32_t g = (uint32_t)test_random_below(&random, GRANULES);
        int r;

        if (!tier_has(f, g))
            continue;
        r = read_one(f, SIZE, 1, g);
        assert_true(r == 0 || r == 1 || r == -ENODATA);
        (*(r == 1 ? &good : &bad))++;
        if (r == 1 && i % 16 == 0)
            tier_forget(f, g);
        tier_wake(tier);
    }
    return NULL;
}

/* Nobody else has it: all of it holds. */
static void *use_overlay(void *arg)
{
    struct test_random random = {.state = 7};
    unsigned seeds[OVERLAY] = {0};
    struct tier_file *f;

    (void)arg;
    assert_int_equal(tier_file_create(tier, OVERLAY, &f), 0);
    for (unsigned i = 1; i < STEPS; i++) {
        uint32_t g = (uint32_t)test_random_below(&random, OVERLAY);

        assert_int_equal(tier_has(f, g), seeds[g] != 0);
        if (seeds[g] == 0) {
            seeds[g] = i;
            assert_int_equal(write_overlay(tier, f, i, g, 1), 0);
        } else if (i % 2) {
            assert_int_equal(read_one(f, UINT64_MAX, seeds[g], g), 1);
        } else {
            tier_forget(f, g);
            seeds[g] = 0;
        }
    }
    tier_file_close(f);
    return NULL;
}

static void *come_and_go(void *arg)
{
    (void)arg;
    for (unsigned i = 0; i < 20; i++) {
        struct tier_file *f = open_object(tier, i % 2 ? "rootfs" : "metadata", MIB);

        (void)count_good(f, MIB, 3, 0, 16);
        tier_file_close(f);
    }
    return NULL;
}

/* An object that is on the disk as the other tier opens it, and is evicted under its eyes. */
static void prepare(void)
{
    file = open_object(tier, "memfile", SIZE);
    write_range(tier, file, SIZE, 1, 0, 192);
    tier_file_close(file);
    seen = open_object(reader, "memfile", SIZE);
    assert_int_equal(count_present(seen, 0, 192), 192);
    file = open_object(tier, "rootfs", MIB);
    write_range(tier, file, MIB, 3, 0, 16);
    tier_file_close(file);
    file = open_object(tier, "memfile", SIZE);
}

static void everything_at_once(void **state)
{
    struct source s = {.behind.next = source_next,
                       .random.state = 3,
                       .waited = WAITED_INIT,
                       .left = BATCHES,
                       .buf = buffer(RUN_BYTES)};
    pthread_t threads[5];

    (void)state;
    prepare();
    for (uintptr_t i = 0; i < 3; i++)
        assert_int_equal(thread_start(&threads[i], "reader", read_some, (void *)(i + 1)), 0);
    assert_int_equal(thread_start(&threads[3], "overlay", use_overlay, NULL), 0);
    assert_int_equal(thread_start(&threads[4], "opener", come_and_go, NULL), 0);
    tier_set_behind(tier, &s.behind);
    assert_int_equal(waited_for(&s.waited), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
        thread_join(threads[i]);
    tier_set_behind(tier, NULL);
    assert_true(good > 0);
    assert_true(tier_counters(tier).evicted_bytes > 0);
    assert_true(tier_counters(tier).bytes + tier_counters(tier).overlay_bytes <= BOUND);
    tier_file_close(file);
    tier_file_close(seen);
    free(s.buf);
    print_message("%u granules were good, %u were not, and %llu KiB evicted\n", good, bad,
                  (unsigned long long)tier_counters(tier).evicted_bytes / KIB);
}

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    tier = open_tier(folder, io, BOUND);
    reader = open_tier(folder, io, BOUND);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    tier_destroy(reader);
    tier_destroy(tier);
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(everything_at_once, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

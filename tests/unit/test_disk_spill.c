/* SPDX-License-Identifier: Apache-2.0 */

/* Disks that are written more than memory holds: what is read is what was written, wherever it is.
 */
#include "disk/disk.h"

#include <errno.h>
#include <sched.h>
#include <string.h>
#include <sys/stat.h>

#include "base/clock.h"
#include "format/page_set.h"
#include "spill_fixture.h"

/* --- against the model: one request at a time in each region, all regions at once --- */

#define REGIONS      16u
#define REGION_BYTES (SPILL_BYTES / REGIONS)
#define ROUNDS       1500u

static uint64_t some_length(struct test_random *rng)
{
    static const uint64_t most[] = {100, 3 * PAGE_BYTES, 64 * PAGE_BYTES, 250 * PAGE_BYTES};
    uint64_t len = test_random_below(rng, most[test_random_below(rng, ARRAY_SIZE(most))]);

    return test_random_below(rng, 4) ? round_up(len, PAGE_BYTES) : len;
}

static enum disk_op some_op(struct test_random *rng)
{
    static const enum disk_op ops[] = {DISK_READ,  DISK_READ,  DISK_READ, DISK_WRITE, DISK_WRITE,
                                       DISK_WRITE, DISK_WRITE, DISK_ZERO, DISK_TRIM};

    return ops[test_random_below(rng, ARRAY_SIZE(ops))];
}

static void begin(struct job *j, unsigned region, struct test_random *rng)
{
    uint64_t len = some_length(rng);
    uint64_t off = test_random_below(rng, REGION_BYTES - len);

    if (test_random_below(rng, 4))
        off = round_down(off, PAGE_BYTES);
    job_init(j, some_op(rng), region * REGION_BYTES + off, len);
    if (j->request.op == DISK_WRITE)
        fill_random(j, rng);
    job_submit(j);
}

static void end(struct job *j)
{
    if (j->request.result < 0)
        fail_msg("op %d of %u bytes at %llu: %d, %d", j->request.op, j->request.len_bytes,
                 (unsigned long long)j->request.off, j->request.result, j->request.cause);
    if (j->request.op == DISK_READ)
        assert_memory_equal(j->data, model + j->request.off, j->request.len_bytes);
    else
        model_apply(&j->request);
    job_finish(j);
}

static void it_behaves_as_the_model(void **state)
{
    struct job jobs[REGIONS] = {0};
    struct test_random rng = {7};
    struct disk_counters n;

    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        unsigned i = (unsigned)test_random_below(&rng, REGIONS);

        if (jobs[i].data) {
            job_await(&jobs[i]);
            end(&jobs[i]);
        }
        begin(&jobs[i], i, &rng);
    }
    for (unsigned i = 0; i < REGIONS; i++) {
        if (jobs[i].data) {
            job_await(&jobs[i]);
            end(&jobs[i]);
        }
    }
    check_all();
    n = disk_counters(disk);
    assert_true(n.spilled_bytes > 4 * SPILL_BUDGET);
    assert_true(n.disk_bytes > SPILL_BUDGET);
    assert_in_range(n.dirty_bytes, 1, SPILL_BUDGET / 2);
    assert_true(tier_now().read_bytes > SPILL_BUDGET);
}

/* --- what is rewritten while it is on its way --- */

static void what_is_being_written_does_not_change(void **state)
{
    struct test_random rng = {11};

    (void)state;
    /* Half of the share is dirty then, and what came first is being written: nothing is told yet.
     */
    write_range(&rng, 0, 40 * GRANULE_BYTES, GRANULE_BYTES);
    assert_true(overlay_under_way(disk_overlay(disk)) > 0);
    write_range(&rng, 3 * PAGE_BYTES, 20 * PAGE_BYTES, PAGE_BYTES);
    write_range(&rng, GRANULE_BYTES * 4 + 100, 50, 50); /* a part of a block */
    assert_int_equal(one(DISK_ZERO, 6 * GRANULE_BYTES, GRANULE_BYTES + 5), 0);
    check_all();
    spills_land();
    check_all();
    write_range(&rng, 10 * MIB, 20 * MIB, MIB); /* so that nothing of it is in memory */
    check_all();
}

static void await_disk_bytes(uint64_t most)
{
    uint64_t deadline_ns = clock_now_ns() + 60 * NS_PER_SEC;

    while (disk_counters(disk).disk_bytes > most) {
        assert_true(clock_now_ns() < deadline_ns);
        sched_yield();
    }
}

/* All blocks of what is being written die before it has landed: its room is given back. */
static void what_dies_on_its_way_leaves_nothing(void **state)
{
    struct test_random rng = {12};

    (void)state;
    write_range(&rng, 0, 40 * GRANULE_BYTES, GRANULE_BYTES);
    assert_true(overlay_under_way(disk_overlay(disk)) > 0);
    assert_int_equal(one(DISK_TRIM, 0, 40 * GRANULE_BYTES), 0);
    spills_land();
    await_disk_bytes(0);
    assert_int_equal(disk_counters(disk).dirty_bytes, 0);
    assert_int_equal(one(DISK_READ, 0, 40 * GRANULE_BYTES), 0);
}

/* --- what has to wait for room --- */

/* Writes until one has to wait; returns that, which is a block of zeros. */
static void write_until_paced(struct job *j, struct test_random *rng)
{
    uint64_t off = 0;

    do {
        job_init(j, DISK_WRITE, off, off < 4 * MIB - 16 * GRANULE_BYTES ? MIB : PAGE_BYTES);
        fill_random(j, rng);
        model_apply(&j->request);
        job_submit(j);
        off += j->request.len_bytes;
        assert_true(off < 8 * MIB);
        if (j->done)
            job_finish(j);
    } while (!j->data);
}

/* Of blocks that the image has; the requests wait with what they have read of them. */
static void edges_wait_for_room(void **state)
{
    static const enum disk_op ops[] = {DISK_ZERO, DISK_WRITE, DISK_ZERO, DISK_TRIM};
    struct test_random rng = {21};
    struct job first, jobs[ARRAY_SIZE(ops)];
    uint64_t off = 20 * MIB;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) /* nothing has to be fetched */
        assert_int_equal(one(DISK_READ, off + i * MIB, 8 * PAGE_BYTES), 0);
    write_until_paced(&first, &rng);
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        job_init(&jobs[i], ops[i], off + i * MIB + 1000, 3 * PAGE_BYTES + 77);
        job_submit(&jobs[i]);
        assert_true(jobs[i].done == (ops[i] == DISK_TRIM));
    }
    assert_int_equal(disk_counters(disk).paced, ARRAY_SIZE(ops));
    for (unsigned i = 0; i < ARRAY_SIZE(ops); i++) {
        job_await(&jobs[i]);
        assert_int_equal(jobs[i].request.result, 0);
        model_apply(&jobs[i].request);
        job_finish(&jobs[i]);
    }
    job_await(&first);
    job_finish(&first);
    check_all();
}

/* --- room that is given back --- */

static uint64_t file_blocks(int fd)
{
    struct stat st;

    assert_int_equal(fstat(fd, &st), 0);
    return (uint64_t)st.st_blocks * 512;
}

static void a_trim_frees_memory_and_disk(void **state)
{
    struct test_random rng = {13};
    uint64_t end;
    int fd;

    (void)state;
    write_range(&rng, 0, 24 * MIB, MIB);
    spills_land();
    fd = spill_file();
    end = (uint64_t)lseek(fd, 0, SEEK_END);
    assert_in_range(disk_counters(disk).disk_bytes, 20 * MIB, 24 * MIB);
    assert_true(file_blocks(fd) >= 20 * MIB);

    assert_int_equal(one(DISK_TRIM, 0, 12 * MIB), 0);
    await_disk_bytes(12 * MIB);
    assert_in_range(file_blocks(fd), 8 * MIB, 12 * MIB + MIB);
    check_all();
    assert_int_equal(one(DISK_TRIM, 12 * MIB, 12 * MIB), 0);
    spills_land();
    await_disk_bytes(0);
    assert_in_range(file_blocks(fd), 0, MIB); /* what the file system has of its own */
    assert_int_equal(disk_counters(disk).dirty_bytes, 0);
    assert_int_equal(cache_set_counters(layers.caches).bytes[CACHE_KIND_OVERLAY], 0);
    check_all();

    write_range(&rng, 0, 24 * MIB, MIB); /* the same places in the file again */
    spills_land();
    assert_int_equal(lseek(fd, 25 * (off_t)MIB, SEEK_DATA), -1);
    assert_int_equal(lseek(fd, 0, SEEK_END), end);
    check_all();
    close(fd);
}

/* Of sixteen blocks that were written together, fifteen die: what is left is moved and not written.
 */
static void what_has_little_left_is_not_written(void **state)
{
    struct test_random rng = {14};
    uint64_t before;

    (void)state;
    write_range(&rng, 0, 30 * GRANULE_BYTES, GRANULE_BYTES);
    assert_int_equal(disk_counters(disk).spilled_bytes, 0);
    for (uint64_t g = 0; g < 30; g++)
        assert_int_equal(one(DISK_TRIM, g * GRANULE_BYTES, 15 * PAGE_BYTES), 0);
    before = disk_counters(disk).dirty_bytes;
    assert_int_equal(before, 30 * GRANULE_BYTES);
    write_range(&rng, 8 * MIB, 3 * GRANULE_BYTES, GRANULE_BYTES);
    spills_land();
    assert_true(disk_counters(disk).dirty_bytes <= 7 * GRANULE_BYTES);
    assert_int_equal(disk_counters(disk).spilled_bytes, 0);
    check_all();
}

/* --- no room anywhere --- */

static void no_room_hurts_only_who_needs_it(void **state)
{
    struct test_random rng = {15};
    uint64_t deadline_ns = clock_now_ns() + 60 * NS_PER_SEC, off = 0;
    int r;

    (void)state;
    spill_open(6 * MIB);
    do {
        r = one(DISK_WRITE, off, MIB);
        off += MIB;
    } while (r == 0);
    assert_int_equal(r, -ENOSPC);
    assert_in_range(off, 7 * MIB, 12 * MIB);
    assert_true(disk_counters(disk).disk_bytes <= 6 * MIB);
    assert_int_equal(one(DISK_WRITE, off + MIB, MIB), -ENOSPC);
    assert_true(cache_set_counters(layers.caches).refused >= 2);
    check_all();
    assert_int_equal(one(DISK_WRITE, off - 2 * MIB, PAGE_BYTES), 0); /* it is in memory */
    assert_int_equal(one(DISK_WRITE, off - 2 * MIB + 1, 5), 0);
    assert_int_equal(one(DISK_TRIM, 0, 4 * MIB), 0);
    while (one(DISK_WRITE, off, MIB) == -ENOSPC) /* until the room has been given back */
        assert_true(clock_now_ns() < deadline_ns);
    write_range(&rng, 0, 2 * MIB, 100 * KIB);
    check_all();
    spill_close();
}

/* --- damage --- */

/* Changes all that is in the file; twice gives it back. */
static void flip(int fd)
{
    static unsigned char buf[GRANULE_BYTES];
    off_t at = 0;

    while ((at = lseek(fd, at, SEEK_DATA)) >= 0) {
        ssize_t n = pread(fd, buf, sizeof(buf), at);

        assert_true(n > 0);
        for (ssize_t i = 0; i < n; i += 512)
            buf[i] ^= 0x10;
        assert_int_equal(pwrite(fd, buf, (size_t)n, at), n);
        at += n;
    }
}

static unsigned read_what_is_there(void)
{
    unsigned lost = 0;

    for (uint64_t off = 0; off < 20 * MIB; off += GRANULE_BYTES) {
        struct job j;

        job_init(&j, DISK_READ, off, GRANULE_BYTES);
        job_run(&j);
        if (j.request.result < 0) {
            assert_int_equal(j.request.result, -EIO);
            assert_int_equal(j.request.cause, -EBADMSG);
            lost++;
        } else {
            assert_memory_equal(j.data, model + off, GRANULE_BYTES);
        }
        job_finish(&j);
    }
    return lost;
}

static void damage_is_an_error_of_who_reads_it(void **state)
{
    struct test_random rng = {16};
    struct page_set dirty CLEANUP_PAGE_SET = {0}, zero CLEANUP_PAGE_SET = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    int fd, dir;

    (void)state;
    write_range(&rng, 0, 20 * MIB, MIB);
    spills_land();
    fd = spill_file();
    flip(fd);
    assert_in_range(read_what_is_there(), 100, 20 * MIB / GRANULE_BYTES - 10);
    assert_int_equal(one(DISK_WRITE, 5, 10), -EIO); /* it needs the rest of the block */
    dir = open(layers.folder, O_RDONLY | O_DIRECTORY);
    assert_int_equal(overlay_export(disk_overlay(disk), dir, "diff", &dirty, &zero, &e), -EBADMSG);
    assert_non_null(strstr(e.text, "reading block"));
    assert_int_equal(faccessat(dir, "diff", F_OK, 0), -1);
    close(dir);
    flip(fd);
    check_all();
    flip(fd);
    write_range(&rng, 0, 20 * MIB, MIB); /* whole blocks need nothing */
    check_all();
    close(fd);
}

/* --- export --- */

/* What is exported, laid over the image, is what the disk reads as. */
static void check_export(void)
{
    struct page_set dirty CLEANUP_PAGE_SET = {0}, zero CLEANUP_PAGE_SET = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct buf diff CLEANUP_BUF = {0};
    unsigned char *laid = memdup(layers.content, SPILL_BYTES);
    int dir = open(layers.folder, O_RDONLY | O_DIRECTORY);
    size_t packed = 0;

    assert_int_equal(overlay_export(disk_overlay(disk), dir, "diff", &dirty, &zero, &e), 0);
    assert_int_equal(file_load(dir, "diff", SPILL_BYTES, &diff), 0);
    for (size_t i = 0; i < dirty.count; i++) {
        size_t n = dirty.ranges[i].pages * PAGE_BYTES;

        memcpy(laid + dirty.ranges[i].start * PAGE_BYTES, diff.data + packed, n);
        packed += n;
    }
    for (size_t i = 0; i < zero.count; i++)
        memset(laid + zero.ranges[i].start * PAGE_BYTES, 0, zero.ranges[i].pages * PAGE_BYTES);
    assert_int_equal(packed, diff.len);
    assert_memory_equal(laid, model, SPILL_BYTES);
    assert_int_equal(unlinkat(dir, "diff", 0), 0);
    close(dir);
    free(laid);
}

static void an_export_has_what_was_spilled(void **state)
{
    struct test_random rng = {17};

    (void)state;
    write_range(&rng, 0, 12 * MIB, 100 * PAGE_BYTES);
    for (unsigned i = 0; i < 800; i++) /* here and there */
        write_range(&rng, test_random_below(&rng, SPILL_BYTES / PAGE_BYTES) * PAGE_BYTES,
                    PAGE_BYTES, PAGE_BYTES);
    assert_int_equal(one(DISK_ZERO, 3 * MIB + 5, MIB), 0);
    check_export(); /* some are still on their way */
    spills_land();
    check_export();
    check_all();
}

/* --- shares --- */

static void overlays_share_fairly(void **state)
{
    struct test_random rng = {18};
    struct disk_options options = {
        .image = image, .build = layers.ids[LAYERS - 1], .inbox = &inbox};
    const uint64_t dirty = SPILL_BUDGET - PASSING_PLACES * GRANULE_BYTES; /* what may be dirty */
    struct disk *first = disk, *second;

    (void)state;
    write_range(&rng, 0, 20 * MIB, MIB);
    spills_land();
    assert_in_range(disk_counters(first).dirty_bytes, dirty / 4, dirty);
    assert_int_equal(disk_create(&options, &second, NULL), 0);
    for (unsigned i = 0; i < 16; i++) { /* in turn; none is refused */
        disk = i % 2 == 0 ? first : second;
        assert_int_equal(one(DISK_ZERO, 20 * MIB + i * MIB, 5), 0);
        write_range(&rng, 20 * MIB + i * MIB, MIB, MIB);
        assert_true(disk_counters(first).dirty_bytes <= dirty / 2 + MIB);
        assert_true(disk_counters(second).dirty_bytes <= dirty / 2);
    }
    for (unsigned i = 0; i < 16; i++) {
        disk = i % 2 == 0 ? first : second;
        assert_int_equal(one(DISK_READ, 20 * MIB + i * MIB, MIB), 0);
    }
    disk = second;
    disk_cancel_all(second);
    while (disk_under_way(second) > 0)
        deliver();
    disk_destroy(second);
    disk = first;
    assert_int_equal(one(DISK_READ, 0, 20 * MIB), 0);
}

/* One that writes as fast as it can, while nothing lands, takes no more than its share. */
static void a_share_is_not_exceeded(void **state)
{
    struct disk_options options = {
        .image = image, .build = layers.ids[LAYERS - 1], .inbox = &inbox};
    const uint64_t dirty = SPILL_BUDGET - PASSING_PLACES * GRANULE_BYTES;
    struct disk *first = disk, *second;
    struct job many[6], one_more;

    (void)state;
    assert_int_equal(disk_create(&options, &second, NULL), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
        job_init(&many[i], DISK_WRITE, i * MIB, MIB);
        job_submit(&many[i]);
        assert_int_equal(many[i].done, i * MIB < dirty / 2);
    }
    assert_int_equal(disk_counters(first).dirty_bytes, dirty / 2);
    disk = second;
    job_init(&one_more, DISK_WRITE, 0, MIB);
    job_submit(&one_more);
    assert_true(one_more.done); /* at once: its share is its own */
    assert_int_equal(one_more.request.result, 0);
    job_finish(&one_more);
    for (unsigned i = 0; i < ARRAY_SIZE(many); i++) {
        job_await(&many[i]);
        assert_int_equal(many[i].request.result, 0);
        job_finish(&many[i]);
    }
    disk_cancel_all(second);
    while (disk_under_way(second) > 0)
        deliver();
    disk_destroy(second);
    disk = first;
}

/* Each fills what it may keep, and rests; those that come later find room all the same. */
static void those_who_rest_keep_no_memory_from_others(void **state)
{
    struct disk_options options = {
        .image = image, .build = layers.ids[LAYERS - 1], .inbox = &inbox};
    const uint64_t budget = 24 * MIB, dirty = budget - PASSING_PLACES * GRANULE_BYTES;
    struct disk *first = disk, *disks[16];

    (void)state;
    assert_int_equal(cache_set_budget(layers.caches, budget), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(disks); i++) {
        struct test_random rng = {22}; /* all the same, so that there is one model */
        uint64_t rest = dirty / (i + 2) / 2 / GRANULE_BYTES - 1;

        assert_int_equal(disk_create(&options, &disks[i], NULL), 0);
        disk = disks[i];
        write_range(&rng, 0, rest * GRANULE_BYTES, GRANULE_BYTES);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(disks); i++) {
        uint64_t rest = dirty / (i + 2) / 2 / GRANULE_BYTES - 1;

        disk = disks[i];
        assert_int_equal(one(DISK_READ, 0, rest * GRANULE_BYTES), 0);
        disk_cancel_all(disk);
        while (disk_under_way(disk) > 0)
            deliver();
        disk_destroy(disk);
    }
    disk = first;
}

static void a_lower_budget_is_kept(void **state)
{
    const uint64_t high = 40 * MIB;
    struct test_random rng = {19};

    (void)state;
    assert_int_equal(cache_set_budget(layers.caches, high), 0);
    write_range(&rng, 0, 16 * MIB, MIB);
    assert_int_equal(disk_counters(disk).spilled_bytes, 0);
    assert_int_equal(disk_counters(disk).dirty_bytes, 16 * MIB);
    assert_int_equal(cache_set_budget(layers.caches, SPILL_BUDGET), 0);
    write_range(&rng, 16 * MIB, PAGE_BYTES, PAGE_BYTES);
    spills_land();
    assert_true(disk_counters(disk).dirty_bytes <= SPILL_BUDGET / 2);
    assert_true(cache_set_counters(layers.caches).charged_bytes <= SPILL_BUDGET);
    check_all();
    assert_true(cache_set_counters(layers.caches).charged_bytes <= SPILL_BUDGET);
}

/* --- its end --- */

static void a_disk_ends_while_it_spills(void **state)
{
    struct test_random rng = {20};
    struct job jobs[8];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(jobs); i++) {
        job_init(&jobs[i], DISK_WRITE, i * 4 * MIB, 4 * MIB);
        fill_random(&jobs[i], &rng);
        job_submit(&jobs[i]);
    }
    assert_true(overlay_under_way(disk_overlay(disk)) > 0);
    assert_true(disk_counters(disk).paced > 0 || jobs[7].done == false);
    disk_cancel(disk, &jobs[5].request);
    assert_int_equal(jobs[5].request.result, -ECANCELED);
    disk_cancel_all(disk);
    for (unsigned i = 0; i < ARRAY_SIZE(jobs); i++) {
        assert_true(jobs[i].done);
        job_finish(&jobs[i]);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        SPILL_TEST(it_behaves_as_the_model),
        SPILL_TEST(what_is_being_written_does_not_change),
        SPILL_TEST(what_dies_on_its_way_leaves_nothing),
        SPILL_TEST(edges_wait_for_room),
        SPILL_TEST(a_trim_frees_memory_and_disk),
        SPILL_TEST(what_has_little_left_is_not_written),
        cmocka_unit_test(no_room_hurts_only_who_needs_it),
        SPILL_TEST(damage_is_an_error_of_who_reads_it),
        SPILL_TEST(an_export_has_what_was_spilled),
        SPILL_TEST(overlays_share_fairly),
        SPILL_TEST(a_share_is_not_exceeded),
        SPILL_TEST(those_who_rest_keep_no_memory_from_others),
        SPILL_TEST(a_lower_budget_is_kept),
        SPILL_TEST(a_disk_ends_while_it_spills),
    };

    return cmocka_run_group_tests(tests, spill_set_up_group, disk_fixture_finish_group);
}

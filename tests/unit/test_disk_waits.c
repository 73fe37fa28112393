/* SPDX-License-Identifier: Apache-2.0 */

/* What becomes of requests that wait: the store is held until the test says otherwise. */
#include "disk/disk.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "disk/disk_internal.h"
#include "disk_fixture.h"

#define BYTES (24 * MIB + PAGE_BYTES)

static int set_up_group(void **state)
{
    (void)state;
    disk_fixture_init_group(BYTES);
    return 0;
}

static int set_up(void **state)
{
    disk_fixture_set_up(state);
    gate_close(&layers.gate);
    return 0;
}

/* The next block from @off on that is stored, and the block after it too, in one granule. */
static uint64_t stored_block(uint64_t off)
{
    for (off = round_up(off, PAGE_BYTES);; off += PAGE_BYTES) {
        struct image_extent at;

        assert_int_equal(image_lookup(image, (struct image_off){off}, &at), 0);
        if (!at.zero && at.len_bytes >= 2 * PAGE_BYTES)
            return off;
    }
}

static void fill(struct job *j, enum disk_op op, uint64_t off, uint64_t len, char byte)
{
    job_init(j, op, off, len);
    memset(j->data, byte, len);
}

/* Submits a change; what becomes of the disk is as if it were done now. */
static void change(struct job *j, enum disk_op op, uint64_t off, uint64_t len, char byte)
{
    fill(j, op, off, len, byte);
    model_apply(&j->request);
    job_submit(j);
}

static void let_go(void)
{
    gate_open(&layers.gate);
}

static void finish(struct job *j)
{
    job_await(j);
    assert_int_equal(j->request.result, 0);
    job_finish(j);
}

static void check_read(uint64_t off, uint64_t len)
{
    struct job j;

    job_init(&j, DISK_READ, off, len);
    job_run(&j);
    assert_int_equal(j.request.result, 0);
    assert_memory_equal(j.data, model + off, len);
    job_finish(&j);
}

/* --- order --- */

static void a_change_waits_for_the_one_before(void **state)
{
    uint64_t b = stored_block(MIB);
    struct job part, whole, again, zero, other;

    (void)state;
    change(&part, DISK_WRITE, b + 100, 100, 'p');
    gate_await(&layers.gate, &inbox, 1);
    change(&whole, DISK_WRITE, b, 2 * PAGE_BYTES, 'w'); /* needs nothing, but comes second */
    change(&again, DISK_WRITE, b + 150, 100, 'a');
    change(&zero, DISK_ZERO, b + 160, 10, 0);
    change(&other, DISK_WRITE, b + 8 * PAGE_BYTES, PAGE_BYTES, 'o');
    assert_true(other.done); /* has nothing to do with it */
    deliver_what_is_there();
    assert_false(part.done || whole.done || again.done || zero.done);
    let_go();
    job_await(&zero);
    assert_true(part.order < whole.order && whole.order < again.order && again.order < zero.order);
    finish(&part);
    finish(&whole);
    finish(&again);
    finish(&zero);
    finish(&other);
    check_read(b, 3 * PAGE_BYTES);
}

static void parts_of_one_block_are_all_there(void **state)
{
    uint64_t b = stored_block(2 * MIB);
    struct job jobs[20];

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(jobs); i++) {
        change(&jobs[i], i % 4 == 3 ? DISK_ZERO : DISK_WRITE, b + i * 200 + 7, 150, (char)i);
        assert_false(jobs[i].done);
    }
    let_go();
    for (unsigned i = 0; i < ARRAY_SIZE(jobs); i++)
        finish(&jobs[i]);
    check_read(b, PAGE_BYTES);
}

/* An edge was read while the other one is still on its way: what is written to it then stays. */
static void an_edge_that_changed_is_read_again(void **state)
{
    uint64_t head = stored_block(3 * MIB), tail = stored_block(head + 2 * MIB);
    struct job wide, narrow, first;

    (void)state;
    let_go();
    check_read(head, PAGE_BYTES);
    gate_close(&layers.gate);
    change(&wide, DISK_WRITE, head + 500, tail + 100 - (head + 500), 'W');
    gate_await(&layers.gate, &inbox, 1);
    assert_false(wide.done);
    change(&narrow, DISK_WRITE, head + 100, 50, 'n');
    assert_true(narrow.done);
    check_read(head, 400); /* and whoever reads it sees it */
    change(&first, DISK_ZERO, head, 20, 0);
    assert_true(first.done);
    let_go();
    finish(&wide);
    finish(&narrow);
    finish(&first);
    check_read(head, 4 * PAGE_BYTES);
    check_read(tail - PAGE_BYTES, 3 * PAGE_BYTES);
}

/* A block that was written while its granule was on its way needs it no more. */
static void an_answered_write_is_seen(void **state)
{
    uint64_t b = stored_block(6 * MIB);
    struct job before, write, zero, trim;

    (void)state;
    job_init(&before, DISK_READ, b, 2 * PAGE_BYTES);
    job_submit(&before);
    gate_await(&layers.gate, &inbox, 1);
    change(&write, DISK_WRITE, b, PAGE_BYTES, 'w');
    assert_true(write.done);
    change(&zero, DISK_ZERO, b + PAGE_BYTES, PAGE_BYTES, 0);
    assert_true(zero.done);
    check_read(b + 10, 2 * PAGE_BYTES - 20); /* while the store is held */
    change(&trim, DISK_TRIM, b - 1, 2 * PAGE_BYTES + 2, 0);
    assert_true(trim.done); /* it leaves alone what it has a part of only */
    check_read(b, 2 * PAGE_BYTES);
    let_go();
    finish(&before);
    finish(&write);
    finish(&zero);
    finish(&trim);
    check_read(b - PAGE_BYTES, 4 * PAGE_BYTES);
}

static void a_flush_waits_for_nobody(void **state)
{
    uint64_t b = stored_block(7 * MIB);
    struct job write, flush;

    (void)state;
    change(&write, DISK_WRITE, b + 1, 1, 'x');
    job_init(&flush, DISK_FLUSH, UINT64_MAX, 0);
    job_submit(&flush);
    assert_true(flush.done);
    assert_false(write.done);
    let_go();
    finish(&write);
    finish(&flush);
}

static void zeros_in_zeros_take_no_memory(void **state)
{
    uint64_t off = 0;
    struct image_extent at = {.zero = false};
    struct job j;

    (void)state;
    for (; !at.zero; off += PAGE_BYTES)
        assert_int_equal(image_lookup(image, (struct image_off){off}, &at), 0);
    change(&j, DISK_ZERO, off - PAGE_BYTES + 10, 100, 0);
    assert_true(j.done);
    assert_int_equal(disk_counters(disk).dirty_bytes, 0);
    finish(&j);
    change(&j, DISK_WRITE, off - PAGE_BYTES + 10, 100, 'd');
    assert_true(j.done);
    assert_int_equal(disk_counters(disk).dirty_bytes, PAGE_BYTES);
    finish(&j);
    check_read(off - PAGE_BYTES, PAGE_BYTES);
}

/* --- pools --- */

#define CROWD 700u

static struct job crowd[CROWD];

/* More than there are waits, bounces and flights: partial writes, reads, and large reads. */
static void a_crowd_is_served(void **state)
{
    (void)state;
    for (unsigned i = 0; i < CROWD; i++) {
        uint64_t off = (i * UINT64_C(7) % CROWD) * (BYTES - MIB) / CROWD + 5;
        struct job *j = &crowd[i];

        if (i % 100 == 50) {
            job_init(j, DISK_READ, off, MIB);
        } else if (i % 3 == 0) {
            job_init(j, DISK_READ, off, 100);
        } else {
            fill(j, DISK_WRITE, off, i % 3 == 1 ? 50 : 7000, (char)i);
            model_apply(&j->request);
        }
        job_submit(j);
    }
    deliver_what_is_there();
    assert_int_equal(disk->waits_out, DISK_WAITS);
    assert_int_equal(disk->bounces_used, DISK_BOUNCES);
    assert_true(disk->starving > 0);
    let_go();
    for (unsigned i = 0; i < CROWD; i++)
        finish(&crowd[i]);
    assert_int_equal(disk->starving, 0);
    assert_int_equal(disk->waits_out, 0);
    assert_true(disk_counters(disk).waited > 0);
    check_all();
}

/* What comes back to a pool is for who lacked it first, not for who happens to ask next. */
static void nobody_is_overtaken(void **state)
{
    struct job *lacking = &crowd[DISK_BOUNCES], *late = &crowd[DISK_BOUNCES + 1];

    (void)state;
    for (unsigned i = 0; i < DISK_BOUNCES + 1; i++) {
        uint64_t b = stored_block(i * 128 * KIB);

        fill(&crowd[i], DISK_WRITE, b + 1, 1, 'x');
        job_submit(&crowd[i]);
        assert_int_equal(crowd[i].request.bounce == NULL, i == DISK_BOUNCES);
    }
    disk_cancel(disk, &crowd[0].request);
    job_finish(&crowd[0]);
    fill(late, DISK_WRITE, stored_block(16 * MIB) + 1, 1, 'l');
    job_submit(late);
    assert_null(late->request.bounce);
    deliver_what_is_there();
    assert_non_null(lacking->request.bounce);
    assert_null(late->request.bounce);
    let_go();
    for (unsigned i = 1; i < DISK_BOUNCES + 2; i++)
        finish(&crowd[i]);
}

/* --- failures --- */

static void fails(struct job *j)
{
    job_await(j);
    assert_int_equal(j->request.result, -EIO);
    assert_int_equal(j->request.cause, -EBADMSG);
    job_finish(j);
}

static void a_damaged_object_fails_those_who_need_it(void **state)
{
    uint64_t there = stored_block(8 * MIB), a = stored_block(9 * MIB), b = stored_block(a + MIB);
    struct job read, part, half, wide, behind, whole;

    (void)state;
    let_go();
    check_read(there, PAGE_BYTES);
    gate_close(&layers.gate);
    layers_fixture_damage(&layers);
    fill(&half, DISK_WRITE, there + 1, a + 10 - there, 'h');
    job_submit(&half);
    job_init(&read, DISK_READ, a, PAGE_BYTES);
    job_submit(&read);
    fill(&part, DISK_WRITE, a + 1, 1, 'x');
    job_submit(&part);
    fill(&wide, DISK_WRITE, a + PAGE_BYTES - 10, b - a, 'y');
    job_submit(&wide);
    change(&behind, DISK_WRITE, round_up(a + 2 * PAGE_BYTES, PAGE_BYTES), PAGE_BYTES, 'z');
    assert_false(behind.done);
    let_go();
    fails(&half);
    fails(&read);
    fails(&part);
    fails(&wide);
    finish(&behind); /* it needs nothing, and goes on */
    fill(&part, DISK_WRITE, a + 1, 1, 'x');
    job_run(&part);
    fails(&part);
    change(&whole, DISK_WRITE, a, PAGE_BYTES, 'w');
    finish(&whole);
    check_read(a, PAGE_BYTES);
    assert_int_equal(disk_counters(disk).failed, 5);

    layers_fixture_damage(&layers);
    check_read(a - PAGE_BYTES, b - a + 3 * PAGE_BYTES); /* nothing of what failed is to be seen */
    change(&part, DISK_WRITE, b + 1, 1, 'x');
    finish(&part);
    check_all();
}

static void no_room_fails_one_request(void **state)
{
    struct rlimit old, small = {.rlim_cur = 4 * MIB};
    struct job low, high, wide;

    (void)state;
    let_go();
    check_read(0, 9 * MIB); /* opens the layers, whose caches are larger */
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    fill(&high, DISK_WRITE, 8 * MIB, PAGE_BYTES, 'h');
    job_run(&high);
    fill(&wide, DISK_WRITE, 3 * MIB + 5, 2 * MIB, 'w');
    job_run(&wide);
    change(&low, DISK_WRITE, MIB + 5, PAGE_BYTES, 'l');
    job_await(&low);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(high.request.result, -ENOSPC);
    assert_int_equal(wide.request.result, -ENOSPC);
    assert_int_equal(low.request.result, 0);
    check_read(MIB, MIB);
    check_read(8 * MIB, MIB); /* what failed altogether has changed nothing */
    job_finish(&high);
    job_finish(&low);
    job_finish(&wide);
    change(&high, DISK_WRITE, 8 * MIB, PAGE_BYTES, 'h');
    finish(&high);
    check_read(8 * MIB, MIB);
}

/* --- the end --- */

static void cancelled_requests_are_the_callers_at_once(void **state)
{
    uint64_t b = stored_block(10 * MIB);
    struct job read, part, behind, other;

    (void)state;
    job_init(&read, DISK_READ, b, MIB);
    job_submit(&read);
    gate_await(&layers.gate, &inbox, 1);
    fill(&part, DISK_WRITE, b + 1, 1, 'x');
    job_submit(&part);
    change(&behind, DISK_WRITE, b, PAGE_BYTES, 'b');
    job_init(&other, DISK_READ, b + PAGE_BYTES, 10);
    job_submit(&other);
    disk_cancel(disk, &read.request);
    assert_int_equal(read.request.result, -ECANCELED);
    job_finish(&read); /* with its memory, which nobody writes to any more */
    disk_cancel(disk, &part.request);
    assert_int_equal(part.request.result, -ECANCELED);
    job_finish(&part);
    finish(&behind); /* nothing is before it now */
    assert_false(other.done);
    let_go();
    finish(&other);
    check_read(b, PAGE_BYTES);
}

static void resubmit(struct disk_request *r)
{
    struct job *j = container_of(r, struct job, request);
    struct disk_request again = {.op = DISK_FLUSH};

    assert_int_equal(disk_submit(disk, &again), 1);
    assert_int_equal(again.result, -ESHUTDOWN);
    job_done(&j->request);
}

static void the_end_does_not_wait_for_the_store(void **state)
{
    struct disk_view v;
    struct job slow;
    unsigned out;

    (void)state;
    fill(&slow, DISK_ZERO, BYTES - 17 * MIB, 17 * MIB, 0);
    job_submit(&slow);
    assert_false(slow.done); /* in the middle of it, and the rest of the crowd behind it */
    for (unsigned i = 0; i < CROWD; i++) {
        uint64_t off = i * (BYTES - MIB) / CROWD + 5;

        fill(&crowd[i], i % 3 ? DISK_WRITE : DISK_READ, off, i % 50 ? 100 : MIB, 'c');
        crowd[i].request.done = resubmit;
        job_submit(&crowd[i]);
    }
    out = disk->waits_out;
    assert_true(out > 0);
    disk_cancel_all(disk);
    assert_true(slow.done);
    job_finish(&slow);
    for (unsigned i = 0; i < CROWD; i++) {
        assert_true(crowd[i].done);
        job_finish(&crowd[i]);
    }
    assert_int_equal(disk_view(disk, 0, 1, &v), -ESHUTDOWN);
    assert_in_range(disk_under_way(disk), 1, out + 1);
    deliver_what_is_there();
    assert_in_range(disk_under_way(disk), 1, out);
    /* The rest is the tear-down: the messages come, and then nothing is under way. */
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, disk_fixture_tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_change_waits_for_the_one_before),
        TEST(parts_of_one_block_are_all_there),
        TEST(an_edge_that_changed_is_read_again),
        TEST(an_answered_write_is_seen),
        TEST(a_flush_waits_for_nobody),
        TEST(zeros_in_zeros_take_no_memory),
        TEST(a_crowd_is_served),
        TEST(nobody_is_overtaken),
        TEST(a_damaged_object_fails_those_who_need_it),
        TEST(no_room_fails_one_request),
        TEST(cancelled_requests_are_the_callers_at_once),
        TEST(the_end_does_not_wait_for_the_store),
    };

    return cmocka_run_group_tests(tests, set_up_group, disk_fixture_finish_group);
}

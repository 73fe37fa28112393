/* SPDX-License-Identifier: Apache-2.0 */

/* Views, requests that are refused, counters, memory that was lost. */
#include "disk/disk.h"

#include <errno.h>
#include <string.h>

#include "disk_fixture.h"
#include "kernel/uffd.h"

#define BYTES (2 * MIB + 5 * PAGE_BYTES)

static int set_up_group(void **state)
{
    (void)state;
    disk_fixture_init_group(BYTES);
    return 0;
}

static void run(enum disk_op op, uint64_t off, uint64_t len, int expected)
{
    struct job j;

    job_init(&j, op, off, len);
    memset(j.data, 'r', len);
    job_run(&j);
    assert_int_equal(j.request.result, expected);
    if (expected == 0)
        model_apply(&j.request);
    job_finish(&j);
}

static void check_view(uint64_t off, uint32_t len, int max_pieces)
{
    int pieces = view(off, len);

    if (pieces < (len > 0) || pieces > max_pieces)
        fail_msg("%d pieces, not 1 to %d", pieces, max_pieces);
}

static uint64_t stored_granule(void)
{
    struct image_extent at;

    for (uint64_t off = 0;; off += PAGE_BYTES) {
        assert_int_equal(image_lookup(image, (struct image_off){off}, &at), 0);
        if (!at.zero && at.len_bytes >= 8 * PAGE_BYTES)
            return off;
    }
}

static void a_view_shows_what_is_there(void **state)
{
    uint64_t g = stored_granule();
    struct disk_view v;

    (void)state;
    assert_int_equal(disk_view(disk, g, PAGE_BYTES, &v), -EAGAIN);
    run(DISK_WRITE, g, 2 * PAGE_BYTES, 0);
    run(DISK_ZERO, g + 2 * PAGE_BYTES, 2 * PAGE_BYTES, 0);
    check_view(g + 1, 4 * PAGE_BYTES - 1, 2); /* of the overlay alone */
    assert_int_equal(disk_view(disk, g, 5 * PAGE_BYTES, &v), -EAGAIN);
    run(DISK_READ, 0, MIB, 0);
    check_view(g, 8 * PAGE_BYTES, 3);
    check_view(g, 0, 0);
    check_view(BYTES, 0, 0);
    assert_int_equal(disk_view(disk, 0, BYTES, &v), -EAGAIN);
}

/* Large requests are seen in place, too: what follows in memory is one piece. */
static void neighbours_are_one_piece(void **state)
{
    (void)state;
    run(DISK_WRITE, 0, BYTES, 0);
    check_view(0, BYTES, 1);
    run(DISK_ZERO, 0, BYTES, 0);
    check_view(0, BYTES, 3);
}

static void too_many_pieces_are_to_be_read(void **state)
{
    struct disk_view v;

    (void)state;
    for (uint64_t i = 0; i < DISK_VIEW_PIECES; i++)
        run(i % 2 ? DISK_WRITE : DISK_ZERO, i * PAGE_BYTES, PAGE_BYTES, 0);
    check_view(0, DISK_VIEW_PIECES * PAGE_BYTES, DISK_VIEW_PIECES);
    run(DISK_WRITE, DISK_VIEW_PIECES * PAGE_BYTES, 2 * PAGE_BYTES, 0);
    run(DISK_ZERO, (DISK_VIEW_PIECES + 1) * PAGE_BYTES, PAGE_BYTES, 0);
    check_view(PAGE_BYTES, DISK_VIEW_PIECES * PAGE_BYTES, DISK_VIEW_PIECES);
    assert_int_equal(disk_view(disk, 0, (DISK_VIEW_PIECES + 2) * PAGE_BYTES, &v), -EAGAIN);
}

static void what_is_no_part_of_the_disk(void **state)
{
    struct disk_view v;

    (void)state;
    assert_int_equal(disk_bytes(disk), BYTES);
    for (enum disk_op op = DISK_READ; op <= DISK_TRIM; op++) {
        run(op, BYTES - 1, 2, -EINVAL);
        run(op, BYTES + 1, 0, -EINVAL);
        run(op, UINT64_MAX, 1, -EINVAL);
        run(op, UINT64_MAX - 5, 10, -EINVAL);
        run(op, BYTES, 0, 0);
        run(op, 0, 0, 0);
    }
    assert_int_equal(disk_view(disk, BYTES - 1, 2, &v), -EINVAL);
    assert_int_equal(disk_view(disk, UINT64_MAX, 2, &v), -EINVAL);
    check_all();
}

static void who_may_only_read(void **state)
{
    (void)state;
    disk_fixture_close();
    disk_fixture_open(true);
    run(DISK_WRITE, 0, PAGE_BYTES, -EROFS);
    run(DISK_ZERO, 0, 10, -EROFS);
    run(DISK_TRIM, 0, PAGE_BYTES, -EROFS);
    run(DISK_FLUSH, 0, 0, 0);
    check_all();
}

static _Atomic(bool) over;

static void *look_at_counters(void *arg)
{
    uint64_t last = 0;

    (void)arg;
    while (!atomic_load(&over)) {
        struct disk_counters c = disk_counters(disk);

        assert_true(c.writes >= last && c.dirty_bytes <= BYTES);
        last = c.writes;
    }
    return NULL;
}

static void counters_count(void **state)
{
    struct disk_counters c;
    pthread_t looker;

    (void)state;
    atomic_store(&over, false);
    assert_int_equal(thread_start(&looker, "looker", look_at_counters, NULL), 0);
    for (unsigned i = 0; i < 50; i++)
        run(DISK_WRITE, i * PAGE_BYTES, PAGE_BYTES, 0);
    run(DISK_ZERO, 0, 20 * PAGE_BYTES, 0);
    run(DISK_TRIM, 1, 20 * PAGE_BYTES, 0);
    run(DISK_READ, 0, 100, 0);
    check_view(0, 1000, 1);
    run(DISK_FLUSH, 0, 0, 0);
    run(DISK_READ, BYTES, 1, -EINVAL);
    atomic_store(&over, true);
    thread_join(looker);
    c = disk_counters(disk);
    assert_int_equal(c.reads, 2);
    assert_int_equal(c.read_bytes, 1100);
    assert_int_equal(c.writes, 50);
    assert_int_equal(c.written_bytes, 50 * PAGE_BYTES);
    assert_int_equal(c.zeroes, 1);
    assert_int_equal(c.trims, 1);
    assert_int_equal(c.flushes, 1);
    assert_int_equal(c.failed, 1);
    assert_int_equal(c.waited, 0);
    assert_int_equal(c.dirty_bytes, 30 * PAGE_BYTES);
    run(DISK_READ, BYTES - MIB, MIB, 0);
    assert_int_equal(disk_counters(disk).waited, 1);
}

/* --- memory that was lost, as an operator could do it to us --- */

/* All memory of that name, as it is found in /proc. */
static void lose_memory(const char *name)
{
    unsigned found = 0;

    for (int fd = 0; fd < 1024; fd++) {
        char path[64], target[300] = "";
        int copy, r;

        snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
        if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, name))
            continue;
        copy = open(path, O_RDWR);
        r = fallocate(copy, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, (off_t)BYTES);
        assert_int_equal(r, 0);
        close(copy);
        found++;
    }
    assert_true(found > 1);
}

static bool can_see_holes(void)
{
    int fd = uffd_guard_open();

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static void a_hole_is_seen(uint64_t off)
{
    struct disk_view v;
    struct job j;
    int p[2];
    ssize_t n;

    assert_int_equal(pipe(p), 0);
    assert_int_equal(disk_view(disk, off, PAGE_BYTES, &v), 0);
    n = writev(p[1], v.iov, (int)v.pieces);
    disk_view_end(disk, &v);
    assert_int_equal(n, -1);
    assert_int_equal(errno, EFAULT);
    job_init(&j, DISK_READ, off, PAGE_BYTES);
    job_run(&j);
    assert_int_equal(j.request.result, -EIO);
    assert_int_equal(j.request.cause, -EFAULT);
    job_finish(&j);
    run(DISK_WRITE, off + 10, 10, -EIO); /* the rest of the block is gone */
    close(p[0]);
    close(p[1]);
}

static void lost_memory_is_an_error(void **state)
{
    uint64_t g = stored_granule();

    (void)state;
    if (!can_see_holes()) {
        print_message("no userfaultfd to be had: holes are not seen here\n");
        skip();
    }
    run(DISK_WRITE, 0, PAGE_BYTES, 0);
    run(DISK_READ, g + PAGE_BYTES, PAGE_BYTES, 0);
    lose_memory(":rootfs");
    a_hole_is_seen(0);
    a_hole_is_seen(g + PAGE_BYTES);
    run(DISK_WRITE, 0, PAGE_BYTES, 0);
    run(DISK_WRITE, g + PAGE_BYTES, PAGE_BYTES, 0);
    assert_int_equal(view(0, PAGE_BYTES), 1);
    assert_int_equal(view(g + PAGE_BYTES, PAGE_BYTES), 1);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DISK_TEST(a_view_shows_what_is_there),
        DISK_TEST(neighbours_are_one_piece),
        DISK_TEST(too_many_pieces_are_to_be_read),
        DISK_TEST(what_is_no_part_of_the_disk),
        DISK_TEST(who_may_only_read),
        DISK_TEST(counters_count),
        DISK_TEST(lost_memory_is_an_error),
    };

    return cmocka_run_group_tests(tests, set_up_group, disk_fixture_finish_group);
}

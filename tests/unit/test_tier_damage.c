/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The files of the disk tier after whatever may happen to them: every damage is noticed, and what
 * is not damaged is still there. Content that is wrong is never taken for right: see read_one().
 */
#include "tier_fixture.h"

#include <signal.h>
#include <sys/resource.h>

#include "format/tier.h"

#define SIZE     (37 * MIB + 12345) /* two pages of sums, an odd end */
#define GRANULES ((uint32_t)div_round_up(SIZE, GRANULE_BYTES))
#define HEAD     24u /* granules at the start and at the end that are there */
#define TAIL     (GRANULES - HEAD)

static char *folder;
static char *data, *sums; /* paths of the object's files */

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    data = path_of(folder, "memfile", ".data");
    sums = path_of(folder, "memfile", ".sums");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(data);
    free(sums);
    scratch_remove(folder);
    return 0;
}

/* --- an object with something in it --- */

struct open {
    struct io_engine *io;
    struct tier *tier;
    struct tier_file *file;
};

static struct open open_all(void)
{
    struct open o = {0};

    assert_int_equal(io_engine_create(IO_KIND_AUTO, &o.io, NULL), 0);
    o.tier = open_tier(folder, o.io, 0);
    o.file = open_object(o.tier, "memfile", SIZE);
    return o;
}

static void close_all(struct open *o)
{
    tier_file_close(o->file);
    tier_destroy(o->tier);
    io_engine_destroy(o->io);
}

static void write_object(void)
{
    struct open o = open_all();

    write_range(o.tier, o.file, SIZE, 1, 0, HEAD);
    write_range(o.tier, o.file, SIZE, 1, TAIL, HEAD);
    close_all(&o);
}

/* How many are good at its start and at its end. And whatever it was, the object can be used. */
static void expect_good(uint32_t head, uint32_t tail)
{
    struct open o = open_all();

    assert_int_equal(count_good(o.file, SIZE, 1, 0, HEAD), head);
    assert_int_equal(count_good(o.file, SIZE, 1, TAIL, HEAD), tail);
    assert_int_equal(count_present(o.file, 0, GRANULES), head + tail);
    write_range(o.tier, o.file, SIZE, 1, 0, HEAD);
    write_range(o.tier, o.file, SIZE, 1, TAIL, HEAD);
    tier_file_close(o.file);
    o.file = open_object(o.tier, "memfile", SIZE);
    assert_int_equal(count_good(o.file, SIZE, 1, 0, HEAD), HEAD);
    assert_int_equal(count_good(o.file, SIZE, 1, TAIL, HEAD), HEAD);
    close_all(&o);
}

/* By way of the page cache, which whoever reads past it writes out first. */
static void flip(const char *path, uint64_t offset)
{
    int fd = open(path, O_RDWR | O_CLOEXEC);
    char byte;

    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 4;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

/* --- flipped bits --- */

static void a_bit_of_the_data_costs_a_granule(void **state)
{
    (void)state;
    write_object();
    flip(data, 5 * GRANULE_BYTES);
    flip(data, 9 * GRANULE_BYTES - 1);
    flip(data, SIZE - 1);
    expect_good(HEAD - 2, HEAD - 1);
}

static void a_bit_after_the_end_costs_nothing(void **state)
{
    (void)state;
    write_object();
    flip(data, SIZE);
    expect_good(HEAD, HEAD);
}

static void a_bit_of_the_sums_costs_a_page_of_them(void **state)
{
    (void)state;
    write_object();
    flip(sums, TIER_PAGE_BYTES + 16 + 8 * 3);
    expect_good(0, HEAD);
    flip(sums, TIER_PAGE_BYTES + SUMS_PAGE_BYTES + 1234);
    expect_good(HEAD, 0);
}

static void a_bit_of_the_first_page_costs_the_object(void **state)
{
    (void)state;
    for (uint64_t at = 0; at < TIER_PAGE_BYTES; at += 409) {
        write_object();
        flip(sums, at);
        expect_good(0, 0);
    }
}

/* --- sizes, holes, and files that are gone --- */

static void a_file_of_another_size_is_none(void **state)
{
    static const off_t sizes[] = {0, 1, 4096, 4096 + 17, 8192, 1 << 20};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        write_object();
        assert_int_equal(truncate(data, sizes[i]), 0);
        expect_good(0, 0);
        write_object();
        assert_int_equal(truncate(sums, sizes[i]), 0);
        expect_good(0, 0);
    }
}

static void one_file_without_the_other_is_none(void **state)
{
    (void)state;
    write_object();
    assert_int_equal(unlink(data), 0);
    expect_good(0, 0);
    assert_int_equal(unlink(sums), 0);
    expect_good(0, 0);
}

static void a_hole_in_the_data_is_no_granule(void **state)
{
    struct open o;
    int fd;

    (void)state;
    write_object();
    fd = open(data, O_RDWR | O_CLOEXEC);
    assert_int_equal(fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                               3 * GRANULE_BYTES + 8192, GRANULE_BYTES),
                     0);
    close(fd);
    o = open_all();
    assert_int_equal(count_present(o.file, 0, HEAD), HEAD - 2); /* which nobody has to read */
    close_all(&o);
    expect_good(HEAD - 2, HEAD);
}

static void data_without_a_sum_is_no_granule(void **state)
{
    char *bytes = buffer(GRANULE_BYTES);
    int fd;

    (void)state;
    write_object();
    memset(bytes, 7, GRANULE_BYTES);
    fd = open(data, O_RDWR | O_CLOEXEC);
    assert_int_equal(file_write_at(fd, bytes, GRANULE_BYTES, HEAD * GRANULE_BYTES), 0);
    close(fd);
    expect_good(HEAD, HEAD);
    free(bytes);
}

/* The second page in place of the first. */
static void sums_of_another_place_are_none(void **state)
{
    char page[SUMS_PAGE_BYTES];
    int fd;

    (void)state;
    write_object();
    fd = open(sums, O_RDWR | O_CLOEXEC);
    assert_int_equal(file_read_at(fd, page, sizeof(page), TIER_PAGE_BYTES + SUMS_PAGE_BYTES),
                     sizeof(page));
    assert_int_equal(file_write_at(fd, page, sizeof(page), TIER_PAGE_BYTES), 0);
    close(fd);
    expect_good(0, HEAD);
}

static void files_of_another_object_are_none(void **state)
{
    char *other_data = path_of(folder, "rootfs", ".data");
    char *other_sums = path_of(folder, "rootfs", ".sums");

    (void)state;
    write_object();
    assert_int_equal(rename(data, other_data), 0);
    assert_int_equal(rename(sums, other_sums), 0);
    {
        struct open o = open_all();
        struct tier_file *f = open_object(o.tier, "rootfs", SIZE);

        assert_int_equal(count_present(f, 0, GRANULES), 0);
        tier_file_close(f);
        close_all(&o);
    }
    free(other_data);
    free(other_sums);
}

/* Nothing waits for the other end of a pipe, and nobody is led out of the folder. */
static void what_is_no_file_is_replaced(void **state)
{
    char *elsewhere = scratch_path(folder, "elsewhere");
    struct stat st;

    (void)state;
    write_object();
    assert_int_equal(unlink(data), 0);
    assert_int_equal(mkfifo(data, 0600), 0);
    expect_good(0, 0);
    assert_int_equal(unlink(sums), 0);
    assert_int_equal(mkfifo(sums, 0600), 0);
    expect_good(0, 0);
    assert_int_equal(rename(data, elsewhere), 0);
    assert_int_equal(symlink(elsewhere, data), 0);
    expect_good(0, 0);
    assert_int_equal(lstat(data, &st), 0);
    assert_true(S_ISREG(st.st_mode) && (st.st_mode & 0777) == 0600);
    free(elsewhere);
}

/* --- while it is open --- */

static void a_file_that_is_cut_off_has_no_data(void **state)
{
    struct open o;

    (void)state;
    write_object();
    o = open_all();
    assert_int_equal(truncate(data, 10 * GRANULE_BYTES), 0);
    assert_int_equal(read_one(o.file, SIZE, 1, 12), -ENODATA);
    assert_false(tier_has(o.file, 12)); /* asked for once is enough */
    assert_int_equal(count_good(o.file, SIZE, 1, 0, HEAD), 10);
    assert_int_equal(tier_counters(o.tier).read_errors, 0);
    assert_int_equal(tier_counters(o.tier).damaged, 0);
    close_all(&o);
}

static void who_only_reads_leaves_damage_alone(void **state)
{
    struct tier *owner, *reader;
    struct io_engine *io;
    struct tier_file *f = NULL;
    struct stat before, after;

    (void)state;
    write_object();
    flip(sums, 17);
    assert_int_equal(stat(sums, &before), 0);
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    owner = open_tier(folder, io, 0);
    reader = open_tier(folder, io, 0);
    assert_int_equal(try_object(reader, "memfile", SIZE, &f), -EROFS);
    assert_int_equal(stat(sums, &after), 0);
    assert_int_equal(after.st_ino, before.st_ino);
    tier_destroy(reader);
    tier_destroy(owner);
    io_engine_destroy(io);
}

/* --- killed --- */

#define KILLED_BATCHES 75u /* of 4 granules: twice are sums written, and some are not */

/* Gives one batch after the other, and then the process dies by SIGKILL with its file open. */
struct dying {
    struct tier_behind behind;
    struct tier_file *file;
    uint32_t batches;
    char *buf;
};

static void dying_done(struct tier_write *w, int result)
{
    const struct dying *d = w->context;

    if (result < 0)
        _exit(1);
    if (d->batches == KILLED_BATCHES)
        raise(SIGKILL);
}

static bool dying_next(struct tier_behind *b, struct tier_write *w)
{
    struct dying *d = container_of(b, struct dying, behind);

    fill_write(w, d->file, SIZE, 1, 4 * d->batches++, 4, d->buf);
    w->done = dying_done;
    w->context = d;
    return true;
}

static int write_and_die(void)
{
    struct open o = open_all();
    struct dying d = {.behind.next = dying_next, .file = o.file, .buf = buffer(RUN_BYTES)};

    tier_set_behind(o.tier, &d.behind);
    return pause();
}

static int try_to_own(void)
{
    struct open o = open_all();
    bool owns = tier_writable(o.tier);

    close_all(&o);
    return owns;
}

static void a_killed_writer_loses_little(void **state)
{
    struct open o;
    uint32_t good;

    (void)state;
    assert_int_equal(in_child(write_and_die), 128 + SIGKILL);
    o = open_all();
    assert_true(tier_writable(o.tier)); /* the lock went with it */
    good = count_good(o.file, SIZE, 1, 0, GRANULES);
    assert_int_equal(tier_counters(o.tier).damaged, 0);
    assert_true(good >= 4 * (KILLED_BATCHES - 32) && good <= 4 * KILLED_BATCHES);
    close_all(&o);
}

static void another_process_has_the_lock(void **state)
{
    struct open o;
    int to_child[2], from_child[2];
    pid_t child;
    char c = 0;

    (void)state;
    assert_true(pipe2(to_child, O_CLOEXEC) == 0 && pipe2(from_child, O_CLOEXEC) == 0);
    child = fork();
    if (child == 0) {
        write_object();
        o = open_all();
        if (!tier_writable(o.tier) || write(from_child[1], "x", 1) != 1)
            _exit(1);
        _exit((int)read(to_child[0], &c, 1)); /* with all of it open */
    }
    assert_int_equal(read(from_child[0], &c, 1), 1);
    o = open_all();
    assert_false(tier_writable(o.tier));
    assert_int_equal(tier_owner(o.tier), child);
    assert_int_equal(count_good(o.file, SIZE, 1, 0, HEAD), HEAD);
    close_all(&o);
    assert_int_equal(write(to_child[1], "x", 1), 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(in_child(try_to_own), 1);
    for (unsigned i = 0; i < 2; i++) {
        close(to_child[i]);
        close(from_child[i]);
    }
}

/* --- what is no damage --- */

/* A process without descriptors says nothing of the files: they stay. */
static void files_stay_where_descriptors_run_out(void **state)
{
    struct open o = open_all();
    struct tier_file *other = NULL;
    struct rlimit was, low;

    (void)state;
    write_range(o.tier, o.file, SIZE, 1, 0, HEAD);
    tier_file_close(o.file);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
    for (rlim_t left = 0; left < 2; left++) {
        int lowest = open("/dev/null", O_RDONLY | O_CLOEXEC);

        close(lowest);
        low = (struct rlimit){(rlim_t)lowest + left, was.rlim_max};
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
        assert_int_equal(try_object(o.tier, "memfile", SIZE, &other), -EMFILE);
        assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
    }
    o.file = open_object(o.tier, "memfile", SIZE);
    assert_int_equal(count_good(o.file, SIZE, 1, 0, HEAD), HEAD);
    close_all(&o);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_bit_of_the_data_costs_a_granule),
        TEST(a_bit_after_the_end_costs_nothing),
        TEST(a_bit_of_the_sums_costs_a_page_of_them),
        TEST(a_bit_of_the_first_page_costs_the_object),
        TEST(a_file_of_another_size_is_none),
        TEST(one_file_without_the_other_is_none),
        TEST(a_hole_in_the_data_is_no_granule),
        TEST(data_without_a_sum_is_no_granule),
        TEST(sums_of_another_place_are_none),
        TEST(files_of_another_object_are_none),
        TEST(what_is_no_file_is_replaced),
        TEST(a_file_that_is_cut_off_has_no_data),
        TEST(who_only_reads_leaves_damage_alone),
        TEST(files_stay_where_descriptors_run_out),
        TEST(a_killed_writer_loses_little),
        TEST(another_process_has_the_lock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

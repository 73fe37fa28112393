/* SPDX-License-Identifier: Apache-2.0 */

/* The disk tier: what is written is read, also by the next process and beside this one. */
#include "tier_fixture.h"

#include <dirent.h>
#include <signal.h>
#include <sys/mman.h>

#include "../lib/test_random.h"
#include "cache/tier_internal.h"

#define SIZE     (37 * MIB + 12345) /* of an object: two pages of sums, an odd end */
#define GRANULES ((uint32_t)div_round_up(SIZE, GRANULE_BYTES))

static char *folder;
static struct io_engine *io;
static const char *engine; /* what THAW_IO says; NULL: nothing, and then reads are direct */

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    if (engine)
        setenv("THAW_IO", engine, 1);
    else
        unsetenv("THAW_IO");
    return io_engine_create(IO_KIND_AUTO, &io, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

/* Files in the folder that have a name. */
static unsigned count_files(void)
{
    char *path = scratch_path(folder, "tier");
    DIR *dir = opendir(path);
    const struct dirent *entry;
    unsigned n = 0;

    assert_non_null(dir);
    while ((entry = readdir(dir)) != NULL)
        n += entry->d_name[0] != '.';
    closedir(dir);
    free(path);
    return n;
}

/* --- what is written is there --- */

static void what_is_written_is_read(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);

    (void)state;
    assert_true(tier_writable(t));
    assert_int_equal(fcntl(f->data, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDWR);
    assert_int_equal(count_present(f, 0, GRANULES), 0);
    write_range(t, f, SIZE, 1, 0, 40);
    write_range(t, f, SIZE, 1, GRANULES - 3, 3);
    assert_int_equal(count_present(f, 0, GRANULES), 43);
    assert_int_equal(count_good(f, SIZE, 1, 0, 40), 40);
    assert_int_equal(count_good(f, SIZE, 1, GRANULES - 3, 3), 3);
    assert_false(tier_has(f, 40));
    assert_false(tier_has(f, GRANULES));
    assert_int_equal(tier_counters(t).read_bytes, 42 * GRANULE_BYTES + 16 * KIB);
    assert_int_equal(tier_counters(t).written_bytes, 42 * GRANULE_BYTES + 16 * KIB);
    tier_file_close(f);
    tier_destroy(t);
}

/* In pieces and of several granules, as who fetches reads. */
static void a_run_is_read_into_pieces(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);
    char *buf = buffer(8 * GRANULE_BYTES), *expected = buffer(GRANULE_BYTES);
    struct iovec iov[3] = {{buf, PAGE_BYTES},
                           {buf + PAGE_BYTES, 2 * GRANULE_BYTES},
                           {buf + PAGE_BYTES + 2 * GRANULE_BYTES, 6 * GRANULE_BYTES - PAGE_BYTES}};
    struct sync_read s = {
        .read = {.file = f, .first = 60, .count = 8, .iov = iov, .iov_count = 3},
        .waited = WAITED_INIT,
    };

    (void)state;
    write_range(t, f, SIZE, 1, 56, 16);
    s.read.done = sync_read_done;
    tier_read(&s.read);
    assert_int_equal(waited_for(&s.waited), 0);
    for (uint32_t i = 0; i < 8; i++) {
        pattern(expected, 1, 60 + i);
        assert_memory_equal(buf + i * GRANULE_BYTES, expected, GRANULE_BYTES);
        assert_int_equal(s.read.sums[i], sums_of(expected, GRANULE_BYTES));
    }
    tier_file_close(f);
    tier_destroy(t);
    free(buf);
    free(expected);
}

static void a_run_with_a_hole_is_no_data(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);
    char *buf = buffer(2 * GRANULE_BYTES);
    struct iovec iov = {buf, 2 * GRANULE_BYTES};
    struct sync_read s = {
        .read = {.file = f, .first = 0, .count = 2, .iov = &iov, .iov_count = 1},
        .waited = WAITED_INIT,
    };

    (void)state;
    write_range(t, f, SIZE, 1, 0, 1);
    s.read.done = sync_read_done;
    tier_read(&s.read);
    assert_int_equal(waited_for(&s.waited), -ENODATA);
    assert_true(tier_has(f, 0));
    tier_file_close(f);
    tier_destroy(t);
    free(buf);
}

static void it_is_there_after_a_close_and_a_restart(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);
    uint64_t bytes;

    (void)state;
    write_range(t, f, SIZE, 1, 0, GRANULES);
    tier_file_close(f);
    f = open_object(t, "memfile", SIZE);
    assert_int_equal(count_present(f, 0, GRANULES), GRANULES);
    bytes = tier_file_bytes(f);
    assert_int_equal(tier_counters(t).bytes, bytes);
    tier_file_close(f);
    /* From here on the file system is asked, which may count a block for its own tables. */
    assert_in_range(tier_counters(t).bytes, bytes, bytes + GRANULE_BYTES);
    tier_destroy(t);

    t = open_tier(folder, io, 0);
    assert_in_range(tier_counters(t).bytes, bytes, bytes + GRANULE_BYTES);
    f = open_object(t, "memfile", SIZE);
    assert_int_equal(tier_counters(t).bytes, bytes);
    assert_int_equal(count_good(f, SIZE, 1, 0, GRANULES), GRANULES);
    tier_file_close(f);
    tier_destroy(t);
}

/* Any mixture of operations, compared with a set of numbers. */
static void it_has_what_a_set_would_have(void **state)
{
    struct test_random random = {.state = 42};
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);
    bool *model = calloc(GRANULES, sizeof(*model));

    (void)state;
    assert_non_null(model);
    for (int step = 0; step < 300; step++) {
        uint32_t g = (uint32_t)test_random_below(&random, GRANULES);
        uint32_t n = 1 + (uint32_t)test_random_below(&random, TIER_WRITE_GRANULES);

        switch (test_random_below(&random, 8)) {
        case 0:
            tier_forget(f, g);
            model[g] = false;
            break;
        case 1:
            tier_file_close(f);
            if (test_random_below(&random, 4) == 0) {
                tier_destroy(t);
                t = open_tier(folder, io, 0);
            }
            f = open_object(t, "memfile", SIZE);
            break;
        case 2:
        case 3:
            if (model[g])
                assert_int_equal(read_one(f, SIZE, 1, g), 1);
            break;
        default:
            n = MIN(n, GRANULES - g);
            write_range(t, f, SIZE, 1, g, n);
            memset(model + g, true, n);
        }
        for (uint32_t i = 0; i < GRANULES; i++)
            assert_int_equal(tier_has(f, i), model[i]);
    }
    tier_file_close(f);
    tier_destroy(t);
    free(model);
}

static void a_file_with_nothing_in_it_leaves_nothing(void **state)
{
    struct tier *t = open_tier(folder, io, 0);

    (void)state;
    tier_file_close(open_object(t, "memfile", SIZE));
    assert_int_equal(count_files(), 0);
    tier_destroy(t);
}

static void what_is_forgotten_stays_forgotten(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);

    (void)state;
    write_range(t, f, SIZE, 1, 0, 16);
    tier_forget(f, 7);
    tier_forget(f, 7);
    tier_forget(f, GRANULES);
    assert_false(tier_has(f, 7));
    assert_int_equal(tier_counters(t).damaged, 1);
    tier_file_close(f);
    f = open_object(t, "memfile", SIZE);
    assert_int_equal(count_good(f, SIZE, 1, 0, 16), 15);
    assert_false(tier_has(f, 7));
    write_range(t, f, SIZE, 1, 7, 1);
    assert_int_equal(read_one(f, SIZE, 1, 7), 1);
    tier_file_close(f);
    tier_destroy(t);
}

/* --- which object --- */

static void objects_do_not_mix(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE), *g = NULL;
    struct tier_file_options o = {&tier_build, "memfile", SIZE, 99};

    (void)state;
    write_range(t, f, SIZE, 1, 0, 16);
    assert_int_equal(try_object(t, "memfile", SIZE, &g), -EBUSY);
    assert_int_equal(count_good(f, SIZE, 1, 0, 16), 16);
    g = open_object(t, "rootfs", SIZE);
    assert_int_equal(count_present(g, 0, 16), 0);
    tier_file_close(g);
    assert_int_equal(tier_file_open(t, &o, &g), 0);
    assert_int_equal(count_present(g, 0, 16), 0);
    tier_file_close(g);
    tier_file_close(f);
    /* Another size is another object, in place of the first. */
    f = open_object(t, "memfile", SIZE + 1);
    assert_int_equal(count_present(f, 0, GRANULES), 0);
    tier_file_close(f);
    tier_destroy(t);
}

static void what_cannot_be_an_object_is_refused(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = NULL;
    char name[400] = "";

    (void)state;
    assert_int_equal(try_object(t, "memfile", 0, &f), -EINVAL);
    assert_int_equal(try_object(t, "memfile", UINT64_MAX, &f), -EINVAL);
    assert_int_equal(try_object(t, "", SIZE, &f), -EINVAL);
    assert_int_equal(try_object(t, "../memfile", SIZE, &f), -EINVAL);
    memset(name, 'n', sizeof(name) - 1);
    assert_int_equal(try_object(t, name, SIZE, &f), -EINVAL);
    name[TIER_NAME_MAX] = '\0';
    assert_int_equal(try_object(t, name, SIZE, &f), 0);
    tier_file_close(f);
    assert_int_equal(tier_file_create(t, 0, &f), -EINVAL);
    tier_destroy(t);
}

static void what_cannot_be_a_folder_is_named(void **state)
{
    char *path = scratch_path(folder, "a-file");
    struct tier_options options = {.folder = path, .io = io};
    struct thaw_error e = THAW_ERROR_INIT;
    struct tier *t = NULL;

    (void)state;
    close(open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    assert_int_equal(tier_create(&options, &t, &e), -ENOTDIR);
    assert_non_null(strstr(e.text, path));
    options.folder = folder;
    options.keep_free_percent = 100;
    e = (struct thaw_error)THAW_ERROR_INIT;
    assert_int_equal(tier_create(&options, &t, &e), -EINVAL);
    assert_non_null(strstr(e.text, "100%"));
    assert_null(t);
    free(path);
}

/* --- two at a time --- */

/* A tier that has not got the lock: another one of this process is as good as another process. */
static void who_has_no_lock_only_reads(void **state)
{
    struct tier *owner = open_tier(folder, io, 0), *reader = open_tier(folder, io, 0);
    struct tier_file *f = open_object(owner, "memfile", SIZE), *g = NULL;
    struct feed feed = {.behind.next = feed_next};
    unsigned files;

    (void)state;
    write_range(owner, f, SIZE, 1, 0, 16);
    tier_file_close(f);
    files = count_files();
    assert_false(tier_writable(reader));
    assert_int_equal(tier_owner(reader), getpid());
    assert_int_equal(tier_owner(owner), 0);
    assert_int_equal(try_object(reader, "rootfs", SIZE, &g), -EROFS);
    assert_int_equal(try_object(reader, "memfile", SIZE + 1, &g), -EROFS);
    g = open_object(reader, "memfile", SIZE);
    assert_int_equal(count_good(g, SIZE, 1, 0, 16), 16);
    assert_int_equal(fcntl(g->data, F_GETFL) & (O_ACCMODE | O_NONBLOCK), O_RDONLY);
    assert_int_equal(write_overlay(reader, g, 2, 0, 16), -EROFS);
    tier_forget(g, 3);
    assert_false(tier_has(g, 3));
    tier_set_behind(reader, &feed.behind);
    tier_set_behind(reader, NULL);
    assert_false(feed.given);
    tier_file_close(g);
    tier_destroy(reader);

    assert_int_equal(count_files(), files);
    f = open_object(owner, "memfile", SIZE);
    assert_int_equal(count_good(f, SIZE, 1, 0, 16), 16);
    tier_file_close(f);
    tier_destroy(owner);
}

/* What is idle writes its sums: others see the granules before the file is closed. */
static void sums_are_written_when_nothing_else_is(void **state)
{
    struct tier *owner = open_tier(folder, io, 0), *reader = open_tier(folder, io, 0);
    struct tier_file *f = open_object(owner, "memfile", SIZE), *g;
    uint32_t seen = 0;

    (void)state;
    write_range(owner, f, SIZE, 1, 0, 16);
    while (seen < 16) {
        if (try_object(reader, "memfile", SIZE, &g) < 0)
            continue; /* not even the first page is there */
        seen = count_good(g, SIZE, 1, 0, 16);
        tier_file_close(g);
    }
    while (tier_file_bytes(f) < 16 * GRANULE_BYTES + 2 * PAGE_BYTES) /* they count as well */
        sched_yield();
    tier_file_close(f);
    tier_destroy(reader);
    tier_destroy(owner);
}

static void an_owner_that_has_gone_leaves_no_lock(void **state)
{
    struct tier *first = open_tier(folder, io, 0), *second = open_tier(folder, io, 0);

    (void)state;
    tier_destroy(first);
    assert_false(tier_writable(second)); /* it stays what it was */
    assert_int_equal(tier_owner(second), 0);
    first = open_tier(folder, io, 0);
    assert_true(tier_writable(first));
    tier_destroy(first);
    tier_destroy(second);
}

/* --- overlays --- */

static void granules_of_an_overlay_come_and_go(void **state)
{
    struct tier *owner = open_tier(folder, io, 0), *t = open_tier(folder, io, 0);
    struct tier_file *f;

    (void)state;
    assert_false(tier_writable(t)); /* which an overlay does not need */
    assert_int_equal(tier_file_create(t, 200, &f), 0);
    assert_int_equal(count_files(), 0);
    assert_int_equal(write_overlay(t, f, 1, 60, 16), 0);
    assert_int_equal(write_overlay(t, f, 2, 60, 4), 0); /* over the first ones */
    assert_int_equal(count_good(f, UINT64_MAX, 2, 60, 4), 4);
    assert_int_equal(count_good(f, UINT64_MAX, 1, 64, 12), 12);
    assert_int_equal(tier_file_bytes(f), 16 * GRANULE_BYTES);
    assert_int_equal(tier_counters(t).overlay_bytes, 16 * GRANULE_BYTES);
    assert_int_equal(tier_counters(t).bytes, 0);
    for (uint32_t g = 62; g < 72; g++)
        tier_forget(f, g);
    assert_int_equal(count_present(f, 0, 200), 6);
    assert_int_equal(tier_counters(t).damaged, 0);
    while (tier_file_bytes(f) > 6 * GRANULE_BYTES) /* which the thread does when it gets to it */
        sched_yield();
    assert_int_equal(count_good(f, UINT64_MAX, 2, 60, 2), 2);
    assert_int_equal(count_good(f, UINT64_MAX, 1, 72, 4), 4);
    tier_file_close(f);
    assert_int_equal(tier_counters(t).overlay_bytes, 0);
    tier_destroy(t);
    tier_destroy(owner);
}

/* Writes that wait for the end of the tier, and the thread that they keep from all else. */
struct dropped {
    struct tier_write write;
    struct tier *tier;
    struct tier_file *file;
    struct waited *first_done;
    unsigned *left;
    int result;
};

static bool is_quitting(struct tier *t)
{
    LOCK_SCOPE(&t->mu);

    return t->quitting;
}

static void dropped_done(struct tier_write *w, int result)
{
    struct dropped *d = container_of(w, struct dropped, write);

    d->result = result;
    if (result == 0)
        waited_over(d->first_done, result);
    while (result == 0 && !is_quitting(d->tier))
        sched_yield();
    if (--*d->left == 0)
        tier_file_close(d->file);
}

static void what_is_queued_at_the_end_is_dropped(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    char *buf = buffer(RUN_BYTES);
    struct waited first_done = WAITED_INIT;
    struct dropped d[5] = {0};
    unsigned left = ARRAY_SIZE(d);
    struct tier_file *f;

    (void)state;
    assert_int_equal(tier_file_create(t, 200, &f), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(d); i++) {
        d[i] = (struct dropped){.tier = t, .file = f, .first_done = &first_done, .left = &left};
        fill_write(&d[i].write, f, UINT64_MAX, 1, 16 * i, 16, buf);
        d[i].write.done = dropped_done;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(d); i++)
        tier_write(t, &d[i].write);
    assert_int_equal(waited_for(&first_done), 0);
    tier_destroy(t);
    assert_int_equal(left, 0);
    assert_int_equal(d[0].result, 0);
    for (unsigned i = 1; i < ARRAY_SIZE(d); i++)
        assert_int_equal(d[i].result, -ECANCELED);
    free(buf);
}

/* --- the page cache --- */

static unsigned cached_pages(const char *path)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    unsigned char pages[SIZE / PAGE_BYTES + 2];
    unsigned n = 0;
    struct stat st;
    size_t bytes;
    void *map;

    assert_int_equal(fstat(fd, &st), 0);
    bytes = (size_t)st.st_size;
    map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    assert_true(map != MAP_FAILED);
    assert_int_equal(mincore(map, bytes, pages), 0);
    for (size_t i = 0; i < bytes / PAGE_BYTES; i++)
        n += pages[i] & 1;
    munmap(map, bytes);
    close(fd);
    return n;
}

static void nothing_of_it_is_in_the_page_cache(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f = open_object(t, "memfile", SIZE);
    char *data = path_of(folder, "memfile", ".data"), *sums = path_of(folder, "memfile", ".sums");
    char byte;
    int fd;

    (void)state;
    write_range(t, f, SIZE, 1, 0, GRANULES);
    tier_file_close(f);
    f = open_object(t, "memfile", SIZE);
    assert_int_equal(count_good(f, SIZE, 1, 0, GRANULES), GRANULES);
    tier_file_close(f);
    assert_int_equal(cached_pages(data), 0);
    assert_int_equal(cached_pages(sums), 0);
    /* If it were, it would be seen. */
    fd = open(data, O_RDONLY | O_CLOEXEC);
    assert_int_equal(pread(fd, &byte, 1, 0), 1);
    close(fd);
    assert_true(cached_pages(data) > 0);
    tier_destroy(t);
    free(data);
    free(sums);
}

/* Io_uring may be forbidden here. */
static bool can_be_had(const char *name)
{
    struct io_engine *try;

    if (!name || strcmp(name, "uring") != 0)
        return true;
    if (io_engine_create(IO_KIND_URING, &try, NULL) < 0)
        return false;
    io_engine_destroy(try);
    return true;
}

int main(void)
{
    static const char *const engines[] = {NULL, "uring", "pool"};
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_read),
        TEST(a_run_is_read_into_pieces),
        TEST(a_run_with_a_hole_is_no_data),
        TEST(it_is_there_after_a_close_and_a_restart),
        TEST(it_has_what_a_set_would_have),
        TEST(a_file_with_nothing_in_it_leaves_nothing),
        TEST(what_is_forgotten_stays_forgotten),
        TEST(objects_do_not_mix),
        TEST(what_cannot_be_an_object_is_refused),
        TEST(what_cannot_be_a_folder_is_named),
        TEST(who_has_no_lock_only_reads),
        TEST(sums_are_written_when_nothing_else_is),
        TEST(an_owner_that_has_gone_leaves_no_lock),
        TEST(granules_of_an_overlay_come_and_go),
        TEST(what_is_queued_at_the_end_is_dropped),
        TEST(nothing_of_it_is_in_the_page_cache),
    };
    int failed = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
        engine = engines[i];
        if (!can_be_had(engine))
            continue;
        failed += cmocka_run_group_tests(tests, NULL, NULL);
    }
    return failed;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The disk tier's bounds: what makes room and what does not, and whom the thread leaves alone. */
#include "tier_fixture.h"

#include <dirent.h>
#include <sched.h>
#include <stdatomic.h>

#include "cache/tier_internal.h"
#include "kernel/io_internal.h"

#define REGION      (TIER_REGION_GRANULES * GRANULE_BYTES)
#define SMALL       REGION /* an object of one region */
#define SMALL_COUNT ((uint32_t)TIER_REGION_GRANULES)

static char *folder;
static struct io_engine *io;

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    return io_engine_create(IO_KIND_AUTO, &io, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

/* --- objects, and whether they are still there --- */

static void make_object(struct tier *t, const char *name)
{
    struct tier_file *f = open_object(t, name, SMALL);

    write_range(t, f, SMALL, 1, 0, SMALL_COUNT);
    tier_file_close(f);
}

/* As if it had been opened last in that second of long ago. */
static void set_used(const char *name, time_t when)
{
    struct timespec times[2] = {{.tv_sec = when}, {.tv_sec = when}};
    char *path = path_of(folder, name, ".data");

    assert_int_equal(utimensat(AT_FDCWD, path, times, 0), 0);
    free(path);
}

static time_t used_at(const char *name)
{
    char *path = path_of(folder, name, ".data");
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    free(path);
    return st.st_mtime;
}

static bool exists(const char *name)
{
    char *data = path_of(folder, name, ".data"), *sums = path_of(folder, name, ".sums");
    bool both = access(data, F_OK) == 0 && access(sums, F_OK) == 0;

    assert_true(both || (access(data, F_OK) < 0 && access(sums, F_OK) < 0));
    free(data);
    free(sums);
    return both;
}

/* What all files in the folder take on the disk. */
static uint64_t disk_bytes(void)
{
    char *path = scratch_path(folder, "tier");
    DIR *dir = opendir(path);
    const struct dirent *entry;
    uint64_t bytes = 0;
    struct stat st;

    while ((entry = readdir(dir)) != NULL) {
        if (fstatat(dirfd(dir), entry->d_name, &st, 0) == 0 && S_ISREG(st.st_mode))
            bytes += (uint64_t)st.st_blocks * 512;
    }
    closedir(dir);
    free(path);
    return bytes;
}

/* --- files that nobody has open --- */

static void what_is_not_open_goes_first_and_the_oldest_of_it(void **state)
{
    struct tier *t = open_tier(folder, io, 5 * REGION);
    struct tier_file *open, *new;

    (void)state;
    open = open_object(t, "open", SMALL);
    write_range(t, open, SMALL, 1, 0, SMALL_COUNT);
    make_object(t, "first");
    make_object(t, "second");
    make_object(t, "third");
    set_used("open", 1);
    set_used("first", 30);
    set_used("second", 10);
    set_used("third", 20);
    new = open_object(t, "new", 8 * REGION);
    write_range(t, new, 8 * REGION, 1, 0, SMALL_COUNT);
    assert_true(exists("first") && !exists("second") && exists("third"));
    write_range(t, new, 8 * REGION, 1, SMALL_COUNT, SMALL_COUNT);
    assert_true(exists("first") && !exists("third"));
    assert_int_equal(count_good(open, SMALL, 1, 0, SMALL_COUNT), SMALL_COUNT);
    write_range(t, new, 8 * REGION, 1, 2 * SMALL_COUNT, SMALL_COUNT);
    assert_false(exists("first"));
    assert_int_equal(count_good(open, SMALL, 1, 0, SMALL_COUNT), SMALL_COUNT);
    assert_int_equal(count_good(new, 8 * REGION, 1, 0, 3 * SMALL_COUNT), 3 * SMALL_COUNT);
    assert_true(tier_counters(t).evicted_bytes >= 3 * REGION);
    tier_file_close(open);
    tier_file_close(new);
    tier_destroy(t);
}

/* To open it is to use it until it is closed. */
static void what_was_opened_lately_stays(void **state)
{
    struct tier *t = open_tier(folder, io, 3 * REGION);
    struct tier_file *f;

    (void)state;
    make_object(t, "first");
    make_object(t, "second");
    set_used("first", 10);
    set_used("second", 20);
    f = open_object(t, "first", SMALL);
    assert_true(used_at("first") > 20);
    set_used("first", 10);
    tier_file_close(f);
    assert_true(used_at("first") > 20);
    f = open_object(t, "new", SMALL);
    write_range(t, f, SMALL, 1, 0, SMALL_COUNT);
    assert_true(exists("first") && !exists("second"));
    tier_file_close(f);
    tier_destroy(t);
}

static void what_was_there_before_counts(void **state)
{
    struct tier *t = open_tier(folder, io, 0);
    struct tier_file *f;

    (void)state;
    make_object(t, "first");
    make_object(t, "second");
    tier_destroy(t);
    t = open_tier(folder, io, 2 * REGION + REGION / 2);
    assert_int_equal(tier_counters(t).bytes, disk_bytes());
    f = open_object(t, "new", SMALL);
    write_range(t, f, SMALL, 1, 0, SMALL_COUNT);
    assert_true(exists("first") != exists("second"));
    tier_file_close(f);
    assert_int_equal(tier_counters(t).bytes, disk_bytes());
    tier_destroy(t);
}

static void what_is_not_ours_is_left_alone(void **state)
{
    static const char *const names[] = {
        "tier/README",
        "tier/memfile.data",
        "tier/deadbeef-0500-0000-0000-000000000000.data",
        "tier/deadbeef-0500-0000-0000-000000000000.memfile.0123456789abcdeg.data",
        "tier/deadbeef-0500-0000-0000-000000000000.memfile.0123456789abcdef.copy",
        "other",
    };
    struct tier *t = open_tier(folder, io, 2 * REGION);
    struct tier_file *f;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        char *path = scratch_path(folder, names[i]);

        close(open(path, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC, 0600));
        free(path);
    }
    make_object(t, "first");
    f = open_object(t, "new", 8 * REGION);
    write_range(t, f, 8 * REGION, 1, 0, 8 * SMALL_COUNT);
    assert_false(exists("first"));
    tier_file_close(f);
    tier_destroy(t);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++) {
        char *path = scratch_path(folder, names[i]);

        assert_int_equal(access(path, F_OK), 0);
        free(path);
    }
}

/* --- regions of open files --- */

static uint32_t present_in(const struct tier_file *f, uint32_t region)
{
    return count_present(f, region * SMALL_COUNT, SMALL_COUNT);
}

static void regions_that_are_read_stay(void **state)
{
    struct tier *t = open_tier(folder, io, 4 * REGION + REGION / 2);
    struct tier_file *f = open_object(t, "memfile", 4 * REGION);
    struct tier_file *new = open_object(t, "new", 8 * REGION);

    (void)state;
    write_range(t, f, 4 * REGION, 1, 0, 4 * SMALL_COUNT);
    for (uint32_t region = 0; region < 4; region++) {
        if (region != 2)
            assert_int_equal(read_one(f, 4 * REGION, 1, region * SMALL_COUNT + 7), 1);
    }
    write_range(t, new, 8 * REGION, 1, 0, SMALL_COUNT);
    assert_int_equal(present_in(f, 2), 0);
    assert_int_equal(count_good(f, 4 * REGION, 1, 0, 4 * SMALL_COUNT), 3 * SMALL_COUNT);
    assert_int_equal(count_good(new, 8 * REGION, 1, 0, SMALL_COUNT), SMALL_COUNT);
    tier_file_close(f);
    /* It is gone for good, and the rest is not. */
    f = open_object(t, "memfile", 4 * REGION);
    assert_int_equal(present_in(f, 2), 0);
    assert_int_equal(count_good(f, 4 * REGION, 1, 0, 4 * SMALL_COUNT), 3 * SMALL_COUNT);
    tier_file_close(f);
    tier_file_close(new);
    tier_destroy(t);
}

/* Used or not, it never ends with nothing. Only what is being written to stays for certain. */
static void the_bound_holds(void **state)
{
    const uint64_t max = 3 * REGION, size = 16 * REGION;
    struct tier *t = open_tier(folder, io, max);
    struct tier_file *f = open_object(t, "memfile", size), *g = open_object(t, "rootfs", size);

    (void)state;
    for (uint32_t first = 0; first < 16 * SMALL_COUNT; first += TIER_WRITE_GRANULES) {
        struct tier_file *to = first % 32 ? f : g;

        write_range(t, to, size, 1, first, TIER_WRITE_GRANULES);
        assert_int_equal(count_good(to, size, 1, first, TIER_WRITE_GRANULES), TIER_WRITE_GRANULES);
        assert_true(tier_counters(t).bytes <= max);
        assert_true(disk_bytes() <= max);
    }
    assert_int_equal(tier_counters(t).no_room, 0);
    tier_file_close(f);
    tier_file_close(g);
    assert_true(tier_counters(t).bytes > max / 2);
    assert_int_equal(tier_counters(t).bytes, disk_bytes());
    tier_destroy(t);
}

/* --- overlays --- */

static void overlays_stay_and_count(void **state)
{
    const uint64_t max = 4 * REGION;
    struct tier *t = open_tier(folder, io, max);
    struct tier_file *f = open_object(t, "memfile", 8 * REGION), *overlay;

    (void)state;
    write_range(t, f, 8 * REGION, 1, 0, 3 * SMALL_COUNT);
    assert_int_equal(tier_file_create(t, 8 * SMALL_COUNT, &overlay), 0);
    for (uint32_t g = 0; g < 2 * SMALL_COUNT; g += TIER_WRITE_GRANULES)
        assert_int_equal(write_overlay(t, overlay, 2, g, TIER_WRITE_GRANULES), 0);
    assert_true(count_present(f, 0, 3 * SMALL_COUNT) <= 2 * SMALL_COUNT);
    assert_true(tier_counters(t).bytes + tier_counters(t).overlay_bytes <= max);
    /* The object takes no more than what is left, and the overlay all of it. */
    write_range(t, f, 8 * REGION, 1, 0, 4 * SMALL_COUNT);
    assert_int_equal(count_good(overlay, UINT64_MAX, 2, 0, 2 * SMALL_COUNT), 2 * SMALL_COUNT);
    for (uint32_t g = 2 * SMALL_COUNT; g < 3 * SMALL_COUNT + 32; g += TIER_WRITE_GRANULES)
        assert_int_equal(write_overlay(t, overlay, 2, g, TIER_WRITE_GRANULES), 0);
    assert_int_equal(count_present(f, 0, 8 * SMALL_COUNT), 0);
    for (uint32_t g = 3 * SMALL_COUNT + 32; g < 4 * SMALL_COUNT; g += TIER_WRITE_GRANULES)
        (void)write_overlay(t, overlay, 2, g, TIER_WRITE_GRANULES);
    assert_int_equal(write_overlay(t, overlay, 2, 5 * SMALL_COUNT, TIER_WRITE_GRANULES), -ENOSPC);
    assert_false(tier_has(overlay, 5 * SMALL_COUNT));
    assert_true(tier_counters(t).no_room > 0);
    assert_true(tier_counters(t).overlay_bytes <= max);
    /* What is written over takes nothing. */
    assert_int_equal(write_overlay(t, overlay, 3, 5, TIER_WRITE_GRANULES), 0);
    assert_int_equal(count_good(overlay, UINT64_MAX, 3, 5, 16), 16);
    tier_file_close(overlay);
    tier_file_close(f);
    tier_destroy(t);
}

/* A write that forgets granules when it is over, and queues another one. */
struct forgetting {
    struct tier *tier;
    struct tier_write write;
    struct sync_write next;
};

static void forgetting_done(struct tier_write *w, int result)
{
    struct forgetting *f = container_of(w, struct forgetting, write);

    assert_int_equal(result, 0);
    for (uint32_t g = 0; g < TIER_WRITE_GRANULES; g++)
        tier_forget(w->file, g);
    tier_write(f->tier, &f->next.write);
}

/* Who is next in the queue has it, before the thread comes to give it back by itself. */
static void what_overlays_forget_is_room_at_once(void **state)
{
    struct tier *t = open_tier(folder, io, REGION + TIER_SUMS_MARGIN);
    struct forgetting f = {.tier = t, .next.waited = WAITED_INIT};
    char *buf = buffer(RUN_BYTES);
    struct tier_file *overlay;

    (void)state;
    assert_int_equal(tier_file_create(t, 4 * SMALL_COUNT, &overlay), 0);
    for (uint32_t g = 0; g < SMALL_COUNT; g += TIER_WRITE_GRANULES)
        assert_int_equal(write_overlay(t, overlay, 2, g, TIER_WRITE_GRANULES), 0);
    assert_int_equal(write_overlay(t, overlay, 2, SMALL_COUNT, 1), -ENOSPC);
    fill_write(&f.write, overlay, UINT64_MAX, 2, 2 * TIER_WRITE_GRANULES, 1, buf);
    f.write.done = forgetting_done;
    fill_write(&f.next.write, overlay, UINT64_MAX, 2, 2 * TIER_WRITE_GRANULES, TIER_WRITE_GRANULES,
               buf);
    f.next.write.first = SMALL_COUNT;
    f.next.write.done = sync_write_done;
    tier_write(t, &f.write);
    assert_int_equal(waited_for(&f.next.waited), 0);
    assert_true(tier_counters(t).overlay_bytes <= REGION);
    tier_file_close(overlay);
    tier_destroy(t);
    free(buf);
}

/* --- what is behind --- */

struct counting {
    struct tier_behind behind;
    struct tier_write write;
    _Atomic(unsigned) asked;
    struct waited waited; /* for a write that succeeds */
};

static void counting_done(struct tier_write *w, int result)
{
    struct counting *c = w->context;

    if (result == 0)
        waited_over(&c->waited, result);
}

/* Gives the same run whenever it is asked, until that has been written. */
static bool counting_next(struct tier_behind *b, struct tier_write *w)
{
    struct counting *c = container_of(b, struct counting, behind);

    c->asked++;
    *w = c->write;
    LOCK_SCOPE(&c->waited.mu);
    return !c->waited.over;
}

static void counting_init(struct counting *c, struct tier_file *f, uint64_t size, char *buf)
{
    *c = (struct counting){.behind.next = counting_next, .waited = WAITED_INIT};
    fill_write(&c->write, f, size, 1, 0, TIER_WRITE_GRANULES, buf);
    c->write.done = counting_done;
    c->write.context = c;
}

/* Written over and over: each time the thread has come round once more. */
static void go_round(struct tier *t, struct tier_file *overlay)
{
    for (unsigned i = 0; i < 20; i++)
        assert_int_equal(write_overlay(t, overlay, 9, 0, 1), 0);
}

static void nothing_is_asked_for_while_there_is_no_room(void **state)
{
    struct tier *t = open_tier(folder, io, REGION + TIER_SUMS_MARGIN);
    struct tier_file *f = open_object(t, "memfile", SMALL), *overlay;
    char *buf = buffer(RUN_BYTES);
    struct counting c;
    unsigned asked;

    (void)state;
    assert_int_equal(tier_file_create(t, SMALL_COUNT, &overlay), 0);
    for (uint32_t g = 0; g < SMALL_COUNT; g += TIER_WRITE_GRANULES)
        assert_int_equal(write_overlay(t, overlay, 2, g, TIER_WRITE_GRANULES), 0);
    counting_init(&c, f, SMALL, buf);
    tier_set_behind(t, &c.behind);
    while (c.asked == 0 || tier_counters(t).no_room == 0)
        sched_yield();
    go_round(t, overlay);
    asked = c.asked;
    for (unsigned i = 0; i < 20; i++) {
        tier_wake(t);
        go_round(t, overlay);
    }
    assert_int_equal(c.asked, asked);
    /* Room is what makes it ask again, by itself. */
    for (uint32_t g = 1; g < SMALL_COUNT; g++)
        tier_forget(overlay, g);
    assert_int_equal(waited_for(&c.waited), 0);
    tier_set_behind(t, NULL);
    assert_int_equal(count_good(f, SMALL, 1, 0, 16), 16);
    tier_file_close(overlay);
    tier_file_close(f);
    tier_destroy(t);
    free(buf);
}

/* An engine whose reads begin when they are let go. */
struct holding {
    struct io_engine engine;
    struct io_request *held;
};

static void holding_submit(struct io_engine *self, struct io_request *r)
{
    container_of(self, struct holding, engine)->held = r;
}

static void what_is_behind_waits_for_demand_reads(void **state)
{
    struct holding holding = {.engine = {.submit = holding_submit}};
    char *buf = buffer(RUN_BYTES), *to = buffer(GRANULE_BYTES);
    struct iovec iov = {to, GRANULE_BYTES};
    struct sync_read s = {.waited = WAITED_INIT};
    struct tier_file *f, *overlay;
    struct counting c;
    struct tier *t;

    (void)state;
    setenv("THAW_IO", "uring", 1); /* so that no read goes past the engine given */
    t = open_tier(folder, &holding.engine, 0);
    unsetenv("THAW_IO");
    f = open_object(t, "memfile", SMALL);
    s.read = (struct tier_read){.file = f, .first = 20, .count = 1, .iov = &iov, .iov_count = 1};
    s.read.done = sync_read_done;
    s.read.priority = IO_DEMAND;
    assert_int_equal(tier_file_create(t, SMALL_COUNT, &overlay), 0);
    write_range(t, f, SMALL, 1, 20, 1);
    tier_read(&s.read);
    counting_init(&c, f, SMALL, buf);
    tier_set_behind(t, &c.behind);
    go_round(t, overlay); /* which goes on */
    assert_int_equal(c.asked, 0);
    io_submit(io, holding.held);
    assert_int_equal(waited_for(&s.waited), 0);
    assert_int_equal(waited_for(&c.waited), 0);

    /* Not for others. */
    s.read.priority = IO_BACKGROUND;
    s.waited.over = false;
    iov = (struct iovec){to, GRANULE_BYTES};
    s.read.iov = &iov;
    s.read.iov_count = 1;
    tier_read(&s.read);
    tier_set_behind(t, NULL);
    assert_int_equal(write_behind(t, f, SMALL, 1, 30, 4), 0);
    io_submit(io, holding.held);
    assert_int_equal(waited_for(&s.waited), 0);
    tier_file_close(overlay);
    tier_file_close(f);
    tier_destroy(t);
    free(buf);
    free(to);
}

/* Without the lock nothing of objects can be evicted, and nothing of them is ours. */
static void a_full_folder_has_room_for_others_overlays(void **state)
{
    struct tier *owner = open_tier(folder, io, 0), *other;
    struct tier_file *overlay;

    (void)state;
    make_object(owner, "one");
    make_object(owner, "two");
    other = open_tier(folder, io, 2 * REGION);
    assert_false(tier_writable(other));
    assert_int_equal(tier_file_create(other, SMALL_COUNT, &overlay), 0);
    assert_int_equal(write_overlay(other, overlay, 1, 0, 16), 0);
    assert_int_equal(tier_counters(other).overlay_bytes, 16 * GRANULE_BYTES);
    tier_file_close(overlay);
    tier_destroy(other);
    tier_destroy(owner);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_not_open_goes_first_and_the_oldest_of_it),
        TEST(what_was_opened_lately_stays),
        TEST(what_was_there_before_counts),
        TEST(what_is_not_ours_is_left_alone),
        TEST(regions_that_are_read_stay),
        TEST(the_bound_holds),
        TEST(overlays_stay_and_count),
        TEST(a_full_folder_has_room_for_others_overlays),
        TEST(what_overlays_forget_is_room_at_once),
        TEST(nothing_is_asked_for_while_there_is_no_room),
        TEST(what_is_behind_waits_for_demand_reads),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

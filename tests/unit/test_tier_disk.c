/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The disk tier on disks that are full or broken, or that it cannot use: small file systems on loop
 * devices, mounted where only this process sees them. Needs root.
 */
#include "tier_fixture.h"

#include <sched.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/statvfs.h>
#include <sys/sysmacros.h>

#include "cache/tier_internal.h"

#define DISK_BYTES (64 * MIB)
#define SIZE       (256 * MIB) /* of an object: more than the disk has */
#define GRANULES   ((uint32_t)(SIZE / GRANULE_BYTES))
#define MANY       (2 * (uint32_t)(DISK_BYTES / GRANULE_BYTES))

static char *scratch;
static char *disk, *image; /* where it is mounted, and what it is made of */
static struct io_engine *io;

/* --- disks --- */

/* Runs a program; false if it cannot or does not succeed. What it has to say is not for us. */
static bool run(const char *const *argv)
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0) {
        int null = open("/dev/null", O_RDWR | O_CLOEXEC);

        dup2(null, 1);
        dup2(null, 2);
        setenv("PATH", "/usr/sbin:/usr/bin:/sbin:/bin", 1);
        execvp(argv[0], (char *const *)(uintptr_t)argv);
        _exit(127);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status == 0;
}

static bool mount_image(uint64_t bytes, const char *const *mkfs)
{
    int fd = open(image, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    bool made = fd >= 0 && ftruncate(fd, (off_t)bytes) == 0;

    close_fd(&fd);
    return made && run(mkfs) && run((const char *[]){"mount", "-o", "loop", image, disk, NULL});
}

static bool mount_disk(void)
{
    return mount_image(DISK_BYTES, (const char *[]){"mkfs.ext4", "-q", "-F", "-m", "0", "-O",
                                                    "^has_journal", image, NULL});
}

static int set_up(void **state)
{
    (void)state;
    assert_true(mount_disk());
    return io_engine_create(IO_KIND_AUTO, &io, NULL);
}

static int tear_down(void **state)
{
    (void)state;
    io_engine_destroy(io);
    umount2(disk, MNT_DETACH);
    return unlink(image);
}

/* --- the log --- */

struct captured {
    int stderr_fd, pipe_fd;
};

static struct captured capture(void)
{
    struct captured c = {.stderr_fd = fcntl(2, F_DUPFD_CLOEXEC, 3)};
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC | O_NONBLOCK), 0);
    assert_true(dup2(fds[1], 2) >= 0);
    close(fds[1]);
    c.pipe_fd = fds[0];
    return c;
}

/* What has been logged since then. */
static void captured_end(struct captured *c, char *text, size_t len)
{
    ssize_t n = read(c->pipe_fd, text, len - 1);

    text[MAX(n, 0)] = '\0';
    dup2(c->stderr_fd, 2);
    close(c->stderr_fd);
    close(c->pipe_fd);
}

static unsigned count_lines(const char *text)
{
    unsigned n = 0;

    for (; *text; text++)
        n += *text == '\n';
    return n;
}

/* --- full --- */

static struct tier *open_keeping(unsigned percent)
{
    struct tier_options options = {
        .folder = disk, .io = io, .max_bytes = UINT64_MAX, .keep_free_percent = percent};
    struct tier *t;

    assert_int_equal(tier_create(&options, &t, NULL), 0);
    return t;
}

static void so_much_of_the_disk_stays_free(void **state)
{
    struct tier *t = open_keeping(50);
    struct tier_file *f = open_object(t, "memfile", SIZE), *overlay;
    uint32_t written = 0;
    struct statvfs v;

    (void)state;
    write_range(t, f, SIZE, 1, 0, MANY); /* making room as it goes */
    assert_true(count_good(f, SIZE, 1, 0, MANY) > MANY / 8);
    assert_int_equal(statvfs(disk, &v), 0);
    assert_true(v.f_bavail + TIER_SUMS_MARGIN / v.f_frsize >= v.f_blocks / 2);
    assert_int_equal(tier_file_create(t, GRANULES, &overlay), 0);
    while (write_overlay(t, overlay, 2, written, 16) == 0)
        written += 16;
    assert_int_equal(statvfs(disk, &v), 0);
    assert_true(v.f_bavail + TIER_SUMS_MARGIN / v.f_frsize >= v.f_blocks / 2);
    assert_int_equal(count_present(f, 0, MANY), 0);
    assert_int_equal(count_good(overlay, UINT64_MAX, 2, 0, written), written);
    assert_true(tier_writable(t) && tier_counters(t).write_errors == 0);
    tier_file_close(overlay);
    tier_file_close(f);
    tier_destroy(t);
}

/* A file that takes all that is left. */
static int fill_disk(void)
{
    char *path = scratch_path(disk, "ballast");
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    off_t end = 0;

    assert_true(fd >= 0);
    for (off_t step = (off_t)DISK_BYTES; step >= (off_t)PAGE_BYTES; step /= 2) {
        while (fallocate(fd, 0, end, step) == 0)
            end += step;
        assert_int_equal(errno, ENOSPC);
    }
    free(path);
    return fd;
}

/* Somebody else takes all that there is between two looks. */
static void a_disk_that_is_full_is_made_room_on(void **state)
{
    struct tier *t = open_keeping(1);
    struct tier_file *f = open_object(t, "memfile", SIZE);
    int fd;

    (void)state;
    write_range(t, f, SIZE, 1, 0, 128); /* less than it writes before it looks again */
    fd = fill_disk();
    assert_int_equal(write_behind(t, f, SIZE, 1, 512, 16), 0);
    assert_int_equal(count_good(f, SIZE, 1, 512, 16), 16);
    assert_true(count_present(f, 0, 128) < 128);
    assert_int_equal(tier_counters(t).write_errors, 0);
    tier_file_close(f);
    tier_destroy(t);
    close(fd);
}

/* XFS, which gives back what was unlinked a little later. It makes no smaller ones. */
static bool mount_lazy_disk(void)
{
    umount2(disk, MNT_DETACH);
    unlink(image);
    return mount_image(320 * MIB, (const char *[]){"mkfs.xfs", "-q", image, NULL});
}

static unsigned free_percent(void)
{
    struct statvfs v;

    assert_int_equal(statvfs(disk, &v), 0);
    return (unsigned)(v.f_bavail * 100 / v.f_blocks);
}

static void no_more_is_evicted_than_is_needed(void **state)
{
    const uint64_t size = 8 * MIB, count = size / GRANULE_BYTES;
    struct tier_file *f;
    struct tier *t;
    char name[16];

    (void)state;
    if (!mount_lazy_disk())
        skip();
    t = open_keeping(1);
    for (unsigned i = 0; i < 16; i++) {
        snprintf(name, sizeof(name), "memfile%u", i);
        f = open_object(t, name, size);
        write_range(t, f, size, 1, 0, (uint32_t)count);
        tier_file_close(f);
    }
    tier_destroy(t);
    /* Up to 1% of the disk is missing, and what is written now. */
    t = open_keeping(free_percent() + 1);
    f = open_object(t, "new", size);
    write_range(t, f, size, 1, 0, (uint32_t)count / 2);
    assert_in_range(tier_counters(t).evicted_bytes, 1, 5 * size / 2);
    tier_file_close(f);
    tier_destroy(t);
}

static void a_disk_that_is_full_of_other_things_is_no_room(void **state)
{
    struct tier *t = open_keeping(1);
    struct tier_file *f = open_object(t, "memfile", SIZE), *overlay;
    int fd;

    (void)state;
    assert_int_equal(tier_file_create(t, 16, &overlay), 0);
    assert_int_equal(write_overlay(t, overlay, 2, 0, 4), 0); /* it has looked */
    fd = fill_disk();
    assert_int_equal(write_behind(t, f, SIZE, 1, 0, 16), -ENOSPC);
    for (unsigned i = 0; i < 2 * TIER_FAILURES; i++) /* these are tried, whatever was said before */
        assert_int_equal(write_overlay(t, overlay, 2, 4, 12), -ENOSPC);
    assert_int_equal(count_present(f, 0, 16), 0);
    assert_int_equal(count_good(overlay, UINT64_MAX, 2, 0, 16), 4);
    assert_int_equal(tier_counters(t).write_errors, 0);
    assert_int_equal(tier_counters(t).no_room, 2 * TIER_FAILURES + 1);
    assert_true(tier_writable(t)); /* full is not broken */
    assert_int_equal(ftruncate(fd, 0), 0);
    assert_int_equal(write_behind(t, f, SIZE, 1, 0, 16), 0);
    assert_int_equal(count_good(f, SIZE, 1, 0, 16), 16);
    tier_file_close(overlay);
    tier_file_close(f);
    tier_destroy(t);
    close(fd);
}

/* --- broken --- */

static void a_disk_that_cannot_be_read_is_given_up(void **state)
{
    struct tier *t = open_keeping(1);
    struct tier_file *f = open_object(t, "memfile", SIZE), *overlay, *other = NULL;
    struct captured log;
    char text[4096];

    (void)state;
    assert_int_equal(tier_file_create(t, 16, &overlay), 0);
    assert_int_equal(write_overlay(t, overlay, 2, 0, 16), 0);
    write_range(t, f, SIZE, 1, 0, 64);
    assert_int_equal(read_one(f, SIZE, 1, 0), 1);
    log = capture();
    assert_int_equal(truncate(image, 0), 0); /* and away with the disk */
    for (uint32_t g = 0; g < TIER_FAILURES; g++) {
        assert_true(tier_has(f, 32));
        assert_int_equal(read_one(f, SIZE, 1, g), -EIO);
        assert_false(tier_has(f, g));
    }
    assert_int_equal(count_present(f, 0, 64), 0);
    assert_true(tier_has(overlay, 3)); /* there is nowhere else to get it */
    assert_int_equal(read_one(overlay, UINT64_MAX, 2, 3), -EIO);
    assert_false(tier_writable(t));
    assert_int_equal(write_overlay(t, overlay, 2, 0, 1), -EIO);
    assert_int_equal(try_object(t, "rootfs", SIZE, &other), -EROFS);
    tier_file_close(overlay);
    tier_file_close(f);
    captured_end(&log, text, sizeof(text));
    assert_int_equal(tier_counters(t).read_errors, TIER_FAILURES + 1);
    assert_int_equal(count_lines(text), 1);
    assert_non_null(strstr(text, disk));
    assert_non_null(strstr(text, strerror(EIO)));
    assert_non_null(strstr(text, "going on without it"));
    tier_destroy(t);
}

/* One that works in between is a disk that works. */
static void some_bad_reads_are_not_the_end(void **state)
{
    struct tier *t = open_keeping(1);
    struct tier_file *f = open_object(t, "memfile", SIZE);

    (void)state;
    for (unsigned i = 0; i < 2 * TIER_FAILURES; i++) {
        tier_failure(t, TIER_READS, -EIO);
        write_range(t, f, SIZE, 1, i, 1);
        assert_int_equal(read_one(f, SIZE, 1, i), 1);
    }
    assert_true(tier_writable(t));
    tier_file_close(f);
    tier_destroy(t);
}

/* Whatever the reason: here it is a limit of the process. */
static void a_disk_that_cannot_be_written_is_given_up(void **state)
{
    struct rlimit limit, none;
    struct tier *t = open_keeping(1);
    struct tier_file *f = open_object(t, "memfile", SIZE), *overlay, *other = NULL;
    struct captured log;
    char text[4096];

    (void)state;
    assert_int_equal(tier_file_create(t, 16, &overlay), 0);
    write_range(t, f, SIZE, 1, 0, 16);
    log = capture();
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    none = (struct rlimit){.rlim_cur = GRANULE_BYTES, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    for (unsigned i = 0; i < TIER_FAILURES; i++) {
        assert_true(tier_writable(t));
        assert_int_equal(write_behind(t, f, SIZE, 1, 32, 16), -EFBIG);
        assert_int_equal(count_present(f, 32, 16), 0);
    }
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_false(tier_writable(t));
    assert_int_equal(write_overlay(t, overlay, 2, 0, 16), -EFBIG);
    assert_int_equal(count_good(f, SIZE, 1, 0, 16), 16); /* what is there is read */
    assert_int_equal(tier_file_bytes(f) / GRANULE_BYTES, 16);
    assert_int_equal(try_object(t, "rootfs", SIZE, &other), -EROFS);
    tier_file_close(overlay);
    tier_file_close(f);
    captured_end(&log, text, sizeof(text));
    assert_int_equal(tier_counters(t).write_errors, TIER_FAILURES);
    assert_int_equal(count_lines(text), 1);
    assert_non_null(strstr(text, disk));
    assert_non_null(strstr(text, strerror(EFBIG)));
    tier_destroy(t);
}

/* --- slow --- */

#define SLOW_GROUP                                                                                 \
    "/sys/fs/cgroup/blkio/thaw-test-tier-disk" /* of version 1: where there is one                 \
                                                */

static bool write_text(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    bool done = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

    close_fd(&fd);
    return done;
}

/* From here on this process writes 256 KiB/s to the disk, and reads as before. */
static bool make_slow(void)
{
    char rule[64];
    struct stat st;

    assert_int_equal(stat(disk, &st), 0);
    snprintf(rule, sizeof(rule), "%u:%u 262144", major(st.st_dev), minor(st.st_dev));
    return write_text(SLOW_GROUP "/blkio.throttle.write_bps_device", rule) &&
           write_text(SLOW_GROUP "/cgroup.procs", "0");
}

/* A write of a megabyte takes four seconds. Those who read what is there do not. */
static int read_while_it_is_written(void)
{
    struct feed feed = {.behind.next = feed_next, .waited = WAITED_INIT};
    char *buf = buffer(RUN_BYTES);
    struct tier_file *f;
    uint64_t before;
    struct tier *t;
    bool slow, good = true;

    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    t = open_keeping(1);
    f = open_object(t, "memfile", SIZE);
    write_range(t, f, SIZE, 1, 0, 32);
    before = tier_counters(t).bytes;
    slow = make_slow();
    fill_write(&feed.write, f, SIZE, 1, 32, TIER_WRITE_GRANULES, buf);
    feed.write.done = feed_done;
    feed.write.context = &feed;
    tier_set_behind(t, &feed.behind);
    while (tier_counters(t).bytes == before)
        sched_yield(); /* it has not begun */
    for (uint32_t g = 0; slow && g < 32; g++) {
        good = good && read_one(f, SIZE, 1, g) == 1;
        LOCK_SCOPE(&feed.waited.mu);
        good = good && !feed.waited.over;
    }
    good = waited_for(&feed.waited) == 0 && good;
    tier_set_behind(t, NULL);
    tier_file_close(f);
    tier_destroy(t);
    io_engine_destroy(io);
    free(buf);
    return !slow ? 77 : good ? 0 : 1;
}

static void reads_of_a_file_do_not_wait_for_writes_to_it(void **state)
{
    int status;

    (void)state;
    io_engine_destroy(io); /* its thread would not be in the child */
    io = NULL;
    (void)!mkdir(SLOW_GROUP, 0700);
    status = in_child(read_while_it_is_written);
    (void)!rmdir(SLOW_GROUP);
    assert_true(status == 0 || status == 77);
    if (status == 77)
        skip();
}

/* --- of no use --- */

static void a_file_system_without_o_direct_is_named(void **state)
{
    char *path = scratch_path(scratch, "ramfs");
    struct tier_options options = {.folder = path, .io = io};
    struct thaw_error e = THAW_ERROR_INIT;
    struct tier *t = NULL;

    (void)state;
    assert_int_equal(mkdir(path, 0700), 0);
    assert_int_equal(mount("ramfs", path, "ramfs", 0, NULL), 0);
    assert_int_equal(tier_create(&options, &t, &e), -EINVAL);
    assert_non_null(strstr(e.text, "O_DIRECT"));
    assert_non_null(strstr(e.text, path));
    umount2(path, MNT_DETACH);
    free(path);
}

static bool can_mount(void)
{
    bool can;

    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0 || mkdir(disk, 0700) < 0)
        return false;
    can = mount_disk();
    umount2(disk, MNT_DETACH);
    return can;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(so_much_of_the_disk_stays_free),
        TEST(a_disk_that_is_full_is_made_room_on),
        TEST(no_more_is_evicted_than_is_needed),
        TEST(a_disk_that_is_full_of_other_things_is_no_room),
        TEST(a_disk_that_cannot_be_read_is_given_up),
        TEST(some_bad_reads_are_not_the_end),
        TEST(a_disk_that_cannot_be_written_is_given_up),
        TEST(reads_of_a_file_do_not_wait_for_writes_to_it),
        TEST(a_file_system_without_o_direct_is_named),
    };
    int failed = 77;

    scratch = scratch_make();
    disk = scratch_path(scratch, "disk");
    image = scratch_path(scratch, "image");
    if (can_mount())
        failed = cmocka_run_group_tests(tests, NULL, NULL);
    else
        printf("skipped: no file systems on loop devices can be mounted here\n");
    scratch_remove(scratch);
    free(disk);
    free(image);
    return failed;
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Disks that are full, broken, or can share blocks: small file systems on loop devices, mounted
 * where only this process sees them. Needs root.
 */
#include "test_cache.h"

#include <fcntl.h>
#include <linux/fiemap.h>
#include <linux/fs.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "base/file.h"
#include "build_fixture.h"
#include "cache/bus.h"
#include "cache/internal.h"
#include "format/page_set.h"

static char *scratch;
static char *small, *other, *xfs, *tmpfs; /* mount points, from malloc; xfs may be NULL */

#define SMALL_BYTES (16 * MIB) /* of file systems that get full */

/* --- file systems --- */

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

/* A file system of @bytes on a loop device, which goes with the last mount; NULL if it cannot be.
 */
static char *make_disk(const char *name, uint64_t bytes, const char *const *mkfs)
{
    char *folder = scratch_path(scratch, name), *image;
    const char *argv[8];
    unsigned n = 0;
    int fd;

    assert_true(asprintf(&image, "%s.image", folder) > 0);
    fd = open(image, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
    assert_int_equal(mkdir(folder, 0700), 0);
    while (mkfs[n]) {
        argv[n] = mkfs[n];
        n++;
    }
    argv[n] = image;
    argv[n + 1] = NULL;
    if (!run(argv) || !run((const char *[]){"mount", "-o", "loop", image, folder, NULL})) {
        free(folder);
        folder = NULL;
    }
    free(image);
    return folder;
}

static const char *const mkfs_ext4[] = {"mkfs.ext4", "-q", "-F", NULL};
static const char *const mkfs_xfs[] = {"mkfs.xfs", "-q", "-m", "reflink=1", NULL};

static void unmount(char *folder)
{
    if (folder)
        assert_int_equal(umount2(folder, MNT_DETACH), 0);
    free(folder);
}

/* --- a group of tests: the cache folder is where each wants it --- */

static int group_set_up(void **state)
{
    (void)state;
    tmpfs = scratch_path(scratch, "tmpfs");
    assert_int_equal(mkdir(tmpfs, 0700), 0);
    assert_int_equal(mount("none", tmpfs, "tmpfs", 0, "size=8m"), 0);
    return 0;
}

static int group_tear_down(void **state)
{
    (void)state;
    unmount(tmpfs);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    set_is_empty(caches);
    cache_set_destroy(caches);
    return 0;
}

static struct cache *fill_all(uint32_t *ret_filled)
{
    struct cache *c = new_cache("memfile", 2 * SMALL_BYTES);
    char *zero = scratch_path(scratch, "source");
    int fd = open(zero, O_RDWR | O_CREAT | O_CLOEXEC, 0600), r = 0;
    uint32_t g;

    assert_int_equal(ftruncate(fd, GRANULE_BYTES), 0);
    for (g = 0; g < cache_granules(c) && r == 0; g++) {
        static char bytes[GRANULE_BYTES];
        void *memory;

        assert_int_equal(reserve(c, g, &memory), 0);
        /* In turn as an I/O engine does it, and as a program does. */
        memset(bytes, (int)g, sizeof(bytes));
        assert_int_equal(file_write_at(fd, bytes, sizeof(bytes), 0), 0);
        if (g % 2) {
            r = bus_copy(memory, bytes, sizeof(bytes));
        } else {
            ssize_t n = file_read_at(fd, memory, GRANULE_BYTES, 0);

            r = n < 0 ? (int)n : 0;
        }
        if (r == 0)
            cache_publish(c, g);
        else
            assert_int_equal(cache_fill_error(c, g, r), -ENOSPC);
        if (r < 0)
            cache_abandon(c, g);
    }
    assert_int_equal(r, -EFAULT);
    *ret_filled = g - 1;
    close(fd);
    free(zero);
    return c;
}

static void check_filled(struct cache *c, uint32_t filled)
{
    assert_true(filled > 20);
    for (uint32_t g = 0; g < filled; g++) {
        unsigned char byte = 0;

        assert_int_equal(cache_read(c, (g + 1) * GRANULE_BYTES - 1, &byte, 1), 1);
        assert_int_equal(byte, (unsigned char)g);
    }
    assert_int_equal(cache_state(c, filled), CACHE_ABSENT);
}

static void a_full_disk_fails_the_fill(const char *folder)
{
    uint32_t filled, again;
    struct cache *c;

    caches = new_set(CACHE_BACKING_FILE, folder, 0);
    c = fill_all(&filled);
    check_filled(c, filled);
    /* When there is room again, it goes on. */
    cache_destroy(c);
    c = fill_all(&again);
    check_filled(c, again);
    cache_destroy(c);
}

static void a_full_disk_is_an_error_of_the_fill(void **state)
{
    (void)state;
    a_full_disk_fails_the_fill(small);
}

static void a_full_tmpfs_is_an_error_of_the_fill(void **state)
{
    (void)state;
    a_full_disk_fails_the_fill(tmpfs);
}

static unsigned entries(const char *folder)
{
    DIR *d = opendir(folder);
    unsigned n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n;
}

/* Larger than any file on that disk; what was made of it until then is undone. */
static void a_file_that_cannot_be_made_is_an_error_of_the_create(void **state)
{
    struct cache_options o = {.object = "memfile", .size_bytes = 15 * TIB};
    struct uuid id = {{1}};
    struct thaw_error e = THAW_ERROR_INIT;
    unsigned before = entries(small);
    struct cache *c = NULL;

    (void)state;
    o.build = &id;
    caches = new_set(CACHE_BACKING_FILE, small, 0);
    assert_int_equal(cache_create(caches, &o, &c, &e), -EFBIG);
    assert_null(c);
    assert_non_null(strstr(e.text, "making the cache of memfile"));
    assert_int_equal(entries(small), before);
}

static void a_full_disk_is_an_error_of_the_write(void **state)
{
    static char block[16 * PAGE_BYTES];
    struct cache *c;
    uint64_t at;
    int r = 0;

    (void)state;
    caches = new_set(CACHE_BACKING_FILE, small, 0);
    c = new_overlay("rootfs", 2 * SMALL_BYTES);
    for (at = 0; at < 2 * SMALL_BYTES; at += sizeof(block)) {
        memset(block, (int)(at / sizeof(block)), sizeof(block));
        r = cache_write(c, at, block, sizeof(block));
        if (r < 0)
            break;
    }
    assert_int_equal(r, -ENOSPC);
    assert_int_equal(cache_present(c, at, 1), 0);
    assert_int_equal(cache_set_counters(caches).bytes[CACHE_KIND_OVERLAY], at);
    for (uint64_t k = 0; k < at; k += sizeof(block)) {
        assert_int_equal(cache_read(c, k + 5, block, 1), 1);
        assert_int_equal(block[0], (char)(k / sizeof(block)));
    }
    assert_int_equal(cache_write_zeroes(c, 0, 20 * sizeof(block)), 0);
    assert_int_equal(syncfs(c->memory.fd), 0); /* before that ext4 gives nobody what was freed */
    assert_int_equal(cache_write(c, at, block, sizeof(block)), 0);
    cache_destroy(c);
}

/* --- through the engine, which reads past the page cache into the mapping --- */

static void who_waits_hears_that_the_disk_is_full(void **state)
{
    size_t bytes = 2 * SMALL_BYTES;
    unsigned char *content = random_bytes(bytes, 3);
    struct fetch_object_options o = {
        .name = "memfile", .sums_name = "memfile.sums", .size_bytes = bytes};
    struct fetch_object *object;
    struct build_fixture f;
    struct fetch *fetch;
    uint32_t g;
    int r = 0;

    (void)state;
    build_fixture_init(&f, content, bytes);
    caches = new_set(CACHE_BACKING_FILE, small, 0);
    assert_int_equal(fetch_create(caches, &fetch, NULL), 0);
    o.store = f.store;
    o.build = f.id;
    assert_int_equal(fetch_object_open(fetch, &o, &object, NULL), 0);
    for (g = 0; g < bytes / GRANULE_BYTES; g += 2) { /* no sequence: one at a time */
        const void *memory;

        r = fetch_one(object, g);
        if (r < 0)
            break;
        memory = fetch_pin(object, g);
        assert_memory_equal(memory, content + g * GRANULE_BYTES, GRANULE_BYTES);
        fetch_unpin(object, g);
    }
    assert_int_equal(r, -ENOSPC);
    assert_true(g > 20);
    fetch_object_close(object);
    fetch_destroy(fetch);
    build_fixture_finish(&f);
    free(content);
}

/* --- a disk that fails --- */

static void a_broken_disk_is_an_error_of_the_read(void **state)
{
    static const char *const mkfs[] = {"mkfs.ext4", "-q", "-F", "-O", "^has_journal", NULL};
    char *disk = make_disk("broken", SMALL_BYTES, mkfs), *image, *copy = malloc(GRANULE_BYTES);
    struct cache *c;
    const void *pinned;

    (void)state;
    assert_non_null(disk);
    caches = new_set(CACHE_BACKING_FILE, disk, 0);
    c = new_cache("memfile", 4 * GRANULE_BYTES);
    for (uint32_t g = 0; g < 4; g++)
        fill_granule(c, g, 'a');
    /* Out of memory with it, and then away with the disk. */
    assert_int_equal(fsync(c->memory.fd), 0);
    assert_int_equal(madvise(c->memory.fill, c->memory.bytes, MADV_DONTNEED), 0);
    assert_int_equal(posix_fadvise(c->memory.fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    assert_true(asprintf(&image, "%s.image", disk) > 0);
    assert_int_equal(truncate(image, 0), 0);

    assert_int_equal(cache_read(c, 100, copy, 1), -EFAULT);
    pinned = cache_pin(c, 2);
    assert_non_null(pinned);
    assert_int_equal(bus_copy(copy, pinned, GRANULE_BYTES), -EFAULT);
    cache_unpin(c, 2);
    /* Once more: the first time has left nothing behind. */
    assert_int_equal(cache_read(c, GRANULE_BYTES, copy, 1), -EFAULT);
    cache_destroy(c);
    unmount(disk);
    free(image);
    free(copy);
}

/* Not ours: it ends the process as it would have, or goes to whoever was there before. */
static void *lost_page(void)
{
    char *path = scratch_path(scratch, "lost");
    int fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    void *map = mmap(NULL, PAGE_BYTES, PROT_READ, MAP_SHARED, fd, 0); /* beyond the end */

    close(fd);
    free(path);
    return map;
}

static void leave(int nr)
{
    (void)nr;
    _exit(42);
}

/* The end of a process that had @handler before us, and touches a page that is not there. */
static int end_of_one_with(void (*handler)(int nr))
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0) {
        const volatile char *p = lost_page();

        signal(SIGBUS, handler);
        _exit(bus_guard() == 0 ? p[0] : 3);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return status;
}

static void another_sigbus_is_none_of_ours(void **state)
{
    int status;

    (void)state;
    caches = new_set(CACHE_BACKING_MEMFD, NULL, 0);
    status = end_of_one_with(leave);
    assert_true(WIFEXITED(status) && WEXITSTATUS(status) == 42);
    status = end_of_one_with(SIG_DFL);
    assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGBUS);
}

/* --- export --- */

#define BLOCKS 2000u
#define BYTES  (BLOCKS * PAGE_BYTES - 1000)

static bool is_dirty(uint32_t block)
{
    return block % 100 < 70 || block == BLOCKS - 1;
}

static struct cache *make_overlay(void)
{
    struct cache *c = new_overlay("rootfs", BYTES);

    for (uint32_t b = 0; b < BLOCKS; b++) {
        uint64_t off = b * PAGE_BYTES, len = MIN(PAGE_BYTES, BYTES - off);
        uint32_t block[PAGE_BYTES / 4];

        for (unsigned i = 0; i < ARRAY_SIZE(block); i++)
            block[i] = b + 1;
        if (is_dirty(b))
            assert_int_equal(cache_write(c, off, block, len), 0);
        else if (b % 100 >= 90)
            assert_int_equal(cache_write_zeroes(c, off, len), 0);
    }
    return c;
}

struct stats_of_cache {
    uint64_t cached, dirty, writeback, evicted, recently_evicted;
};

/* cachestat(2), since Linux 6.5; false where it is not known. */
static bool page_cache_of(int fd, struct stats_of_cache *ret)
{
    uint64_t all[2] = {0, 0};

    return syscall(451, fd, all, ret, 0) == 0;
}

/* How many of the extents of @fd are shared with another file; *@ret_extents: of how many. */
static unsigned shared_extents(int fd, unsigned *ret_extents)
{
    size_t bytes = sizeof(struct fiemap) + 200 * sizeof(struct fiemap_extent);
    struct fiemap *map = calloc(1, bytes);
    unsigned shared = 0;

    map->fm_length = UINT64_MAX;
    map->fm_extent_count = 200;
    assert_int_equal(ioctl(fd, FS_IOC_FIEMAP, map), 0);
    for (unsigned i = 0; i < map->fm_mapped_extents; i++)
        shared += (map->fm_extents[i].fe_flags & FIEMAP_EXTENT_SHARED) != 0;
    *ret_extents = map->fm_mapped_extents;
    free(map);
    return shared;
}

static void check_diff(int fd)
{
    static char buf[PAGE_BYTES] __attribute__((aligned(4096)));
    const uint32_t *words = (const uint32_t *)(void *)buf;
    uint64_t at = 0;

    for (uint32_t b = 0; b < BLOCKS; b++) {
        uint64_t len = MIN(PAGE_BYTES, BYTES - b * PAGE_BYTES);

        if (!is_dirty(b))
            continue;
        assert_int_equal(pread(fd, buf, sizeof(buf), (off_t)at), len);
        for (unsigned w = 0; w < len / 4; w++)
            assert_int_equal(words[w], b + 1);
        at += len;
    }
    assert_int_equal(pread(fd, buf, sizeof(buf), (off_t)round_up(at, PAGE_BYTES)), 0);
}

/* Exports to @folder; returns how many extents are shared, of how many. */
static unsigned export_to(const char *folder, unsigned *ret_extents)
{
    struct page_set dirty CLEANUP_PAGE_SET = {0}, empty CLEANUP_PAGE_SET = {0};
    int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC), fd;
    struct thaw_error e = THAW_ERROR_INIT;
    struct cache *c = make_overlay();
    struct stats_of_cache pages;
    unsigned shared = 0;

    if (cache_export(c, dir_fd, "diff", &dirty, &empty, &e) < 0)
        fail_msg("%s", e.text);
    fd = openat(dir_fd, "diff", O_RDONLY | O_DIRECT | O_CLOEXEC);
    assert_true(fd >= 0);
    if (ret_extents)
        shared = shared_extents(fd, ret_extents);
    /* But for the last block, which has been cut. */
    if (page_cache_of(fd, &pages))
        assert_true(pages.cached <= 1 && pages.dirty + pages.writeback == 0);
    else
        print_message("no cachestat(2) here\n");
    /* What comes from the disk is whole. */
    check_diff(fd);
    assert_int_equal(page_set_pages(&dirty), BLOCKS / 100 * 70 + 1);
    assert_int_equal(page_set_pages(&empty), BLOCKS / 100 * 10 - 1);
    /* What is written to the overlay afterwards is not the diff's. */
    assert_int_equal(cache_write(c, 0, (char[PAGE_BYTES]){'x'}, PAGE_BYTES), 0);
    check_diff(fd);
    close(fd);
    unlinkat(dir_fd, "diff", 0);
    close(dir_fd);
    cache_destroy(c);
    return shared;
}

static void on_xfs_a_file_shares_its_blocks(void **state)
{
    unsigned extents = 0, shared;

    (void)state;
    if (!xfs) {
        print_message("skipped: no XFS could be made here\n");
        caches = new_set(CACHE_BACKING_MEMFD, NULL, 0);
        return;
    }
    caches = new_set(CACHE_BACKING_FILE, xfs, 0);
    shared = export_to(xfs, &extents);
    assert_true(shared > 0 && shared >= extents - 1); /* the last block, as above */
    print_message("%u of %u extents are shared\n", shared, extents);
}

static void elsewhere_blocks_are_copied(void **state)
{
    unsigned extents = 0;

    (void)state;
    caches = new_set(CACHE_BACKING_FILE, xfs ? xfs : small, 0);
    assert_int_equal(export_to(other, &extents), 0);
    assert_true(extents > 0);
    cache_set_destroy(caches);
    caches = new_set(CACHE_BACKING_FILE, other, 0); /* the same, which cannot share */
    assert_int_equal(export_to(other, &extents), 0);
    cache_set_destroy(caches);
    caches = new_set(CACHE_BACKING_MEMFD, NULL, 0);
    assert_int_equal(export_to(other, &extents), 0);
}

/* The disk gets full half way. */
static void a_full_disk_has_no_half_a_diff(void **state)
{
    char *file = scratch_path(small, "ballast");
    int fd = open(file, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    struct page_set dirty = {0}, empty = {0};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(posix_fallocate(fd, 0, 9 * MIB), 0);
    for (backing = 0; backing < CACHE_BACKINGS; backing++) {
        unsigned before = entries(small);
        struct cache *c;
        int dir_fd = open(small, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

        caches = new_set(backing, other, 0);
        c = make_overlay();
        assert_int_equal(cache_export(c, dir_fd, "diff", &dirty, &empty, &e), -ENOSPC);
        assert_non_null(strstr(e.text, "writing diff"));
        assert_int_equal(entries(small), before);
        cache_destroy(c);
        close(dir_fd);
        if (backing + 1 < CACHE_BACKINGS)
            cache_set_destroy(caches);
    }
    close(fd);
    unlink(file);
    free(file);
}

static bool make_all(void)
{
    if (geteuid() != 0 || unshare(CLONE_NEWNS) < 0 ||
        mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
        return false;
    small = make_disk("small", SMALL_BYTES, mkfs_ext4);
    other = make_disk("other", 4 * SMALL_BYTES, mkfs_ext4);
    xfs = make_disk("xfs", 320 * MIB, mkfs_xfs);
    return small && other;
}

int main(void)
{
#define TEST(name) cmocka_unit_test_teardown(name, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_full_disk_is_an_error_of_the_fill),
        TEST(a_full_tmpfs_is_an_error_of_the_fill),
        TEST(a_file_that_cannot_be_made_is_an_error_of_the_create),
        TEST(a_full_disk_is_an_error_of_the_write),
        TEST(who_waits_hears_that_the_disk_is_full),
        TEST(a_broken_disk_is_an_error_of_the_read),
        TEST(another_sigbus_is_none_of_ours),
        TEST(on_xfs_a_file_shares_its_blocks),
        TEST(elsewhere_blocks_are_copied),
        TEST(a_full_disk_has_no_half_a_diff),
    };
    int failed = 77;

    scratch = scratch_make();
    backing = CACHE_BACKING_FILE;
    if (make_all())
        failed = cmocka_run_group_tests(tests, group_set_up, group_tear_down);
    else
        printf("skipped: no file systems on loop devices can be mounted here\n");
    unmount(small);
    unmount(other);
    unmount(xfs);
    scratch_remove(scratch);
    return failed;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "test_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/vfs.h>

#include "base/error.h"
#include "base/file.h"
#include "base/thread.h"
#include "format/page_set.h"
#include "scratch.h"

#define BLOCKS 5000u /* 20 MB, of which more than two buffers are dirty */

static char *folder;
static int dir_fd;

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_true(dir_fd >= 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    close(dir_fd);
    scratch_remove(folder);
    return 0;
}

static unsigned files(void)
{
    DIR *d = opendir(folder);
    unsigned n = 0;

    while (readdir(d))
        n++;
    closedir(d);
    return n - 2;
}

/* Some of each state in runs of all lengths; the first word of a dirty block is its number. */
static enum cache_block state_of(uint32_t block)
{
    uint32_t at = block % 600;

    if (at < 350)
        return CACHE_BLOCK_DIRTY;
    if (at < 450)
        return CACHE_BLOCK_CLEAN;
    if (at < 500)
        return CACHE_BLOCK_ZERO;
    return (enum cache_block)((block * 2654435761u >> 16) % 3);
}

static struct cache *make_overlay(uint64_t size)
{
    struct cache *c;

    c = new_overlay("x", size);
    for (uint32_t b = 0; b * PAGE_BYTES < size; b++) {
        uint64_t off = b * PAGE_BYTES, len = MIN(PAGE_BYTES, size - off);
        uint32_t block[PAGE_BYTES / 4];

        for (unsigned i = 0; i < ARRAY_SIZE(block); i++)
            block[i] = b + 1;
        if (state_of(b) == CACHE_BLOCK_DIRTY)
            assert_int_equal(cache_write(c, off, block, len), 0);
        else if (state_of(b) == CACHE_BLOCK_ZERO)
            assert_int_equal(cache_write_zeroes(c, off, len), 0);
    }
    return c;
}

/* That @set has the blocks in @state, all of them, in runs as long as can be. */
static void check_set(const struct page_set *set, enum cache_block state, uint32_t blocks)
{
    size_t k = 0;

    for (uint32_t b = 0; b < blocks; k++) {
        uint32_t end;

        while (b < blocks && state_of(b) != state)
            b++;
        for (end = b; end < blocks && state_of(end) == state;)
            end++;
        if (end == b)
            break;
        assert_true(k < set->count);
        assert_int_equal(set->ranges[k].start, b);
        assert_int_equal(set->ranges[k].pages, end - b);
        b = end;
    }
    assert_int_equal(k, set->count);
}

/* How many pages of @fd are in the page cache: what is not there cannot be dirty. */
static unsigned cached_pages(int fd, size_t bytes)
{
    size_t pages = div_round_up(bytes, PAGE_BYTES);
    unsigned char *there = malloc(pages);
    void *map = mmap(NULL, bytes, PROT_READ, MAP_SHARED, fd, 0);
    unsigned n = 0;

    assert_ptr_not_equal(map, MAP_FAILED);
    assert_int_equal(mincore(map, bytes, there), 0);
    for (size_t i = 0; i < pages; i++)
        n += there[i] & 1;
    munmap(map, bytes);
    free(there);
    return n;
}

/* On a tmpfs the page cache is all there is. */
static bool on_disk(void)
{
    struct statfs s;

    assert_int_equal(fstatfs(dir_fd, &s), 0);
    return s.f_type != TMPFS_MAGIC && s.f_type != RAMFS_MAGIC;
}

static void check_bytes(int fd, const struct page_set *dirty, uint64_t total)
{
    uint64_t at = 0;

    for (size_t i = 0; i < dirty->count; i++) {
        for (uint32_t b = dirty->ranges[i].start, k = 0; k < dirty->ranges[i].pages; k++, b++) {
            uint32_t block[PAGE_BYTES / 4];
            size_t len = MIN(PAGE_BYTES, total - at);

            assert_int_equal(file_read_at(fd, block, PAGE_BYTES, at), len);
            for (unsigned w = 0; w < len / 4; w++)
                assert_int_equal(block[w], b + 1);
            at += len;
        }
    }
    assert_int_equal(at, total);
}

static void check_export(uint64_t size)
{
    uint32_t blocks = (uint32_t)div_round_up(size, PAGE_BYTES);
    struct page_set dirty CLEANUP_PAGE_SET = {0}, empty CLEANUP_PAGE_SET = {0};
    struct cache *c = make_overlay(size);
    uint64_t total;
    struct stat st;
    int fd;

    assert_int_equal(cache_export(c, dir_fd, "diff", &dirty, &empty, NULL), 0);
    check_set(&dirty, CACHE_BLOCK_DIRTY, blocks);
    check_set(&empty, CACHE_BLOCK_ZERO, blocks);
    assert_int_equal(state_of(blocks - 1), CACHE_BLOCK_DIRTY);
    total = page_set_pages(&dirty) * PAGE_BYTES - (blocks * PAGE_BYTES - size);
    assert_true(total > 8 * MIB);
    fd = openat(dir_fd, "diff", O_RDONLY | O_CLOEXEC);
    assert_int_equal(fstat(fd, &st), 0);
    assert_int_equal(st.st_size, total);
    /* Cutting a file within a block puts that block into the page cache; fsync has written it. */
    if (on_disk())
        assert_true(cached_pages(fd, total) <= (size % PAGE_BYTES != 0));
    check_bytes(fd, &dirty, total);
    if (on_disk())
        assert_true(cached_pages(fd, total) > 100); /* we would have seen it */
    assert_int_equal(files(), 1);

    /* The overlay is as it was. */
    assert_int_equal(cache_export(c, dir_fd, "diff", &dirty, &empty, NULL), -EEXIST);
    assert_int_equal(files(), 1);
    close(fd);
    unlinkat(dir_fd, "diff", 0);
    cache_destroy(c);
}

static void dirty_blocks_are_packed_past_the_page_cache(void **state)
{
    (void)state;
    check_export(BLOCKS * PAGE_BYTES);
}

static void the_last_block_may_be_short(void **state)
{
    (void)state;
    check_export(BLOCKS * PAGE_BYTES - 1000);
}

static void nothing_is_a_diff_too(void **state)
{
    struct page_set dirty = {0}, empty = {0};
    struct cache *c;
    struct stat st;

    (void)state;
    c = new_overlay("x", 0);
    assert_int_equal(cache_export(c, dir_fd, "of-nothing", &dirty, &empty, NULL), 0);
    assert_int_equal(fstatat(dir_fd, "of-nothing", &st, 0), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(dirty.count + empty.count, 0);
    cache_destroy(c);

    c = new_overlay("x", MIB);
    assert_int_equal(cache_write_zeroes(c, 0, MIB), 0);
    assert_int_equal(cache_export(c, dir_fd, "of-zeros", &dirty, &empty, NULL), 0);
    assert_int_equal(fstatat(dir_fd, "of-zeros", &st, 0), 0);
    assert_int_equal(st.st_size, 0);
    assert_int_equal(dirty.count, 0);
    assert_int_equal(page_set_pages(&empty), MIB / PAGE_BYTES);
    page_set_finish(&empty);
    cache_destroy(c);
}

static void fails_cleanly(struct cache *c, int code, const char *text)
{
    struct page_set dirty = {.cap = 7}, empty = {.cap = 8};
    struct thaw_error e = THAW_ERROR_INIT;
    unsigned before = files();

    assert_int_equal(cache_export(c, dir_fd, "diff", &dirty, &empty, &e), code);
    if (!strstr(e.text, text))
        fail_msg("'%s' does not say '%s'", e.text, text);
    assert_int_equal(files(), before);
    assert_int_equal(dirty.cap, 7);
    assert_int_equal(empty.cap, 8);
}

static void a_failed_export_leaves_no_file(void **state)
{
    struct rlimit old, small;
    struct cache *c = make_overlay(BLOCKS * PAGE_BYTES);

    (void)state;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small = (struct rlimit){.rlim_cur = 6 * MIB, .rlim_max = old.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    fails_cleanly(c, -EFBIG, "writing diff");
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);

    assert_int_equal(mkdirat(dir_fd, "diff", 0700), 0);
    fails_cleanly(c, -EEXIST, "naming the file diff");
    assert_int_equal(unlinkat(dir_fd, "diff", AT_REMOVEDIR), 0);

    assert_int_equal(cache_close(c), 0);
    fails_cleanly(c, -ESHUTDOWN, "closed");
    cache_destroy(c);
    c = new_cache("x", MIB);
    fails_cleanly(c, -EROFS, "only read");
    cache_destroy(c);
}

/* --- an owner who does not rest --- */

static struct cache *busy;
static _Atomic(bool) writing, over;

static void *write_on(void *arg)
{
    char block[PAGE_BYTES] = "";

    (void)arg;
    while (!atomic_load(&over)) {
        assert_int_equal(cache_write(busy, 0, block, sizeof(block)), 0);
        atomic_store(&writing, true);
    }
    return NULL;
}

static void what_changes_is_not_exported(void **state)
{
    struct page_set dirty = {0}, empty = {0};
    pthread_t t;

    (void)state;
    atomic_store(&writing, false);
    atomic_store(&over, false);
    busy = make_overlay(BLOCKS * PAGE_BYTES);
    assert_int_equal(thread_start(&t, "owner", write_on, NULL), 0);
    while (!atomic_load(&writing))
        sched_yield();
    fails_cleanly(busy, -EBUSY, "changed while it was exported");
    atomic_store(&over, true);
    thread_join(t);
    assert_int_equal(cache_export(busy, dir_fd, "diff", &dirty, &empty, NULL), 0);
    page_set_finish(&dirty);
    page_set_finish(&empty);
    cache_destroy(busy);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(dirty_blocks_are_packed_past_the_page_cache, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(the_last_block_may_be_short, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_is_a_diff_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_failed_export_leaves_no_file, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_changes_is_not_exported, set_up, tear_down),
    };

    return run_with_each_backing(tests);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "test_cache.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>

#include "base/thread.h"

static void blocks_are_written_whole(void **state)
{
    const uint64_t size = 5 * PAGE_BYTES + 100;
    char block[3 * PAGE_BYTES];
    struct cache *c;
    uint64_t run = 0;
    const void *dirty = NULL;
    void *memory;

    (void)state;
    memset(block, 'a', sizeof(block));
    c = new_overlay("rootfs", size);
    assert_true(has_cache_fd("rootfs"));
    assert_int_equal(cache_size(c), size);

    assert_int_equal(cache_write(c, 1, block, PAGE_BYTES), -EINVAL);
    assert_int_equal(cache_write(c, 0, block, PAGE_BYTES - 1), -EINVAL);
    assert_int_equal(cache_write(c, 4 * PAGE_BYTES, block, 2 * PAGE_BYTES), -EINVAL);
    assert_int_equal(cache_write(c, 5 * PAGE_BYTES, block, 99), -EINVAL);
    assert_int_equal(cache_write(c, 6 * PAGE_BYTES, block, PAGE_BYTES), -EINVAL);
    assert_int_equal(cache_write(c, UINT64_MAX - PAGE_BYTES + 1, block, PAGE_BYTES), -EINVAL);
    assert_int_equal(cache_write_zeroes(c, 0, 100), -EINVAL);
    assert_int_equal(cache_write_zeroes(c, PAGE_BYTES, UINT64_MAX - PAGE_BYTES + 1), -EINVAL);
    assert_int_equal(cache_allocated_bytes(c), 0);
    assert_int_equal(cache_present(c, 0, 1), 0);

    assert_int_equal(cache_write(c, 0, block, 0), 0);
    assert_int_equal(cache_write(c, 4 * PAGE_BYTES, block, PAGE_BYTES + 100), 0);
    assert_int_equal(cache_block_run(c, 0, size, &run), CACHE_BLOCK_CLEAN);
    assert_int_equal(run, 4 * PAGE_BYTES);
    assert_int_equal(cache_block_run(c, 4 * PAGE_BYTES + 10, size - 4 * PAGE_BYTES - 10, &run),
                     CACHE_BLOCK_DIRTY);
    assert_int_equal(run, PAGE_BYTES + 90);
    assert_int_equal(cache_block_run(c, 0, 0, &run), -EINVAL);
    assert_int_equal(cache_block_run(c, 0, size + 1, &run), -EINVAL);
    assert_int_equal(cache_dirty_memory(c, 5 * PAGE_BYTES + 10, 90, &dirty, &run), 0);
    assert_int_equal(run, 90);
    assert_memory_equal(dirty, block, 90);
    assert_int_equal(cache_dirty_memory(c, 0, 1, &dirty, &run), -ENODATA);
    assert_int_equal(cache_read(c, size - 10, block, 100), 10);
    assert_int_equal(cache_read(c, 4 * PAGE_BYTES - 1, block, 2), -ENODATA);

    assert_int_equal(reserve(c, 0, &memory), -EROFS);
    assert_null(cache_pin(c, 0));
    assert_int_equal(cache_state(c, 0), CACHE_ABSENT);
    cache_destroy(c);
    assert_int_equal(
        cache_create_overlay(caches, &(struct cache_options){&build, "x", 16 * TIB}, &c, NULL),
        -EFBIG);
}

static void an_overlay_of_nothing(void **state)
{
    struct cache *c;
    char byte = 0;

    (void)state;
    c = new_overlay("x", 0);
    assert_int_equal(find_cache_fd(""), -1);
    assert_int_equal(cache_write(c, 0, &byte, 1), -EINVAL);
    assert_int_equal(cache_write(c, 0, &byte, 0), 0);
    assert_int_equal(cache_write_zeroes(c, 0, 0), 0);
    assert_int_equal(cache_write_zeroes(c, PAGE_BYTES, PAGE_BYTES), -EINVAL);
    assert_int_equal(cache_read(c, 0, &byte, 1), 0);
    assert_int_equal(cache_allocated_bytes(c), 0);
    assert_int_equal(cache_close(c), 0);
    assert_int_equal(cache_close(c), -ESHUTDOWN);
    cache_destroy(c);
}

/* --- against a naive model: random operations on few blocks, all compared after each --- */

#define BLOCKS 40u
#define SIZE   (BLOCKS * PAGE_BYTES - 1000)
#define STEPS  6000u

static struct {
    char bytes[BLOCKS * PAGE_BYTES];
    enum cache_block states[BLOCKS];
} model;

static uint32_t dice;

static uint32_t roll(uint32_t sides)
{
    dice = dice * 1664525 + 1013904223;
    return (dice >> 8) % sides;
}

static void check_read(struct cache *c)
{
    static char buf[SIZE + 100];
    uint64_t off = roll(SIZE + 50), len = roll(3 * PAGE_BYTES);
    uint64_t n = off < SIZE ? MIN(len, SIZE - off) : 0;
    bool clean = false;
    ssize_t r;

    for (uint64_t b = off / PAGE_BYTES; n > 0 && b * PAGE_BYTES < off + n; b++)
        clean |= model.states[b] == CACHE_BLOCK_CLEAN;
    r = cache_read(c, off, buf, len);
    assert_int_equal(cache_present(c, off, len), !clean);
    assert_int_equal(r, clean ? -ENODATA : (ssize_t)n);
    if (!clean)
        assert_memory_equal(buf, model.bytes + off, n);
}

static void check_runs(struct cache *c)
{
    uint64_t run, allocated = 0;
    unsigned b = roll(BLOCKS), end = b + 1;

    while (end < BLOCKS && model.states[end] == model.states[b])
        end++;
    assert_int_equal(cache_block_run(c, b * PAGE_BYTES, SIZE - b * PAGE_BYTES, &run),
                     model.states[b]);
    assert_int_equal(run, MIN(end * PAGE_BYTES, SIZE) - b * PAGE_BYTES);
    for (b = 0; b < BLOCKS; b++)
        allocated += model.states[b] == CACHE_BLOCK_DIRTY ? PAGE_BYTES : 0;
    assert_int_equal(cache_set_counters(caches).bytes[CACHE_KIND_OVERLAY], allocated);
    if (backing == CACHE_BACKING_MEMFD)
        assert_int_equal(cache_allocated_bytes(c), allocated);
    else if (backing == CACHE_BACKING_TIERED) /* nothing is moved: a block may keep a slot */
        assert_in_range(cache_allocated_bytes(c), allocated, BLOCKS * GRANULE_BYTES);
    else /* a file system may take more, for itself */
        assert_in_range(cache_allocated_bytes(c), allocated, SIZE + 4 * GRANULE_BYTES);
}

static void change(struct cache *c, unsigned step)
{
    unsigned first = roll(BLOCKS), count = 1 + roll(MIN(6, BLOCKS - first));
    uint64_t off = first * PAGE_BYTES, len = MIN(count * PAGE_BYTES, SIZE - off);
    enum cache_block state = roll(2) ? CACHE_BLOCK_DIRTY : CACHE_BLOCK_ZERO;

    if (state == CACHE_BLOCK_DIRTY) {
        static char buf[6 * PAGE_BYTES];

        for (uint64_t i = 0; i < len; i++)
            buf[i] = (char)(step * 31 + i / 7);
        memcpy(model.bytes + off, buf, len);
        assert_int_equal(cache_write(c, off, buf, len), 0);
    } else {
        memset(model.bytes + off, 0, len);
        assert_int_equal(cache_write_zeroes(c, off, len), 0);
    }
    for (unsigned b = first; b < first + count; b++)
        model.states[b] = state;
}

static void it_behaves_as_the_model(void **state)
{
    struct cache *c;

    (void)state;
    dice = 42;
    memset(&model, 0, sizeof(model));
    c = new_overlay("x", SIZE);
    for (unsigned i = 0; i < STEPS; i++) {
        if (i % 8 == 0 || i > 200)
            change(c, i);
        check_read(c);
        check_runs(c);
    }
    cache_destroy(c);
}

static void a_failed_write_changes_no_state(void **state)
{
    struct rlimit old, small = {.rlim_cur = 2 * PAGE_BYTES, .rlim_max = RLIM_INFINITY};
    char block[PAGE_BYTES] = "", blocks[2 * PAGE_BYTES] = "", byte;
    struct cache *c;

    (void)state;
    if (backing != CACHE_BACKING_MEMFD)
        return; /* stores know no such limit: see test_cache_disk.c */
    c = new_overlay("x", 8 * PAGE_BYTES);
    assert_int_equal(cache_write_zeroes(c, 3 * PAGE_BYTES, PAGE_BYTES), 0);
    assert_int_equal(cache_write(c, 4 * PAGE_BYTES, block, PAGE_BYTES), 0);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(cache_write(c, 2 * PAGE_BYTES, block, PAGE_BYTES), -EFBIG);
    assert_int_equal(cache_write(c, 3 * PAGE_BYTES, block, PAGE_BYTES), -EFBIG);
    assert_int_equal(cache_write(c, PAGE_BYTES, blocks, sizeof(blocks)), -EFBIG); /* half of it */
    block[0] = 'n';
    assert_int_equal(cache_write(c, 4 * PAGE_BYTES, block, PAGE_BYTES), 0); /* has its room */
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(cache_present(c, 2 * PAGE_BYTES, 1), 0);
    assert_int_equal(cache_read(c, 4 * PAGE_BYTES, &byte, 1), 1);
    assert_int_equal(byte, 'n');
    assert_int_equal(cache_allocated_bytes(c), PAGE_BYTES);
    assert_int_equal(cache_set_counters(caches).charged_bytes, PAGE_BYTES);
    assert_int_equal(cache_read(c, 3 * PAGE_BYTES, &byte, 1), 1);
    assert_int_equal(byte, 0);
    assert_int_equal(cache_write(c, 2 * PAGE_BYTES, block, PAGE_BYTES), 0);
    cache_destroy(c);
}

/* --- readers while the owner writes: they see blocks or zeros, and no hole is their problem --- */

#define SHARED_BLOCKS 8u

static struct cache *shared;
static _Atomic(bool) over;

static void *read_along(void *arg)
{
    static const char zeros[8];
    unsigned seed = (unsigned)(uintptr_t)arg, seen = 0;

    while (!atomic_load(&over) || seen == 0) {
        char buf[2 * PAGE_BYTES];
        uint64_t b = (seed = seed * 1103515245u + 12345u) / 65536 % (SHARED_BLOCKS - 1);
        ssize_t r = cache_read(shared, b * PAGE_BYTES, buf, sizeof(buf));

        assert_int_equal(r, sizeof(buf));
        for (size_t i = 0; i < sizeof(buf); i += 512) {
            char mine = (char)('a' + b + i / PAGE_BYTES);

            assert_true(buf[i] == mine || memcmp(buf + i, zeros, sizeof(zeros)) == 0);
            seen += buf[i] == mine;
        }
    }
    return NULL;
}

static void readers_do_not_mind_the_owner(void **state)
{
    static char blocks[SHARED_BLOCKS][PAGE_BYTES];
    pthread_t t[3];

    (void)state;
    atomic_store(&over, false);
    shared = new_overlay("x", SHARED_BLOCKS * PAGE_BYTES);
    for (unsigned b = 0; b < SHARED_BLOCKS; b++)
        memset(blocks[b], 'a' + (int)b, PAGE_BYTES);
    assert_int_equal(cache_write(shared, 0, blocks, sizeof(blocks)), 0);
    for (uintptr_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "reader", read_along, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < 20000; i++) {
        unsigned b = i * 5 % SHARED_BLOCKS;

        assert_int_equal(cache_write_zeroes(shared, b * PAGE_BYTES, PAGE_BYTES), 0);
        assert_int_equal(cache_write(shared, b * PAGE_BYTES, blocks[b], PAGE_BYTES), 0);
        assert_int_equal(cache_write(shared, b * PAGE_BYTES, blocks[b], PAGE_BYTES), 0);
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        thread_join(t[i]);
    cache_destroy(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(blocks_are_written_whole),
        cmocka_unit_test(an_overlay_of_nothing),
        cmocka_unit_test(it_behaves_as_the_model),
        cmocka_unit_test(a_failed_write_changes_no_state),
        cmocka_unit_test(readers_do_not_mind_the_owner),
    };

    return run_with_each_backing(tests);
}

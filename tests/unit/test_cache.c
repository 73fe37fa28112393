/* SPDX-License-Identifier: Apache-2.0 */
#include "test_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/thread.h"

static void granules_go_through_their_states(void **state)
{
    struct cache *c;
    char *memory;
    void *again;
    const char *pinned;

    (void)state;
    c = new_cache("memfile", 3 * GRANULE_BYTES + 100);
    assert_int_equal(cache_granules(c), 4);
    assert_int_equal(cache_granule_bytes(c, 0), GRANULE_BYTES);
    assert_int_equal(cache_granule_bytes(c, 3), 100);
    assert_int_equal(cache_state(c, 1), CACHE_ABSENT);
    assert_null(cache_pin(c, 1));

    assert_int_equal(reserve(c, 1, (void **)&memory), 0);
    assert_int_equal(cache_state(c, 1), CACHE_FILLING);
    assert_int_equal(reserve(c, 1, &again), -EBUSY);
    assert_null(cache_pin(c, 1));
    memset(memory, 'a', GRANULE_BYTES);
    cache_abandon(c, 1);
    assert_int_equal(cache_state(c, 1), CACHE_ABSENT);

    assert_int_equal(reserve(c, 1, (void **)&memory), 0);
    memset(memory, 'b', GRANULE_BYTES);
    cache_publish(c, 1);
    assert_int_equal(cache_state(c, 1), CACHE_READY);
    assert_int_equal(reserve(c, 1, &again), -EALREADY);
    pinned = cache_pin(c, 1);
    assert_ptr_equal(cache_pin(c, 1), pinned);
    assert_int_equal(pinned[GRANULE_BYTES - 1], 'b');
    cache_unpin(c, 1);
    cache_unpin(c, 1);
    assert_int_equal(cache_state(c, 1), CACHE_READY);
    assert_int_equal(cache_state(c, 0), CACHE_ABSENT);
    cache_destroy(c);
}

static void memory_is_taken_as_it_is_filled(void **state)
{
    struct cache *c;
    int64_t allocated;
    void *memory;

    (void)state;
    c = new_cache("memfile", 8 * GIB);
    assert_int_equal(cache_allocated_bytes(c), 0);
    assert_int_equal(reserve(c, 100000, &memory), 0);
    memset(memory, 1, GRANULE_BYTES);
    cache_publish(c, 100000);
    allocated = cache_allocated_bytes(c);
    assert_int_equal(cache_set_counters(caches).bytes[CACHE_KIND_READ_THROUGH], GRANULE_BYTES);
    if (backing != CACHE_BACKING_FILE)
        assert_int_equal(allocated, GRANULE_BYTES);
    else /* with what the file system needs to find it again */
        assert_in_range(allocated, GRANULE_BYTES, 2 * GRANULE_BYTES);
    cache_destroy(c);
}

/* What could not be filled takes no memory. */
static void what_is_abandoned_takes_nothing(void **state)
{
    struct cache *c;
    void *memory;

    (void)state;
    c = new_cache("memfile", 3 * GRANULE_BYTES + 100);
    assert_int_equal(reserve(c, 1, &memory), 0);
    memset(memory, 1, GRANULE_BYTES);
    cache_abandon(c, 1);
    assert_int_equal(reserve(c, 3, &memory), 0);
    memset(memory, 1, PAGE_BYTES);
    assert_int_equal(cache_set_counters(caches).bytes[CACHE_KIND_READ_THROUGH],
                     backing == CACHE_BACKING_TIERED ? GRANULE_BYTES : PAGE_BYTES);
    cache_abandon(c, 3);
    assert_int_equal(cache_allocated_bytes(c), 0);
    set_is_empty(caches);
    cache_destroy(c);
}

/* The only file in the folder, and its name. */
static void a_file_has_a_name_and_is_removed(void)
{
    struct cache *c = new_cache("odd/../name", GRANULE_BYTES);
    struct dirent **entries;
    struct stat st;

    assert_int_equal(scandir(cache_folder, &entries, NULL, alphasort), 3); /* with "." and ".." */
    assert_ptr_equal(strstr(entries[2]->d_name, "thaw-12345678-odd_.._name-"), entries[2]->d_name);
    assert_int_equal(fstat(find_cache_fd("odd_.._name"), &st), 0);
    assert_int_equal(st.st_mode & 07777, 0600);
    assert_int_equal(st.st_size, GRANULE_BYTES);
    for (int i = 0; i < 3; i++)
        free(entries[i]);
    free(entries);
    assert_int_equal(cache_close(c), 0);
    assert_int_equal(find_cache_fd(""), -1);
    assert_int_equal(scandir(cache_folder, &entries, NULL, alphasort), 2);
    for (int i = 0; i < 2; i++)
        free(entries[i]);
    free(entries);
    cache_destroy(c);
}

static void its_memory_has_a_name(void **state)
{
    struct cache *c;
    int fd;

    (void)state;
    if (backing == CACHE_BACKING_FILE)
        a_file_has_a_name_and_is_removed();
    if (backing != CACHE_BACKING_MEMFD)
        return;
    c = new_cache("memfile", GRANULE_BYTES);
    fd = find_cache_fd("memfile");
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(ftruncate(fd, (off_t)TIB), -1);
    assert_int_equal(fcntl(fd, F_GET_SEALS), F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    cache_destroy(c);
    assert_int_equal(find_cache_fd(""), -1);
}

static void size_zero_is_a_cache_too(void **state)
{
    struct cache *c;
    char byte;

    (void)state;
    c = new_cache("memfile", 0);
    assert_int_equal(cache_granules(c), 0);
    assert_int_equal(cache_size(c), 0);
    assert_int_equal(cache_allocated_bytes(c), 0);
    assert_int_equal(find_cache_fd(""), -1);
    assert_int_equal(cache_read(c, 0, &byte, 0), 0);
    assert_int_equal(cache_read(c, 5, &byte, 1), 0);
    assert_int_equal(cache_present(c, 0, 1), 1);
    set_is_empty(caches);
    assert_int_equal(cache_close(c), 0);
    assert_int_equal(cache_allocated_bytes(c), -ESHUTDOWN);
    assert_int_equal(cache_close(c), -ESHUTDOWN);
    assert_int_equal(cache_read(c, 0, &byte, 0), -ESHUTDOWN);
    cache_destroy(c);
    cache_destroy(NULL);
    assert_int_equal(
        cache_create(caches, &(struct cache_options){&build, "memfile", 17 * TIB}, &c, NULL),
        -EFBIG);
}

static void a_read_is_short_at_the_end_and_never_of_what_is_absent(void **state)
{
    const uint64_t size = 3 * GRANULE_BYTES + 100;
    char *buf = malloc(size);
    struct cache *c;

    (void)state;
    c = new_cache("memfile", size);
    assert_int_equal(cache_size(c), size);
    fill_granule(c, 1, 'b');
    fill_granule(c, 3, 'd');

    assert_int_equal(cache_read(c, GRANULE_BYTES + 7, buf, 100), 100);
    assert_int_equal(buf[0], 'b');
    assert_int_equal(buf[99], 'b');
    assert_int_equal(cache_read(c, size - 10, buf, 4096), 10);
    assert_int_equal(buf[9], 'd');
    assert_int_equal(cache_read(c, size, buf, 1), 0);
    assert_int_equal(cache_read(c, UINT64_MAX, buf, 2), 0);
    assert_int_equal(cache_read(c, GRANULE_BYTES - 1, buf, 2), -ENODATA);
    assert_int_equal(cache_read(c, 2 * GRANULE_BYTES - 1, buf, 2), -ENODATA);

    assert_int_equal(cache_present(c, GRANULE_BYTES, GRANULE_BYTES), 1);
    assert_int_equal(cache_present(c, GRANULE_BYTES, GRANULE_BYTES + 1), 0);
    assert_int_equal(cache_present(c, GRANULE_BYTES - 1, 2), 0);
    assert_int_equal(cache_present(c, size - 1, UINT64_MAX), 1);
    assert_int_equal(cache_present(c, size, 1), 1);

    fill_granule(c, 2, 'c');
    assert_int_equal(cache_read(c, 2 * GRANULE_BYTES - 1, buf, size),
                     (ssize_t)(GRANULE_BYTES + 101));
    assert_int_equal(buf[0], 'b');
    assert_int_equal(buf[1], 'c');
    assert_int_equal(buf[GRANULE_BYTES], 'c');
    assert_int_equal(buf[GRANULE_BYTES + 1], 'd');
    cache_destroy(c);
    free(buf);
}

static void it_is_not_written_to(void **state)
{
    char block[PAGE_BYTES] = "";
    struct cache *c;
    uint64_t run = 7;

    (void)state;
    c = new_cache("memfile", GRANULE_BYTES);
    assert_int_equal(cache_write(c, 0, block, sizeof(block)), -EROFS);
    assert_int_equal(cache_write_zeroes(c, 0, sizeof(block)), -EROFS);
    assert_int_equal(cache_block_run(c, 0, 1, &run), -EROFS);
    assert_int_equal(run, 7);
    assert_int_equal(cache_allocated_bytes(c), 0);
    cache_destroy(c);
}

/* Bit 63 of an entry of /proc/PID/pagemap says that the page is in the page tables: proc(5). */
static unsigned mapped_pages(const void *start, unsigned pages)
{
    int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
    off_t at = (off_t)((uintptr_t)start / PAGE_BYTES * 8);
    uint64_t entries[GRANULE_BYTES / PAGE_BYTES];
    unsigned n = 0;

    assert_true(fd >= 0);
    assert_int_equal(pread(fd, entries, pages * 8, at), pages * 8);
    for (unsigned i = 0; i < pages; i++)
        n += entries[i] >> 63 != 0;
    close(fd);
    return n;
}

static void who_pins_takes_no_faults(void **state)
{
    struct cache *c;
    const char *pinned;

    (void)state;
    c = new_cache("memfile", 3 * GRANULE_BYTES + 100);
    for (uint32_t g = 1; g < 4; g++)
        fill_granule(c, g, 'a');
    pinned = cache_pin(c, 2);
    assert_int_equal(mapped_pages(pinned, 16), 16);
    cache_unpin(c, 2);
    pinned = cache_pin(c, 3);
    assert_int_equal(mapped_pages(pinned, 1), 1);
    cache_unpin(c, 3);
    cache_destroy(c);
}

/*
 * ThreadSanitizer does not see that what is written at one address is read at another. So here is
 * a note beside the granule, plain memory under the same rules.
 */
static struct cache *shared;
static unsigned note;
static _Atomic(bool) read_it;

static void *fill_with_note(void *arg)
{
    void *memory;

    assert_int_equal(reserve(shared, 0, &memory), 0);
    note = 1;
    cache_publish(shared, 0);
    return arg;
}

static void *read_note(void *arg)
{
    assert_non_null(cache_pin(shared, 0));
    assert_int_equal(note, 1);
    atomic_store_explicit(&read_it, true, memory_order_relaxed);
    cache_unpin(shared, 0);
    return arg;
}

static void publishing_comes_before_pinning_and_unpinning_before_closing(void **state)
{
    pthread_t filler, reader;

    (void)state;
    note = 0;
    atomic_store(&read_it, false);
    shared = new_cache("x", GRANULE_BYTES);
    assert_int_equal(thread_start(&filler, "filler", fill_with_note, NULL), 0);
    while (!cache_pin(shared, 0))
        sched_yield();
    assert_int_equal(note, 1);
    cache_unpin(shared, 0);
    assert_int_equal(thread_start(&reader, "reader", read_note, NULL), 0);
    while (!atomic_load_explicit(&read_it, memory_order_relaxed))
        sched_yield();
    assert_int_equal(cache_close(shared), 0);
    note = 2;
    thread_join(filler);
    thread_join(reader);
    cache_destroy(shared);
}

/*
 * Fillers and readers at once. A filler writes its own number all over a granule before it
 * publishes; a reader that gets a pin must see one number throughout.
 */
#define GRANULES 8u
#define ROUNDS   3000u

static void *fill_and_read(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        uint32_t g = (seed * 7 + i * 13) % GRANULES;
        const uint64_t *pinned = cache_pin(shared, g);
        void *memory;

        if (pinned) {
            for (size_t k = 1; k < GRANULE_BYTES / 8; k += 97)
                assert_int_equal(pinned[k], pinned[0]);
            assert_int_equal(pinned[0] % GRANULES, g);
            cache_unpin(shared, g);
        } else if (reserve(shared, g, &memory) == 0) {
            for (size_t k = 0; k < GRANULE_BYTES / 8; k++)
                ((uint64_t *)memory)[k] = (uint64_t)i * GRANULES + g;
            if (i % 3)
                cache_publish(shared, g);
            else
                cache_abandon(shared, g);
        }
    }
    return NULL;
}

static void fillers_and_readers_do_not_meet(void **state)
{
    pthread_t t[4];

    (void)state;
    shared = new_cache("x", GRANULES * GRANULE_BYTES);
    for (uintptr_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "filler", fill_and_read, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        thread_join(t[i]);
    cache_destroy(shared);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(granules_go_through_their_states),
        cmocka_unit_test(memory_is_taken_as_it_is_filled),
        cmocka_unit_test(what_is_abandoned_takes_nothing),
        cmocka_unit_test(its_memory_has_a_name),
        cmocka_unit_test(size_zero_is_a_cache_too),
        cmocka_unit_test(a_read_is_short_at_the_end_and_never_of_what_is_absent),
        cmocka_unit_test(it_is_not_written_to),
        cmocka_unit_test(who_pins_takes_no_faults),
        cmocka_unit_test(publishing_comes_before_pinning_and_unpinning_before_closing),
        cmocka_unit_test(fillers_and_readers_do_not_meet),
    };

    return run_with_each_backing(tests);
}

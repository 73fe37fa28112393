/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/cache.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "base/thread.h"
#include "base/units.h"
#include "unit.h"

static const struct uuid build = {{0x12, 0x34, 0x56, 0x78}};

static void granules_go_through_their_states(void **state)
{
    struct cache *c;
    char *memory;
    void *again;
    const char *pinned;

    (void)state;
    assert_int_equal(cache_create(&build, "memfile", 3 * GRANULE_BYTES + 100, &c, NULL), 0);
    assert_int_equal(cache_granules(c), 4);
    assert_int_equal(cache_granule_bytes(c, 0), GRANULE_BYTES);
    assert_int_equal(cache_granule_bytes(c, 3), 100);
    assert_int_equal(cache_state(c, 1), CACHE_ABSENT);
    assert_null(cache_pin(c, 1));

    assert_int_equal(cache_reserve(c, 1, (void **)&memory), 0);
    assert_int_equal(cache_state(c, 1), CACHE_FILLING);
    assert_int_equal(cache_reserve(c, 1, &again), -EBUSY);
    assert_null(cache_pin(c, 1));
    memset(memory, 'a', GRANULE_BYTES);
    cache_abandon(c, 1);
    assert_int_equal(cache_state(c, 1), CACHE_ABSENT);

    assert_int_equal(cache_reserve(c, 1, (void **)&memory), 0);
    memset(memory, 'b', GRANULE_BYTES);
    cache_publish(c, 1);
    assert_int_equal(cache_state(c, 1), CACHE_READY);
    assert_int_equal(cache_reserve(c, 1, &again), -EALREADY);
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
    void *memory;

    (void)state;
    assert_int_equal(cache_create(&build, "memfile", 8 * GIB, &c, NULL), 0);
    assert_int_equal(cache_allocated_bytes(c), 0);
    assert_int_equal(cache_reserve(c, 100000, &memory), 0);
    memset(memory, 1, GRANULE_BYTES);
    cache_publish(c, 100000);
    assert_int_equal(cache_allocated_bytes(c), GRANULE_BYTES);
    cache_destroy(c);
}

/* The descriptor of our memfd, found as an operator would: by its name. */
static int find_memfd(const char *name)
{
    DIR *d = opendir("/proc/self/fd");
    const struct dirent *entry;
    int found = -1;

    while ((entry = readdir(d)) != NULL) {
        char path[300], target[300] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, target, sizeof(target) - 1) > 0 && strstr(target, name))
            found = atoi(entry->d_name);
    }
    closedir(d);
    return found;
}

static void its_memory_has_a_name_and_seals(void **state)
{
    struct cache *c;
    int fd;

    (void)state;
    assert_int_equal(cache_create(&build, "memfile", GRANULE_BYTES, &c, NULL), 0);
    fd = find_memfd("/memfd:thaw:12345678:memfile");
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 0), -1);
    assert_int_equal(errno, EPERM);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    cache_destroy(c);
    assert_int_equal(find_memfd("/memfd:thaw:"), -1);
}

static void size_zero_is_a_cache_too(void **state)
{
    struct cache *c;

    (void)state;
    assert_int_equal(cache_create(&build, "memfile", 0, &c, NULL), 0);
    assert_int_equal(cache_granules(c), 0);
    assert_int_equal(cache_allocated_bytes(c), 0);
    assert_int_equal(find_memfd("/memfd:thaw:"), -1);
    cache_destroy(c);
    cache_destroy(NULL);
    assert_int_equal(cache_create(&build, "memfile", 17 * TIB, &c, NULL), -EFBIG);
}

/*
 * Fillers and readers at once. A filler writes its own number all over a granule before it
 * publishes; a reader that gets a pin must see one number throughout.
 */
#define GRANULES 8u
#define ROUNDS   3000u

static struct cache *shared;

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
        } else if (cache_reserve(shared, g, &memory) == 0) {
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
    assert_int_equal(cache_create(&build, "x", GRANULES * GRANULE_BYTES, &shared, NULL), 0);
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
        cmocka_unit_test(its_memory_has_a_name_and_seals),
        cmocka_unit_test(size_zero_is_a_cache_too),
        cmocka_unit_test(fillers_and_readers_do_not_meet),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Guests get pages from slots of the pool by UFFDIO_COPY, as the pager installs them: under a pin,
 * by 16 threads at once, while granules of more objects than there is room for come and go, the
 * budget changes and memory is given back. The kernel reads the slot, of which no sanitizer knows;
 * so every word of every page that was installed is compared with what is that object's, that
 * granule's and that place's.
 */
#include "test_cache.h"

#include <sched.h>
#include <stdatomic.h>
#include <sys/mman.h>

#include "base/thread.h"
#include "cache/internal.h"
#include "guest_fixture.h"
#include "huge_fixture.h"

#define BUDGET   (4 * CACHE_BUDGET_MIN)
#define SLOTS    ((uint32_t)(BUDGET / GRANULE_BYTES))
#define OBJECTS  3u
#define GRANULES (4u * SLOTS / OBJECTS) /* of each: together four times the pool */
#define THREADS  16u
#define FILLERS  2u
#define INSTALLS 6000u
#define ROUNDS   8u /* changes of the budget */
#define PAGES    (GRANULE_BYTES / PAGE_BYTES)

static enum huge_pages huge;
static struct cache *objects[OBJECTS];
static _Atomic(unsigned) installed, wrong;
static _Atomic(bool) over;

static uint32_t next(uint32_t *seed)
{
    *seed = *seed * 1664525u + 1013904223u;
    return *seed >> 8;
}

/* No two words of all objects are the same. */
static uint64_t word_of(unsigned object, uint32_t granule, size_t i)
{
    return (uint64_t)(object + 1) << 56 | (uint64_t)granule << 24 | i;
}

static void fetch(unsigned o, uint32_t g, bool demand)
{
    struct cache_room room;
    void *memory;

    if (cache_room_take(caches, 1, demand, &room) < 0)
        return;
    if (cache_reserve(objects[o], g, &room, &memory) == 0) {
        for (size_t i = 0; i < GRANULE_BYTES / sizeof(uint64_t); i++)
            ((uint64_t *)memory)[i] = word_of(o, g, i);
        cache_hold_put(caches, cache_publish(objects[o], g));
    }
    cache_room_put(caches, &room);
}

/* How many words of pages @first to @end are not that granule's. */
static unsigned count_wrong(const struct guest *guest, unsigned o, uint32_t g, uint32_t first,
                            uint32_t end)
{
    const uint64_t *words = (const void *)guest->memory;
    unsigned n = 0;

    for (size_t i = first * (PAGE_BYTES / 8); i < end * (PAGE_BYTES / 8); i++)
        n += words[i] != word_of(o, g, i);
    return n;
}

/* Some pages of a granule that is ready, one by one or together; checked after the pin has ended,
 * when the slot may be another's. */
static void install(const struct guest *guest, unsigned o, uint32_t g, uint32_t *seed)
{
    uint32_t first = next(seed) % PAGES, end = first + 1 + next(seed) % (PAGES - first), step;
    const char *pinned = cache_pin(objects[o], g);
    unsigned failed = 0;

    if (!pinned)
        return;
    step = next(seed) % 2 ? 1 : end - first;
    for (uint32_t page = first; page < end; page += step)
        failed += guest_install(guest, page * PAGE_BYTES, pinned + page * PAGE_BYTES,
                                step * PAGE_BYTES) != 0;
    cache_unpin(objects[o], g);
    failed += count_wrong(guest, o, g, first, end);
    madvise(guest->memory, guest->bytes, MADV_DONTNEED);
    atomic_fetch_add_explicit(&wrong, failed, memory_order_relaxed);
    atomic_fetch_add_explicit(&installed, 1, memory_order_relaxed);
}

static void *serve_a_guest(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;
    struct guest guest;

    guest_init(&guest, GRANULE_BYTES);
    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        unsigned o = next(&seed) % OBJECTS;
        uint32_t g = next(&seed) % GRANULES;

        if (cache_state(objects[o], g) != CACHE_READY)
            fetch(o, g, true);
        /* A page that was not copied would be waited for in vain. */
        if (atomic_load_explicit(&wrong, memory_order_relaxed) == 0)
            install(&guest, o, g, &seed);
    }
    guest_finish(&guest);
    return NULL;
}

/* Reads ahead, so that slots change hands all the time. */
static void *fill(void *arg)
{
    uint32_t seed = (uint32_t)(uintptr_t)arg;

    while (!atomic_load_explicit(&over, memory_order_relaxed)) {
        uint32_t g = next(&seed) % GRANULES;

        for (unsigned i = 0; i < 8; i++)
            fetch(next(&seed) % OBJECTS, (g + i) % GRANULES, false);
        sched_yield();
    }
    return NULL;
}

/* Memory is given back at times; but not huge pages. */
static bool is_going_on(unsigned round, uint64_t given)
{
    bool enough = atomic_load(&installed) >= INSTALLS && round >= ROUNDS &&
                  (given > 0 || huge == HUGE_PAGES_HUGETLB);

    return atomic_load(&wrong) == 0 && !enough;
}

static void guests_get_what_is_theirs(void **state)
{
    struct cache_set_options options = {.backing = backing, .budget_bytes = BUDGET, .huge = huge};
    pthread_t t[THREADS + FILLERS];
    uint64_t given = 0;

    (void)state;
    assert_int_equal(cache_set_create(&options, &caches, NULL), 0);
    for (unsigned o = 0; o < OBJECTS; o++)
        objects[o] = new_cache("x", GRANULES * GRANULE_BYTES);
    for (uintptr_t i = 0; i < THREADS + FILLERS; i++)
        assert_int_equal(
            thread_start(&t[i], "guest", i < THREADS ? serve_a_guest : fill, (void *)(i + 1)), 0);
    for (unsigned round = 0; is_going_on(round, given); round++) {
        assert_int_equal(cache_set_budget(caches, round % 2 ? BUDGET : BUDGET / 2), 0);
        given += cache_set_give_back(caches, round % 4 ? 1 : UINT64_MAX);
        for (unsigned i = 0; i < 4; i++)
            sched_yield();
    }
    atomic_store(&over, true);
    for (unsigned i = 0; i < THREADS + FILLERS; i++)
        thread_join(t[i]);
    assert_int_equal(atomic_load(&wrong), 0);
    assert_true(cache_set_counters(caches).evicted > SLOTS);
    for (unsigned o = 0; o < OBJECTS; o++)
        cache_destroy(objects[o]);
    set_is_empty(caches);
    cache_set_destroy(caches);
}

static int run(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(guests_get_what_is_theirs)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(int argc, char **argv)
{
    if (!guest_is_possible()) {
        printf("skipped: no userfaultfd here\n");
        return 77;
    }
    backing = CACHE_BACKING_TIERED;
    if (argc < 2)
        return run();
    assert_int_equal(huge_pages_parse(argv[1], &huge), 0);
    return huge_run(BUDGET / HUGE_PAGE_BYTES, run);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* The pool of backing `tiered` in huge pages of the host's pool: where it has them, and where it
 * has too few. */
#include "test_cache.h"

#include <fcntl.h>
#include <sys/mman.h>

#include "cache/internal.h"
#include "guest_fixture.h"
#include "huge_fixture.h"
#include "tier_traffic.h"

#define PAGES   16
#define BUDGET  (PAGES / 2 * HUGE_PAGE_BYTES)
#define SLOTS   ((uint32_t)(BUDGET / GRANULE_BYTES))
#define SEGMENT ((uint32_t)(HUGE_PAGE_BYTES / GRANULE_BYTES))
#define OBJECT  (4 * SLOTS)

static int set_up(void **state)
{
    struct cache_set_options options = {
        .backing = backing, .budget_bytes = BUDGET, .huge = HUGE_PAGES_HUGETLB};

    (void)state;
    assert_int_equal(cache_set_create(&options, &caches, NULL), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    set_is_empty(caches);
    cache_set_destroy(caches);
    return 0;
}

static uint64_t huge_bytes(void)
{
    return cache_set_huge_bytes(caches);
}

static void fill(struct cache *c, uint32_t from, uint32_t to)
{
    for (uint32_t g = from; g < to; g++)
        fill_granule(c, g, (char)(g * 7));
}

/* Every granule that is ready, but one, has its bytes; returns how many are. */
static uint32_t check_ready_but(struct cache *c, uint32_t but)
{
    uint32_t ready = 0;

    for (uint32_t g = 0; g < OBJECT; g++) {
        const unsigned char *pinned = g == but ? NULL : cache_pin(c, g);

        if (!pinned)
            continue;
        for (size_t i = 0; i < GRANULE_BYTES; i += 511)
            assert_int_equal(pinned[i], (unsigned char)(g * 7));
        cache_unpin(c, g);
        ready++;
    }
    return ready;
}

static uint32_t check_ready(struct cache *c)
{
    return check_ready_but(c, OBJECT);
}

static void granules_are_in_huge_pages(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    long unused = huge_free();
    char bytes[3 * PAGE_BYTES];

    (void)state;
    assert_int_equal(huge_bytes(), 0); /* they are taken as it fills */
    fill(c, 0, 1);
    assert_int_equal(huge_bytes(), HUGE_PAGE_BYTES);
    fill(c, 1, SLOTS);
    assert_int_equal(huge_bytes(), BUDGET);
    assert_int_equal(huge_free(), unused - PAGES / 2);
    assert_int_equal(pool_bytes(), 0); /* none in small ones */
    assert_int_equal(check_ready(c), SLOTS);
    fill(c, SLOTS, OBJECT); /* evicts */
    assert_int_equal(check_ready(c), SLOTS);
    assert_int_equal(huge_bytes(), BUDGET);
    assert_int_equal(cache_read(c, (OBJECT - 2) * GRANULE_BYTES - PAGE_BYTES, bytes, sizeof(bytes)),
                     sizeof(bytes));
    assert_int_equal((unsigned char)bytes[0], (unsigned char)((OBJECT - 3) * 7));
    assert_int_equal((unsigned char)bytes[PAGE_BYTES], (unsigned char)((OBJECT - 2) * 7));
    cache_destroy(c);
    cache_set_destroy(caches);
    assert_int_equal(huge_free(), unused);
    set_up(state);
}

static void guests_get_pages_from_it(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    static char bytes[GRANULE_BYTES]; /* no page is as another one */
    const char *pinned;
    struct guest g;
    void *memory;

    (void)state;
    guest_init(&g, GRANULE_BYTES);
    fill(c, 0, 39);
    pattern(bytes, 1, 39);
    assert_int_equal(reserve(c, 39, &memory), 0);
    memcpy(memory, bytes, GRANULE_BYTES);
    cache_hold_put(caches, cache_publish(c, 39));
    pinned = cache_pin(c, 39);
    assert_non_null(pinned);
    assert_int_equal(huge_bytes(), 2 * HUGE_PAGE_BYTES);
    assert_int_equal(guest_install(&g, PAGE_BYTES, pinned + PAGE_BYTES, PAGE_BYTES), 0);
    assert_int_equal(
        guest_install(&g, 2 * PAGE_BYTES, pinned + 2 * PAGE_BYTES, GRANULE_BYTES - 2 * PAGE_BYTES),
        0);
    assert_memory_equal(g.memory + PAGE_BYTES, bytes + PAGE_BYTES, GRANULE_BYTES - PAGE_BYTES);
    assert_int_equal(check_ready_but(c, 39), 39);
    cache_unpin(c, 39);
    cache_destroy(c);
    guest_finish(&g);
}

/* As the disk tier and the store do. */
static void direct_reads_go_into_it(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    char *folder = scratch_make(), *path = scratch_path(folder, "data");
    static char bytes[GRANULE_BYTES];
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600), direct;
    const char *pinned;
    void *memory;

    (void)state;
    pattern(bytes, 2, 5);
    fill(c, 0, 5);
    assert_int_equal(write(fd, bytes, sizeof(bytes)), sizeof(bytes));
    assert_int_equal(fsync(fd), 0);
    direct = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);
    if (direct >= 0) { /* not every file system has it */
        assert_int_equal(reserve(c, 5, &memory), 0);
        assert_int_equal(pread(direct, memory, GRANULE_BYTES, 0), GRANULE_BYTES);
        cache_hold_put(caches, cache_publish(c, 5));
        assert_int_equal(huge_bytes(), HUGE_PAGE_BYTES);
        pinned = cache_pin(c, 5);
        assert_memory_equal(pinned, bytes, GRANULE_BYTES);
        cache_unpin(c, 5);
        assert_int_equal(check_ready_but(c, 5), 5);
        close(direct);
    }
    close(fd);
    cache_destroy(c);
    free(path);
    scratch_remove(folder);
    if (direct < 0)
        skip();
}

/* Blocks of overlays, too; and when the host has only three, the rest is small pages. */
static void too_few_are_no_error(void **state)
{
    struct cache *c, *overlay;
    char block[PAGE_BYTES];
    size_t bytes;
    void *taken = huge_take_all_but(3, &bytes);

    (void)state;
    assert_ptr_not_equal(taken, MAP_FAILED);
    c = new_cache("x", OBJECT * GRANULE_BYTES);
    overlay = new_overlay("y", 8 * MIB);
    memset(block, 'o', sizeof(block));
    for (uint64_t off = 0; off < 5 * MIB; off += sizeof(block))
        assert_int_equal(cache_write(overlay, off, block, sizeof(block)), 0);
    assert_int_equal(huge_bytes(), 2 * 3 * MIB);
    fill(c, 0, OBJECT);
    assert_int_equal(huge_bytes(), 2 * 3 * MIB);
    assert_int_equal(huge_free(), 0);
    assert_int_equal(pool_bytes(), BUDGET - 6 * MIB);
    assert_int_equal(check_ready(c), SLOTS - 5 * MIB / GRANULE_BYTES);
    munmap(taken, bytes);
    assert_int_equal(cache_set_budget(caches, 2 * BUDGET), 0);
    fill(c, 0, SLOTS); /* no more are asked for */
    assert_int_equal(huge_bytes(), 2 * 3 * MIB);
    for (uint64_t off = 0; off < 5 * MIB; off += sizeof(block)) {
        assert_int_equal(cache_read(overlay, off, block, sizeof(block)), sizeof(block));
        assert_int_equal(block[off / PAGE_BYTES % PAGE_BYTES], 'o');
    }
    cache_destroy(c);
    cache_destroy(overlay);
}

static void none_is_no_error(void **state)
{
    struct cache *c;
    size_t bytes;
    void *taken = huge_take_all_but(0, &bytes);

    (void)state;
    assert_ptr_not_equal(taken, MAP_FAILED);
    c = new_cache("x", OBJECT * GRANULE_BYTES);
    fill(c, 0, OBJECT);
    assert_int_equal(huge_bytes(), 0);
    assert_int_equal(pool_bytes(), BUDGET);
    assert_int_equal(check_ready(c), SLOTS);
    assert_true(cache_set_give_back(caches, UINT64_MAX) > 0);
    assert_true(pool_bytes() < (int64_t)BUDGET);
    check_ready(c);
    cache_destroy(c);
    munmap(taken, bytes);
}

static void a_lower_budget_gives_whole_segments(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    const unsigned char *pinned;
    long unused = huge_free();

    (void)state;
    fill(c, 0, SLOTS);
    pinned = cache_pin(c, 2 * SEGMENT + 7);
    assert_non_null(pinned);
    assert_int_equal(cache_set_give_back(caches, UINT64_MAX), 0); /* it would help nobody */
    assert_int_equal(huge_bytes(), BUDGET);

    assert_int_equal(cache_set_budget(caches, CACHE_BUDGET_MIN), 0);
    assert_int_equal(huge_bytes(), CACHE_BUDGET_MIN);
    assert_int_equal(huge_free(), unused - (long)(CACHE_BUDGET_MIN / HUGE_PAGE_BYTES));
    for (size_t i = 0; i < GRANULE_BYTES; i++)
        assert_int_equal(pinned[i], (unsigned char)((2 * SEGMENT + 7) * 7));
    cache_unpin(c, 2 * SEGMENT + 7);
    check_ready(c);

    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    fill(c, SLOTS, 3 * SLOTS); /* where it was, in small pages */
    assert_int_equal(check_ready(c), SLOTS);
    assert_int_equal(huge_bytes() + (uint64_t)pool_bytes(), BUDGET);
    cache_destroy(c);
}

/* One slot that is in use keeps a segment, until it is put. */
static void what_is_in_use_keeps_its_segment(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    struct cache_room rooms[PAGES / 2];

    (void)state;
    for (unsigned i = 0; i < PAGES / 2; i++) { /* one of each */
        fill(c, i * SEGMENT, (i + 1) * SEGMENT - 1);
        assert_int_equal(cache_room_take(caches, 1, true, &rooms[i]), 0);
    }
    assert_int_equal(huge_bytes(), BUDGET);
    assert_int_equal(cache_set_budget(caches, CACHE_BUDGET_MIN), 0);
    assert_int_equal(huge_bytes(), BUDGET);
    for (unsigned i = 0; i < PAGES / 2; i++) {
        cache_room_put(caches, &rooms[i]);
        assert_int_equal(huge_bytes(), MAX(BUDGET - (i + 1) * HUGE_PAGE_BYTES, CACHE_BUDGET_MIN));
    }
    check_ready(c);
    cache_destroy(c);
}

/* Room that is put is of two segments; pins keep the others. */
static void all_that_is_put_is_given(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    struct cache_room room;

    (void)state;
    fill(c, 0, SLOTS - 2 * SEGMENT);
    assert_int_equal(cache_room_take(caches, 2 * SEGMENT, true, &room), 0);
    for (uint32_t g = 0; g < SLOTS - 2 * SEGMENT; g += SEGMENT)
        assert_non_null(cache_pin(c, g));
    assert_int_equal(cache_set_budget(caches, CACHE_BUDGET_MIN), 0);
    assert_int_equal(huge_bytes(), BUDGET);
    cache_room_put(caches, &room);
    assert_int_equal(huge_bytes(), BUDGET - 2 * HUGE_PAGE_BYTES);
    for (uint32_t g = 0; g < SLOTS - 2 * SEGMENT; g += SEGMENT)
        cache_unpin(c, g);
    check_ready(c);
    cache_destroy(c);
}

/* A budget that is no whole number of huge pages is kept: the rest is small pages. */
static void the_budget_is_kept(void **state)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);
    uint64_t budget = CACHE_BUDGET_MIN + 5 * GRANULE_BYTES;

    (void)state;
    assert_int_equal(cache_set_budget(caches, budget), 0);
    fill(c, 0, OBJECT / 2);
    assert_int_equal(huge_bytes(), CACHE_BUDGET_MIN);
    assert_int_equal(pool_bytes(), 5 * GRANULE_BYTES);
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    fill(c, OBJECT / 2, OBJECT); /* that segment is used up, and then huge pages again */
    assert_int_equal(pool_bytes(), HUGE_PAGE_BYTES);
    assert_int_equal(huge_bytes(), BUDGET - HUGE_PAGE_BYTES);
    assert_int_equal(check_ready(c), SLOTS);
    cache_destroy(c);
}

static int run(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(granules_are_in_huge_pages),
        TEST(guests_get_pages_from_it),
        TEST(direct_reads_go_into_it),
        TEST(too_few_are_no_error),
        TEST(none_is_no_error),
        TEST(a_lower_budget_gives_whole_segments),
        TEST(what_is_in_use_keeps_its_segment),
        TEST(all_that_is_put_is_given),
        TEST(the_budget_is_kept),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

int main(void)
{
    if (!guest_is_possible()) {
        printf("skipped: no userfaultfd here\n");
        return 77;
    }
    backing = CACHE_BACKING_TIERED;
    return huge_run(PAGES, run);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pool of backing `tiered` in transparent huge pages: that it is, and that no more is allocated
 * than the budget when parts of them are given back.
 */
#include "cache_pool_fixture.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1: madvise(2) */
#endif

#define SEGMENT  ((uint32_t)(HUGE_PAGE_BYTES / GRANULE_BYTES))
#define SEGMENTS (4 * SLOTS / SEGMENT)

static uint64_t huge_bytes(void)
{
    return cache_set_huge_bytes(caches);
}

static char *slot_at(uint32_t slot)
{
    return caches->pool->memory + slot * GRANULE_BYTES;
}

/* Skips where the kernel gives none, which is its right. */
static struct cache *fill_huge(void)
{
    struct cache *c = new_cache("x", OBJECT * GRANULE_BYTES);

    assert_int_equal(cache_set_budget(caches, 4 * BUDGET), 0);
    fill(c, 0, 4 * SLOTS);
    if (huge_bytes() < 4 * BUDGET) {
        cache_destroy(c);
        printf("skipped: %llu of %llu bytes are in huge pages\n", (unsigned long long)huge_bytes(),
               (unsigned long long)(4 * BUDGET));
        skip();
    }
    return c;
}

static uint64_t read_entry(const char *path, uint64_t index)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    uint64_t entry = 0;

    if (fd < 0 || pread(fd, &entry, sizeof(entry), (off_t)(index * sizeof(entry))) < 0)
        entry = 0;
    if (fd >= 0)
        close(fd);
    return entry;
}

/* Bits 15 and 16 of kpageflags say that a page is of a compound one, by the number of the page that
 * pagemap has, for root: proc(5), Documentation/admin-guide/mm/pagemap.rst. */
static bool is_compound(const char *at)
{
    uint64_t entry = read_entry("/proc/self/pagemap", (uintptr_t)at / PAGE_BYTES);
    uint64_t page = entry & ((UINT64_C(1) << 55) - 1);

    if (page == 0)
        skip();
    return read_entry("/proc/kpageflags", page) & (UINT64_C(3) << 15);
}

/* Whether khugepaged leaves it alone: flag "nh" of its mapping. */
static bool stays_small(const char *at)
{
    FILE *f = fopen("/proc/self/smaps", "re");
    bool inside = false, found = false;
    unsigned long from, to;
    char line[512];

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from <= (uintptr_t)at && (uintptr_t)at < to;
        else if (inside && strncmp(line, "VmFlags:", 8) == 0)
            found = strstr(line, " nh ");
    }
    fclose(f);
    return found;
}

static void memory_is_in_huge_pages(void **state)
{
    struct cache *c = fill_huge();

    (void)state;
    assert_int_equal(huge_bytes(), 4 * BUDGET);
    assert_int_equal(pool_bytes(), 4 * BUDGET);
    assert_true(is_compound(slot_at(5)));
    for (uint32_t g = 0; g < 4 * SLOTS; g++)
        use(c, g);
    cache_destroy(c);
}

static void off_has_none(void **state)
{
    struct cache *c;

    (void)state;
    tear_down(state);
    pages_of_pool = HUGE_PAGES_OFF;
    set_up(state);
    pages_of_pool = HUGE_PAGES_THP;
    c = new_cache("x", OBJECT * GRANULE_BYTES);
    fill(c, 0, SLOTS);
    assert_int_equal(huge_bytes(), 0);
    assert_int_equal(pool_bytes(), BUDGET);
    cache_destroy(c);
}

/* Of each segment one granule is pinned: it is split, and the rest of it is really free. */
static void a_part_is_split_off(void **state)
{
    struct cache *c = fill_huge();
    uint32_t split = 0;

    (void)state;
    for (uint32_t g = 0; g < 4 * SLOTS; g += SEGMENT)
        assert_non_null(cache_pin(c, g));
    assert_true(is_compound(slot_at(SEGMENT)));
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_in_range((uint64_t)pool_bytes(), BUDGET - HUGE_PAGE_BYTES, BUDGET);
    for (uint32_t g = 0; g < 4 * SLOTS; g += SEGMENT) {
        use(c, g);
        cache_unpin(c, g);
        if (ready(c, g + 1))
            continue; /* nothing of it was given back, or not this */
        assert_false(is_compound(slot_at(g)));
        split++;
    }
    assert_true(split >= SEGMENTS / 2);
    cache_destroy(c);
}

static uint32_t resident_pages(uint32_t segment)
{
    unsigned char pages[HUGE_PAGE_BYTES / PAGE_BYTES];
    uint32_t n = 0;

    assert_int_equal(mincore(slot_at(segment * SEGMENT), HUGE_PAGE_BYTES, pages), 0);
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++)
        n += pages[i] & 1;
    return n;
}

/* The kernel may add nothing to a segment of which a part has no memory. Returns how many there
 * are.
 */
static uint32_t check_parts(void)
{
    uint32_t parts = 0;

    for (uint32_t s = 0; s < 2 * SEGMENTS; s++) {
        uint32_t pages = resident_pages(s);

        if (pages == HUGE_PAGE_BYTES / PAGE_BYTES)
            continue;
        assert_true(stays_small(slot_at(s * SEGMENT)));
        parts += pages > 0;
    }
    return parts;
}

/* So it looks at all segments. */
static void restart_thread(void)
{
    pool_thp_stop(caches->pool);
    caches->pool->thp.stop = false;
    pool_thp_start(caches->pool);
}

/* What was split stays small: growing again takes no more memory than slots are used. */
static void what_was_split_stays_small(void **state)
{
    struct cache *c = fill_huge();

    (void)state;
    for (uint32_t s = 0; s < SEGMENTS; s++)
        assert_non_null(cache_pin(c, s * SEGMENT));
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    for (uint32_t s = 0; s < SEGMENTS; s++)
        cache_unpin(c, s * SEGMENT);
    assert_true(check_parts() >= SEGMENTS / 2);
    restart_thread();
    for (unsigned i = 0; i < 100; i++) { /* nor does the thread merge it */
        poll(NULL, 0, 1);
        assert_true(check_parts() >= SEGMENTS / 2);
    }
    for (uint64_t budget = BUDGET; budget <= 4 * BUDGET; budget += 5 * GRANULE_BYTES) {
        assert_int_equal(cache_set_budget(caches, budget), 0);
        fill(c, 0, OBJECT);
        assert_int_equal(pool_bytes(), budget);
        check_parts();
    }
    for (uint32_t g = 0; g < OBJECT; g++) {
        if (ready(c, g))
            use(c, g);
    }
    cache_destroy(c);
}

/* Whatever else is given back at the same time. */
static void a_pin_splits_one_segment(void **state)
{
    struct cache *c = fill_huge();

    (void)state;
    assert_non_null(cache_pin(c, 7));
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_int_equal(check_parts(), 1);
    cache_unpin(c, 7);
    cache_destroy(c);
}

/* What was taken faster than the thread makes it: here without a thread. */
static void small_pages_are_merged(void **state)
{
    struct cache *c = fill_huge();
    struct pool *p = caches->pool;

    (void)state;
    if (madvise(slot_at(0), HUGE_PAGE_BYTES, MADV_COLLAPSE) < 0 && errno == EINVAL) {
        cache_destroy(c);
        printf("skipped: this kernel has no MADV_COLLAPSE\n");
        skip();
    }
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    pool_thp_stop(p);
    assert_int_equal(cache_set_budget(caches, 4 * BUDGET), 0);
    for (uint32_t g = 0; g < 4 * SLOTS; g++) {
        if (!ready(c, g))
            fill_granule(c, g, (char)g);
    }
    assert_int_equal(pool_bytes(), 4 * BUDGET);
    assert_in_range(huge_bytes(), 0, 2 * BUDGET);
    p->thp.stop = false;
    pool_thp_start(p);
    for (unsigned i = 0; i < 6000 && huge_bytes() < 4 * BUDGET; i++)
        poll(NULL, 0, 10);
    assert_int_equal(huge_bytes(), 4 * BUDGET);
    assert_int_equal(pool_bytes(), 4 * BUDGET);
    for (uint32_t g = 0; g < 4 * SLOTS; g++)
        use(c, g);
    cache_destroy(c);
}

/* A whole segment comes back as a huge page. */
static void what_was_given_back_whole_is_huge_again(void **state)
{
    struct cache *c = fill_huge();

    (void)state;
    assert_int_equal(cache_set_budget(caches, BUDGET), 0);
    assert_int_equal(pool_bytes(), BUDGET);
    assert_int_equal(cache_set_budget(caches, 4 * BUDGET), 0);
    fill(c, 0, 4 * SLOTS);
    assert_int_equal(pool_bytes(), 4 * BUDGET);
    assert_true(huge_bytes() >= 3 * BUDGET); /* of a kernel that may have run short meanwhile */
    cache_destroy(c);
}

/* Else a child of fork(2) and this process would each have a copy of what is written next. */
static void a_child_has_none_of_it(void **state)
{
    struct cache *c = fill_huge();
    unsigned char page;
    int status;
    pid_t child = fork();

    (void)state;
    if (child == 0)
        _exit(mincore(slot_at(0), PAGE_BYTES, &page) < 0 && errno == ENOMEM ? 0 : 1);
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
    cache_destroy(c);
}

/* Bytes, by the first number of statm: proc(5). */
static uint64_t address_space(void)
{
    FILE *f = fopen("/proc/self/statm", "re");
    unsigned long pages = 0;

    assert_non_null(f);
    assert_int_equal(fscanf(f, "%lu", &pages), 1);
    fclose(f);
    return pages * PAGE_BYTES;
}

/* Where address space is limited, there is room for this budget, and none for a larger one. */
static void address_space_may_be_short(void **state)
{
    struct cache_set_options options = {.backing = CACHE_BACKING_TIERED, .budget_bytes = BUDGET};
    struct rlimit before, limit = {GIB, GIB};
    struct cache *c;
    int r;

    (void)state;
    tear_down(state);
    if (address_space() > GIB / 2) { /* that of a sanitizer is terabytes */
        set_up(state);
        skip();
    }
    assert_int_equal(getrlimit(RLIMIT_AS, &before), 0);
    limit.rlim_max = before.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_AS, &limit), 0);
    r = cache_set_create(&options, &caches, NULL);
    setrlimit(RLIMIT_AS, &before);
    assert_int_equal(r, 0);
    c = new_cache("x", OBJECT * GRANULE_BYTES);
    fill(c, 0, OBJECT);
    assert_int_equal(pool_bytes(), BUDGET);
    assert_int_equal(cache_set_budget(caches, 2 * BUDGET), 0);
    fill(c, 0, OBJECT);
    assert_int_equal(pool_bytes(), BUDGET);
    cache_destroy(c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(memory_is_in_huge_pages),
        TEST(off_has_none),
        TEST(a_part_is_split_off),
        TEST(what_was_split_stays_small),
        TEST(a_pin_splits_one_segment),
        TEST(small_pages_are_merged),
        TEST(what_was_given_back_whole_is_huge_again),
        TEST(a_child_has_none_of_it),
        TEST(address_space_may_be_short),
    };

    pages_of_pool = HUGE_PAGES_THP;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

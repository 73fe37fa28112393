/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The pager against a kernel that says what the test wants: the cases that a real one produces
 * only by chance.
 */
#include "pager_fixture.h"

static void a_fault_gets_its_page(void **state)
{
    static const unsigned pages[] = {0, 1, 99, 200, 2999, 3000, PAGES - 1};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(pages); i++) {
        fault(pages[i]);
        assert_int_equal(fake.copies, i + 1);
        assert_int_equal(fake.last, address(pages[i]));
        assert_memory_equal(fake.first, content + pages[i] * PAGE_BYTES, sizeof(fake.first));
    }
    assert_int_equal(counters.pages, ARRAY_SIZE(pages));
    assert_int_equal(counters.data_bytes, ARRAY_SIZE(pages) * PAGE_BYTES);
    /* 0 and 1 share a granule. */
    assert_int_equal(counters.from_store + counters.from_ram, ARRAY_SIZE(pages));
    assert_true(counters.from_ram >= 1);
}

static void zeros_are_not_copied(void **state)
{
    (void)state;
    fault(150);
    assert_int_equal(fake.zeros, 1);
    assert_int_equal(fake.copies, 0);
    assert_int_equal(counters.from_zero, 1);
}

static void a_remove_in_the_batch_comes_first(void **state)
{
    (void)state;
    /* As the kernel hands them out: the fault before the REMOVE that preceded it. */
    event_fault(5);
    event_remove(4, 3);
    turn();
    assert_int_equal(fake.copies, 0);
    assert_int_equal(fake.zeros, 1);
    assert_int_equal(counters.from_removed, 1);
    fault(7);
    assert_int_equal(fake.copies, 1);
}

static void a_remove_overtakes_a_fetch(void **state)
{
    (void)state;
    event_fault(40);
    pager_serve(&pager);
    assert_int_equal(pager_waits_out(&pager), 1);
    event_remove(40, 1);
    pager_serve(&pager);
    settle();
    assert_int_equal(fake.copies, 0);
    assert_int_equal(fake.zeros, 1);
}

static void a_remove_may_span_regions_and_gaps(void **state)
{
    (void)state;
    fake.events[fake.event_count++] = (struct uffd_msg){.event = UFFD_EVENT_REMOVE,
                                                        .arg.remove.start = 0,
                                                        .arg.remove.end = UINT64_MAX & ~0xfffull};
    turn();
    fault(0);
    fault(PAGES - 1);
    assert_int_equal(fake.zeros, 2);
    assert_int_equal(fake.copies, 0);
}

static void removed_once_is_zero_for_ever(void **state)
{
    (void)state;
    fault(9);
    assert_int_equal(fake.copies, 1);
    event_remove(9, 1);
    fault(9);
    fault(9);
    assert_int_equal(fake.copies, 1);
    assert_int_equal(fake.zeros, 2);
    assert_int_equal(counters.pages, 1); /* counted once */
}

static void an_installed_page_is_installed_again(void **state)
{
    (void)state;
    fault(9);
    fault(9);
    assert_int_equal(fake.copies, 2);
    assert_int_equal(counters.pages, 1);
}

static void already_there_means_wake(void **state)
{
    (void)state;
    fake.answer = -EEXIST;
    fake.answer_left = 1;
    fault(9);
    assert_int_equal(fake.wakes, 1);
    assert_int_equal(counters.pages, 1);
    assert_false(pager_has_put_off(&pager));
}

static void put_off_means_try_again(void **state)
{
    (void)state;
    fake.answer = -EAGAIN;
    fake.answer_left = 3;
    fault(9);
    assert_true(pager_has_put_off(&pager));
    assert_int_equal(counters.pages, 0);
    while (pager_has_put_off(&pager))
        pager_work(&pager);
    assert_int_equal(fake.copies, 4);
    assert_int_equal(fake.last, address(9));
    assert_int_equal(counters.pages, 1);
    assert_int_equal(counters.retries, 3);
}

static void put_off_by_a_remove_of_the_page(void **state)
{
    (void)state;
    fault(16); /* brings the granule */
    fake.answer = -EAGAIN;
    fake.answer_left = 1;
    event_fault(17);
    pager_serve(&pager);
    event_remove(17, 1);
    turn();
    assert_false(pager_has_put_off(&pager));
    assert_int_equal(fake.zeros, 1);
    assert_int_equal(fake.copies, 2);
}

static void nothing_put_off_is_forgotten(void **state)
{
    (void)state;
    /* More pages than the list of deferred ones holds. All are removed: no fetch is needed. */
    event_remove(0, PAGES / 2);
    event_remove(PAGES / 2, PAGES / 2);
    turn();
    fake.answer = -EAGAIN;
    fake.answer_left = UINT32_MAX;
    for (unsigned page = 0; page < PAGES; page++) {
        event_fault(page);
        if (fake.event_count == PAGER_EVENTS) {
            fake.answer_left = UINT32_MAX;
            turn();
        }
    }
    turn();
    assert_true(pager.put_off.overflow);
    fake.answer_left = 0;
    for (unsigned i = 0; i < 3; i++)
        pager_work(&pager);
    assert_false(pager_has_put_off(&pager));
    assert_int_equal(counters.pages, PAGES);
}

static void a_range_that_is_gone_is_dropped(void **state)
{
    (void)state;
    fake.answer = -ENOENT;
    fake.answer_left = 1;
    fault(9);
    assert_false(pager_has_put_off(&pager));
    assert_false(pager.gone);
    assert_int_equal(fake.poisons, 0);
    assert_int_equal(fake.wakes, 1); /* who waited there must not wait for ever */
}

static void a_vm_that_is_gone_ends_it(void **state)
{
    (void)state;
    fake.answer = -ESRCH;
    fake.answer_left = 1;
    fault(9);
    assert_true(pager.gone);
    fault(10);
    assert_int_equal(fake.copies, 1);
}

static void what_cannot_be_installed_is_poisoned(void **state)
{
    (void)state;
    fake.answer = -ENOMEM;
    fake.answer_left = 1;
    fault(9);
    assert_int_equal(fake.poisons, 1);
    assert_int_equal(fake.last, address(9));
    assert_int_equal(counters.failure, -ENOMEM);
    assert_int_equal(counters.failure_at, 9 * PAGE_BYTES);
    assert_false(pager.kill);
}

static void bytes_that_do_not_verify_are_poisoned(void **state)
{
    (void)state;
    build_fixture_flip(&build, "memfile", 7);
    fault(3);
    build_fixture_flip(&build, "memfile", 7);
    assert_int_equal(fake.copies, 0);
    assert_int_equal(fake.zeros, 0);
    assert_int_equal(fake.poisons, 1);
    assert_int_equal(counters.failure, -EBADMSG);
    assert_int_equal(counters.failed, 1);
    /* Poison is put off like any install, and is not given up. */
    fake.poison_answer = -EAGAIN;
    fault(3);
    assert_true(pager_has_put_off(&pager));
    fake.poison_answer = 0;
    pager_work(&pager);
    assert_false(pager_has_put_off(&pager));
    assert_int_equal(counters.failed, 1);
}

/* A guest may die of the poison before this thread does anything more, and thaw is asked why. */
static void why_is_known_before_the_poison(void **state)
{
    (void)state;
    build_fixture_flip(&build, "memfile", 7);
    fault(3);
    build_fixture_flip(&build, "memfile", 7);
    assert_int_equal(fake.poisons, 1);
    assert_int_equal(fake.told, 1);
    assert_int_equal(fake.told_why, -EBADMSG);
    /* The first reason is kept, whatever comes after it. */
    fake.events[fake.event_count++] = (struct uffd_msg){.event = UFFD_EVENT_PAGEFAULT,
                                                        .arg.pagefault.address = BASE - PAGE_BYTES};
    turn();
    assert_int_equal(fake.poisons, 2);
    assert_int_equal(fake.told, 2);
    assert_int_equal(fake.told_why, -EBADMSG);
    assert_int_equal(counters.failure_at, 3 * PAGE_BYTES);
}

/* The same, where the first page that fails is one that nobody knows. */
static void why_is_known_before_a_stranger_is_poisoned(void **state)
{
    (void)state;
    fake.events[fake.event_count++] = (struct uffd_msg){.event = UFFD_EVENT_PAGEFAULT,
                                                        .arg.pagefault.address = BASE - PAGE_BYTES};
    turn();
    assert_int_equal(fake.poisons, 1);
    assert_int_equal(fake.told, 1);
    assert_int_equal(fake.told_why, -EPROTO);
}

static void without_poison_the_vm_must_die(void **state)
{
    (void)state;
    fake.answer = -ENOMEM;
    fake.answer_left = 1;
    fake.poison_answer = -EOPNOTSUPP;
    fault(9);
    assert_true(pager.kill);
}

static void an_address_that_was_never_announced_is_poisoned(void **state)
{
    (void)state;
    fake.events[fake.event_count++] = (struct uffd_msg){.event = UFFD_EVENT_PAGEFAULT,
                                                        .arg.pagefault.address = BASE - PAGE_BYTES};
    turn();
    assert_int_equal(fake.poisons, 1);
    assert_int_equal(counters.failure, -EPROTO);
    assert_int_equal(counters.failed, 1);
    assert_int_equal(fake.copies + fake.zeros, 0);
    assert_int_equal(fake.wakes, 0);
    /* While a REMOVE is unread, or when another thread was there first: they fault again. */
    for (unsigned i = 0; i < 2; i++) {
        fake.poison_answer = i == 0 ? -EAGAIN : -EEXIST;
        fake.events[fake.event_count++] = (struct uffd_msg){
            .event = UFFD_EVENT_PAGEFAULT, .arg.pagefault.address = BASE - PAGE_BYTES};
        turn();
        assert_int_equal(fake.wakes, i + 1);
        assert_int_equal(counters.failed, 1); /* not before that */
    }
    assert_false(pager.kill);
}

static void more_faults_than_waits(void **state)
{
    unsigned faults = 0;

    (void)state;
    /* A page in every granule twice over: more fetches than one pager may have out. */
    for (unsigned round = 0; round < 2; round++) {
        for (unsigned page = 200 + round; page < PAGES; page += 9) {
            event_fault(page);
            faults++;
            if (fake.event_count == PAGER_EVENTS)
                pager_serve(&pager);
        }
    }
    pager_serve(&pager);
    settle();
    while (pager_has_work(&pager)) {
        pager_work(&pager);
        settle();
    }
    assert_true(faults > PAGER_WAITS);
    assert_int_equal(counters.pages, faults);
}

/* 2 MiB pages: the population takes its turn, it does not queue every page before the faults. */
static void a_population_leaves_room_for_faults(void **state)
{
    uint64_t bytes = PAGES * PAGE_BYTES;
    struct handover_region r = {{BASE}, bytes, {0}};
    struct handover h = {.regions = &r, .region_count = 1, .page_bytes = 2 * MIB};

    (void)state;
    pager_finish(&pager);
    populate = true;
    assert_int_equal(init(&pager, &h, NULL), 0);
    populate = false;
    while (pager_has_work(&pager))
        pager_work(&pager);
    assert_false(pager.populated);
    assert_int_equal(pager.starved.count, 0);
    assert_int_equal(assemblies_free(&pager), 1);
    fake.events[fake.event_count++] =
        (struct uffd_msg){.event = UFFD_EVENT_PAGEFAULT, .arg.pagefault.address = BASE + bytes - 1};
    pager_serve(&pager);
    assert_int_equal(pager.starved.count, 0);
    for (settle(); pager_has_work(&pager); settle())
        pager_work(&pager);
    assert_true(pager.populated);
    assert_int_equal(counters.pages, bytes / PAGE_BYTES);
}

static void many_starved_pages_are_not_polled_for(void **state)
{
    struct pager_wait *waits = pager.free_waits;

    (void)state;
    pager.free_waits = NULL;
    for (unsigned page = 200; page < 200 + PAGER_QUEUE + 100; page++) {
        event_fault(page);
        if (fake.event_count == PAGER_EVENTS)
            pager_serve(&pager);
    }
    pager_serve(&pager);
    assert_true(pager.starved.overflow);
    pager_work(&pager);
    assert_false(pager_has_put_off(&pager)); /* nothing to do before a wait comes back */
    assert_false(pager_has_work(&pager));
    pager.free_waits = waits;
    pager.freed = true;
    for (; pager_has_work(&pager) || pager_has_put_off(&pager); settle())
        pager_work(&pager);
    assert_int_equal(counters.pages, PAGER_QUEUE + 100);
}

static void a_write_to_a_protected_page_is_let_through(void **state)
{
    (void)state;
    fault(9);
    event_fault(9);
    fake.events[0].arg.pagefault.flags = UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE;
    turn();
    assert_int_equal(fake.unprotects, 1);
    assert_int_equal(fake.last, address(9));
    assert_int_equal(fake.copies, 1);
    assert_int_equal(counters.faults, 1);
    /* Not while a REMOVE is unread: woken, it faults again. */
    fake.answer = -EAGAIN;
    fake.answer_left = 1;
    event_fault(9);
    fake.events[0].arg.pagefault.flags = UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE;
    turn();
    assert_int_equal(fake.wakes, 1);
    assert_false(pager.kill);
}

static void regions_must_fit(void **state)
{
    struct handover_region r = {{BASE}, PAGES * PAGE_BYTES, {PAGE_BYTES}};
    struct handover h = {.regions = &r, .region_count = 1, .page_bytes = PAGE_BYTES};
    struct thaw_error e = THAW_ERROR_INIT;
    struct pager other;

    (void)state;
    assert_int_equal(init(&other, &h, &e), -EPROTO);
    assert_non_null(strstr(e.text, "does not fit"));
}

static void regions_must_not_share(void **state)
{
    struct handover_region regions[] = {
        {{BASE}, 2 * PAGE_BYTES, {PAGE_BYTES}},
        {{BASE + GAP}, 2 * PAGE_BYTES, {0}},
    };
    struct handover h = {.regions = regions, .region_count = 2, .page_bytes = PAGE_BYTES};
    struct thaw_error e = THAW_ERROR_INIT;
    struct pager other;

    (void)state;
    assert_int_equal(init(&other, &h, &e), -EPROTO);
    assert_non_null(strstr(e.text, "two of the VMM's regions hold byte 4096 "));
    regions[0].offset.v = 2 * PAGE_BYTES;
    regions[0].size_bytes = (PAGES - 2) * PAGE_BYTES;
    assert_int_equal(init(&other, &h, NULL), 0);
    pager_finish(&other);
}

static void regions_must_hold_everything(void **state)
{
    const uint64_t all = PAGES * PAGE_BYTES;
    const struct {
        struct handover_region regions[2];
        const char *text;
    } cases[] = {
        {{{{BASE}, PAGE_BYTES, {PAGE_BYTES}},
          {{BASE + GAP}, all - 2 * PAGE_BYTES, {2 * PAGE_BYTES}}},
         "holds byte 0 "},
        {{{{BASE}, PAGE_BYTES, {0}}, {{BASE + GAP}, all - 2 * PAGE_BYTES, {2 * PAGE_BYTES}}},
         "holds byte 4096 "},
        {{{{BASE}, PAGE_BYTES, {0}}, {{BASE + GAP}, all - 2 * PAGE_BYTES, {PAGE_BYTES}}},
         "holds byte 25161728 "},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        struct handover_region regions[2] = {cases[i].regions[0], cases[i].regions[1]};
        struct handover h = {.regions = regions, .region_count = 2, .page_bytes = PAGE_BYTES};
        struct thaw_error e = THAW_ERROR_INIT;
        struct pager other;

        assert_int_equal(init(&other, &h, &e), -EPROTO);
        assert_non_null(strstr(e.text, cases[i].text));
    }
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_fault_gets_its_page),
        TEST(zeros_are_not_copied),
        TEST(a_remove_in_the_batch_comes_first),
        TEST(a_remove_overtakes_a_fetch),
        TEST(a_remove_may_span_regions_and_gaps),
        TEST(removed_once_is_zero_for_ever),
        TEST(an_installed_page_is_installed_again),
        TEST(already_there_means_wake),
        TEST(put_off_means_try_again),
        TEST(put_off_by_a_remove_of_the_page),
        TEST(nothing_put_off_is_forgotten),
        TEST(a_range_that_is_gone_is_dropped),
        TEST(a_vm_that_is_gone_ends_it),
        TEST(what_cannot_be_installed_is_poisoned),
        TEST(bytes_that_do_not_verify_are_poisoned),
        TEST(why_is_known_before_the_poison),
        TEST(why_is_known_before_a_stranger_is_poisoned),
        TEST(without_poison_the_vm_must_die),
        TEST(an_address_that_was_never_announced_is_poisoned),
        TEST(more_faults_than_waits),
        TEST(a_population_leaves_room_for_faults),
        TEST(a_write_to_a_protected_page_is_let_through),
        TEST(many_starved_pages_are_not_polled_for),
        TEST(regions_must_fit),
        TEST(regions_must_not_share),
        TEST(regions_must_hold_everything),
    };

    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}

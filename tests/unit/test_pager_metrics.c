/* SPDX-License-Identifier: Apache-2.0 */

/* What the pager records of faults, and of those that it cannot serve. */
#include "observe/metrics.h"
#include "pager_fixture.h"

static struct metrics *before;

static void measure_from_here(void)
{
    free(before);
    assert_int_equal(metrics_read(&before), 0);
}

static uint64_t measured(enum metric_where where)
{
    struct metrics *now;
    uint64_t n;

    assert_int_equal(metrics_read(&now), 0);
    n = histogram_count(&now->histograms[METRIC_HISTOGRAM_fault_service + where]) -
        histogram_count(&before->histograms[METRIC_HISTOGRAM_fault_service + where]);
    free(now);
    return n;
}

static uint64_t counted(unsigned series)
{
    struct metrics *now;
    uint64_t n;

    assert_int_equal(metrics_read(&now), 0);
    n = (uint64_t)(now->values[series] - before->values[series]);
    free(now);
    return n;
}

static void faults_are_measured_by_place(void **state)
{
    (void)state;
    measure_from_here();
    event_fault(16);
    event_fault(16); /* two threads wait for one page */
    pager_serve(&pager);
    assert_int_equal(measured(METRIC_FROM_STORE), 0);
    assert_int_equal(pager.open_faults.count, 2);
    settle();
    assert_int_equal(measured(METRIC_FROM_STORE), 2);
    fault(18);
    assert_int_equal(measured(METRIC_FROM_RAM), 1);
    fault(150);
    assert_int_equal(measured(METRIC_FROM_ZERO), 1);
    event_remove(20, 1);
    fault(20);
    assert_int_equal(measured(METRIC_FROM_ZERO), 2);
    assert_int_equal(counters.faults, 5);
    assert_int_equal(pager.open_faults.count, 0);
}

static void a_fault_is_measured_when_the_kernel_takes_the_page(void **state)
{
    (void)state;
    fault(16);
    measure_from_here();
    fake.answer = -EAGAIN;
    fake.answer_left = 2;
    event_fault(17);
    pager_serve(&pager);
    assert_int_equal(measured(METRIC_FROM_RAM), 0);
    while (pager_has_put_off(&pager))
        pager_work(&pager);
    assert_int_equal(measured(METRIC_FROM_RAM), 1);
    /* A page that is discarded while it is fetched is there before its bytes are. */
    event_fault(640);
    pager_serve(&pager);
    event_remove(640, 1);
    event_fault(640);
    pager_serve(&pager);
    assert_int_equal(measured(METRIC_FROM_STORE) + measured(METRIC_FROM_ZERO), 2);
    settle();
    assert_int_equal(measured(METRIC_FROM_STORE) + measured(METRIC_FROM_ZERO), 2);
    assert_int_equal(pager.open_faults.count, 0);
}

static void what_is_not_served_is_not_measured(void **state)
{
    (void)state;
    measure_from_here();
    fake.answer = -ENOENT;
    fake.answer_left = 1;
    fault(40);
    build_fixture_flip(&build, "memfile", 7);
    event_fault(3);
    event_fault(3);
    turn();
    build_fixture_flip(&build, "memfile", 7);
    fault(3);
    assert_int_equal(pager.open_faults.count, 0);
    assert_int_equal(measured(METRIC_FROM_STORE) + measured(METRIC_FROM_RAM), 0);
    fault(150);
    fake.answer = -ENOMEM; /* it has vanished, and cannot be installed once more */
    fake.answer_left = 1;
    fault(150);
    assert_int_equal(measured(METRIC_FROM_ZERO), 1);
    /* One page has failed, whoever touches it. */
    assert_int_equal(counted(METRIC_SERIES_errors + METRIC_ERROR_DAMAGED), 1);
    fake.events[fake.event_count++] =
        (struct uffd_msg){.event = UFFD_EVENT_PAGEFAULT, .arg.pagefault.address = 4096};
    turn();
    assert_int_equal(counted(METRIC_SERIES_errors + METRIC_ERROR_PROTOCOL), 1);
}

static void faults_too_many_to_be_measured_are_counted(void **state)
{
    (void)state;
    measure_from_here();
    event_remove(0, PAGES / 2);
    event_remove(PAGES / 2, PAGES / 2);
    fake.answer = -EAGAIN;
    fake.answer_left = UINT32_MAX;
    for (unsigned page = 0; page < PAGES; page++) {
        event_fault(page);
        if (fake.event_count == PAGER_EVENTS)
            pager_serve(&pager);
    }
    pager_serve(&pager);
    assert_int_equal(pager.open_faults.count, PAGER_OPEN_FAULTS);
    assert_int_equal(counted(METRIC_SERIES_metrics_lost + METRIC_LOSS_TOO_MANY),
                     PAGES - PAGER_OPEN_FAULTS);
    fake.answer_left = 0;
    for (unsigned i = 0; i < 3; i++)
        pager_work(&pager);
    assert_int_equal(measured(METRIC_FROM_ZERO), PAGER_OPEN_FAULTS);
    assert_int_equal(pager.open_faults.count, 0);
    /* They are free for others again. */
    fake.answer_left = 1;
    fault(0);
    assert_int_equal(counted(METRIC_SERIES_metrics_lost + METRIC_LOSS_TOO_MANY),
                     PAGES - PAGER_OPEN_FAULTS);
}

static int end_group(void **state)
{
    free(before);
    return tear_down_group(state);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(faults_are_measured_by_place),
        TEST(a_fault_is_measured_when_the_kernel_takes_the_page),
        TEST(what_is_not_served_is_not_measured),
        TEST(faults_too_many_to_be_measured_are_counted),
    };

    return cmocka_run_group_tests(tests, set_up_group, end_group);
}

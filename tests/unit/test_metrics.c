/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <errno.h>
#include <malloc.h>
#include <math.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/units.h"
#include "observe/expose.h"
#include "observe/metrics.h"
#include "observe/registry.h"

static struct metrics *read_metrics(void)
{
    struct metrics *m = NULL;

    assert_int_equal(metrics_read(&m), 0);
    return m;
}

/* The first of the tests, while nothing has been counted. */
static void all_is_there_from_the_start(void **state)
{
    struct metrics *m CLEANUP_FREE = read_metrics();

    (void)state;
    for (unsigned i = 0; i < METRIC_SERIES; i++) {
        if (i == METRIC_SERIES_build_info)
            assert_true(m->values[i] == 1);
        else if (i == METRIC_SERIES_process_start_time)
            assert_true(fabs(m->values[i] - (double)time(NULL)) < 3600);
        else
            assert_true(m->values[i] == 0);
    }
    for (unsigned i = 0; i < METRIC_HISTOGRAMS; i++)
        assert_int_equal(histogram_count(&m->histograms[i]), 0);
}

static void each_function_counts_in_its_series(void **state)
{
    struct metrics *before CLEANUP_FREE = read_metrics();
    struct metrics *m CLEANUP_FREE = NULL;
    unsigned at;

    (void)state;
    metric_dirty_page_threads_add(2);
    metric_nbd_requests_add(3, METRIC_NBD_TRIM, METRIC_FAILURE);
    metric_throttle_time_add(0.25, METRIC_THROTTLE_WCHAN);
    metric_throttle_time_add(1.5, METRIC_THROTTLE_WCHAN);
    metric_cache_bytes_add(100, METRIC_BACKING_POOL, METRIC_HOLDS_OVERLAY);
    metric_cache_bytes_add(-40, METRIC_BACKING_POOL, METRIC_HOLDS_OVERLAY);
    metric_cache_bytes_set(7, METRIC_BACKING_DISK, METRIC_HOLDS_OBJECT);
    metric_fault_service_record(0.5, METRIC_FROM_STORE);
    metric_errors_add(1, metric_error_of(-EBADMSG));
    m = read_metrics();

    before->values[METRIC_SERIES_dirty_page_threads] += 2;
    at = METRIC_SERIES_nbd_requests + METRIC_AT_2(METRIC_NBD_TRIM, METRIC_FAILURE, result);
    before->values[at] += 3;
    assert_string_equal(
        metric_value_of(&metric_registry[METRIC_nbd_requests], at - METRIC_SERIES_nbd_requests, 0),
        "trim");
    assert_string_equal(
        metric_value_of(&metric_registry[METRIC_nbd_requests], at - METRIC_SERIES_nbd_requests, 1),
        "failure");
    before->values[METRIC_SERIES_throttle_time + METRIC_THROTTLE_WCHAN] += 1.75;
    at = METRIC_SERIES_cache_bytes + METRIC_AT_2(METRIC_BACKING_POOL, METRIC_HOLDS_OVERLAY, holds);
    before->values[at] += 60;
    at = METRIC_SERIES_cache_bytes + METRIC_AT_2(METRIC_BACKING_DISK, METRIC_HOLDS_OBJECT, holds);
    before->values[at] = 7;
    before->values[METRIC_SERIES_errors + METRIC_ERROR_DAMAGED] += 1;
    for (unsigned i = 0; i < METRIC_SERIES; i++)
        assert_true(m->values[i] == before->values[i]);
    for (unsigned i = 0; i < METRIC_HISTOGRAMS; i++)
        assert_int_equal(histogram_count(&m->histograms[i]),
                         histogram_count(&before->histograms[i]) +
                             (i == METRIC_HISTOGRAM_fault_service + METRIC_FROM_STORE));
}

static void counts_what_it_cannot_record(void **state)
{
    struct metrics *before CLEANUP_FREE = read_metrics();
    struct metrics *m CLEANUP_FREE = NULL;
    unsigned at = METRIC_SERIES_metrics_lost + METRIC_LOSS_NOT_FINITE;

    (void)state;
    metric_chunks_store_record(NAN, METRIC_SUCCESS);
    metric_resume_stage_record(INFINITY, METRIC_STAGE_FIRST_FAULT);
    metric_throttle_time_add(NAN, METRIC_THROTTLE_BPF);
    m = read_metrics();
    assert_true(m->values[at] == before->values[at] + 3);
    assert_true(m->values[METRIC_SERIES_throttle_time + METRIC_THROTTLE_BPF] == 0);
}

/* ---- threads ---- */

#define RECORDERS 8
#define ROUNDS    20000

static void *record_all_kinds(void *arg)
{
    (void)arg;
    metrics_thread_begin();
    for (unsigned i = 0; i < ROUNDS; i++) {
        metric_chunks_store_record(exp2(i % 24), METRIC_SUCCESS);
        metric_chunks_store_bytes_add(3, METRIC_SUCCESS);
        metric_throttle_time_add(0.5, METRIC_THROTTLE_PERF);
        metric_cache_bytes_add(1, METRIC_BACKING_FILE, METRIC_HOLDS_OVERLAY);
    }
    return NULL;
}

static uint64_t bytes_of(const struct metrics *m)
{
    return (uint64_t)m->values[METRIC_SERIES_chunks_store_bytes + METRIC_SUCCESS];
}

static uint64_t batches_of(const struct metrics *m)
{
    return histogram_count(&m->histograms[METRIC_HISTOGRAM_chunks_store + METRIC_SUCCESS]);
}

static void threads_count_while_it_is_read(void **state)
{
    struct metrics *first CLEANUP_FREE = read_metrics();
    uint64_t bytes = bytes_of(first), batches = batches_of(first);
    uint64_t all_bytes = bytes + 3ull * RECORDERS * ROUNDS;
    uint64_t all_batches = batches + (uint64_t)RECORDERS * ROUNDS;
    pthread_t threads[RECORDERS];
    struct metrics *last CLEANUP_FREE = NULL;

    (void)state;
    for (unsigned i = 0; i < RECORDERS; i++)
        assert_int_equal(thread_start(&threads[i], "recorder", record_all_kinds, NULL), 0);
    /* They come to their ends during this: what has been seen of them must remain. */
    while (batches < all_batches) {
        struct metrics *m CLEANUP_FREE = read_metrics();

        assert_in_range(bytes_of(m), bytes, all_bytes);
        assert_in_range(batches_of(m), batches, all_batches);
        bytes = bytes_of(m);
        batches = batches_of(m);
    }
    for (unsigned i = 0; i < RECORDERS; i++)
        thread_join(threads[i]);
    last = read_metrics();
    assert_int_equal(bytes_of(last), all_bytes);
    assert_int_equal(batches_of(last), all_batches);
    assert_true(last->values[METRIC_SERIES_throttle_time + METRIC_THROTTLE_PERF] ==
                RECORDERS * ROUNDS * 0.5);
    assert_true(last->values[METRIC_SERIES_cache_bytes +
                             METRIC_AT_2(METRIC_BACKING_FILE, METRIC_HOLDS_OVERLAY, holds)] ==
                RECORDERS * ROUNDS);
}

static void *record_once(void *arg)
{
    metric_resume_stage_record(*(const double *)arg, METRIC_STAGE_VCPUS_RUNNING);
    metric_fetch_bytes_add(1, METRIC_SOURCE_STORE);
    return NULL;
}

/* @n threads, ten at a time. */
static void run_short_threads(unsigned n)
{
    for (unsigned done = 0; done < n; done += 10) {
        pthread_t threads[10];
        double ms[10];

        for (unsigned i = 0; i < ARRAY_SIZE(threads); i++) {
            ms[i] = done + i + 1;
            assert_int_equal(thread_start(&threads[i], "short", record_once, &ms[i]), 0);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(threads); i++)
            thread_join(threads[i]);
    }
}

static void ended_threads_leave_their_counts_and_nothing_else(void **state)
{
    struct metrics *m CLEANUP_FREE = NULL;
    const struct histogram *h;
    size_t before;

    (void)state;
    run_short_threads(20); /* what the C library keeps for threads, it has now */
    before = mallinfo2().uordblks;
    run_short_threads(1000);
    assert_true(mallinfo2().uordblks < before + 200 * KIB); /* a shard has 30, 1000 have 30 MiB */
    m = read_metrics();
    h = &m->histograms[METRIC_HISTOGRAM_resume_stage + METRIC_STAGE_VCPUS_RUNNING];
    assert_int_equal(histogram_count(h), 1020);
    assert_true(h->sum == 500500 + 210);
    assert_true(h->max == 1000);
    assert_true(m->values[METRIC_SERIES_fetch_bytes + METRIC_SOURCE_STORE] == 1020);
}

/* ---- gauges that are asked ---- */

static void add_some(void *arg, double *values)
{
    values[METRIC_AT_2(METRIC_BACKING_MEMFD, METRIC_HOLDS_OBJECT, holds)] += *(double *)arg;
}

static void asks_those_who_watch(void **state)
{
    double a = 10, b = 32;
    struct metrics_watch first = {.metric = METRIC_cache_bytes, .add = add_some, .arg = &a};
    struct metrics_watch second = {.metric = METRIC_cache_bytes, .add = add_some, .arg = &b};
    unsigned at =
        METRIC_SERIES_cache_bytes + METRIC_AT_2(METRIC_BACKING_MEMFD, METRIC_HOLDS_OBJECT, holds);
    double expected[] = {42, 32, 0};

    (void)state;
    metrics_watch(&first);
    metrics_watch(&second);
    for (unsigned i = 0; i < ARRAY_SIZE(expected); i++) {
        struct metrics *m CLEANUP_FREE = read_metrics();

        assert_true(m->values[at] == expected[i]);
        metrics_unwatch(i == 0 ? &first : &second);
    }
}

/* ---- the registry ---- */

static void names_for_prometheus(void **state)
{
    static const char *const expected[METRICS] = {
        [METRIC_chunks_store] = "orchestrator_blocks_chunks_store_milliseconds",
        [METRIC_chunks_store_bytes] = "orchestrator_blocks_chunks_store_bytes_total",
        [METRIC_dirty_page_threads] = "orchestrator_host_balance_dirty_pages_threads_total",
        [METRIC_throttle_pauses] = "thaw_throttle_pauses_total",
        [METRIC_throttle_time] = "thaw_throttle_time_milliseconds_total",
        [METRIC_fault_service] = "thaw_fault_service_milliseconds",
        [METRIC_cache_bytes] = "thaw_cache_bytes",
        [METRIC_fetch_bytes] = "thaw_fetch_bytes_total",
        [METRIC_fetch_failures] = "thaw_fetch_failures_total",
        [METRIC_nbd_requests] = "thaw_nbd_requests_total",
        [METRIC_resume_stage] = "thaw_resume_stage_milliseconds",
        [METRIC_errors] = "thaw_errors_total",
        [METRIC_metrics_lost] = "thaw_metrics_lost_total",
        [METRIC_build_info] = "thaw_build_info",
        [METRIC_process_start_time] = "process_start_time_seconds",
    };
    struct metric strange = {.name = "9.a--b..c/d", .unit = "By", .kind = METRIC_KIND_COUNTER};
    char name[METRIC_PROMETHEUS_NAME_MAX];

    (void)state;
    for (unsigned i = 0; i < METRICS; i++) {
        metric_prometheus_name(&metric_registry[i], name);
        if (expected[i])
            assert_string_equal(name, expected[i]);
    }
    metric_prometheus_name(&strange, name);
    assert_string_equal(name, "9_a_b_c_d_bytes_total");
}

static void no_text_needs_escaping(void **state)
{
    (void)state;
    for (unsigned i = 0; i < METRICS; i++) {
        const struct metric *m = &metric_registry[i];

        assert_null(strpbrk(m->help, "\\\"\n"));
        for (unsigned a = 0; a < METRIC_ATTRIBUTES_MAX && m->attributes[a]; a++) {
            for (unsigned v = 0; v < m->attributes[a]->count; v++)
                assert_null(strpbrk(m->attributes[a]->values[v], "\\\"\n"));
        }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(all_is_there_from_the_start),
        cmocka_unit_test(each_function_counts_in_its_series),
        cmocka_unit_test(counts_what_it_cannot_record),
        cmocka_unit_test(threads_count_while_it_is_read),
        cmocka_unit_test(ended_threads_leave_their_counts_and_nothing_else),
        cmocka_unit_test(asks_those_who_watch),
        cmocka_unit_test(names_for_prometheus),
        cmocka_unit_test(no_text_needs_escaping),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

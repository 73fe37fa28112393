/* SPDX-License-Identifier: Apache-2.0 */

/* What the fetcher records of its flights, beside what it counts itself. */
#include "fetch_fixture.h"
#include "observe/metrics.h"

#define GRANULES 1200u /* more than two pages of sums, and than the pool has flights */
#define BYTES    (GRANULES * GRANULE_BYTES - 3 * PAGE_BYTES)

static int set_up_group(void **state)
{
    (void)state;
    fetch_fixture_init(BYTES);
    return 0;
}

static void fetch_everything(const char *name, const char *sums_name)
{
    struct fetch_object *o = open_object(f.fetch, name, sums_name);

    for (uint32_t g = 0; g < GRANULES; g++) {
        while (fetch_one(o, g) == -EAGAIN) /* until it is there, or is known to fail */
            ;
    }
    fetch_object_close(o); /* waits for what was read ahead */
}

static uint64_t count(const struct metrics *m, unsigned histogram)
{
    return histogram_count(&m->histograms[histogram]);
}

/* What is recorded is what the fetcher has counted, from the start of this process. */
static void check_same(struct metrics **ret)
{
    struct fetch_counters c = fetch_counters(f.fetch);
    struct metrics *m;
    const double *bytes;

    assert_int_equal(metrics_read(&m), 0);
    bytes = &m->values[METRIC_SERIES_chunks_store_bytes];
    assert_int_equal(count(m, METRIC_HISTOGRAM_chunks_store + METRIC_SUCCESS) +
                         count(m, METRIC_HISTOGRAM_chunks_store + METRIC_FAILURE),
                     c.flights);
    assert_int_equal(count(m, METRIC_HISTOGRAM_fetch_step + METRIC_STEP_READ), c.flights);
    assert_int_equal(count(m, METRIC_HISTOGRAM_fetch_step + METRIC_STEP_VERIFY), c.flights);
    assert_int_equal(bytes[METRIC_SUCCESS] + bytes[METRIC_FAILURE], c.read_bytes);
    assert_int_equal(m->values[METRIC_SERIES_fetch_bytes + METRIC_SOURCE_STORE], c.read_bytes);
    assert_int_equal(m->values[METRIC_SERIES_fetch_failures + METRIC_SOURCE_STORE],
                     count(m, METRIC_HISTOGRAM_chunks_store + METRIC_FAILURE));
    *ret = m;
}

static void a_batch_is_a_flight(void **state)
{
    struct metrics *m;

    (void)state;
    fetch_everything("memfile", "memfile.sums");
    check_same(&m);
    assert_true(count(m, METRIC_HISTOGRAM_chunks_store + METRIC_SUCCESS) > 0);
    assert_int_equal(count(m, METRIC_HISTOGRAM_chunks_store + METRIC_FAILURE), 0);
    assert_int_equal(m->values[METRIC_SERIES_chunks_store_bytes + METRIC_SUCCESS], BYTES);
    free(m);
}

static void a_batch_that_lacks_one_granule_has_failed(void **state)
{
    struct metrics *m;

    (void)state;
    build_fixture_flip(&f, "memfile", 300 * GRANULE_BYTES + 5);
    fetch_everything("memfile", "memfile.sums");
    build_fixture_flip(&f, "memfile", 300 * GRANULE_BYTES + 5);
    check_same(&m);
    assert_true(count(m, METRIC_HISTOGRAM_chunks_store + METRIC_FAILURE) > 0);
    assert_true(m->values[METRIC_SERIES_chunks_store_bytes + METRIC_FAILURE] >= GRANULE_BYTES);
    free(m);
}

static void what_cannot_be_read_has_no_bytes(void **state)
{
    struct metrics *before, *m;

    (void)state;
    check_same(&before);
    fetch_everything("nothing", NULL);
    check_same(&m);
    assert_true(count(m, METRIC_HISTOGRAM_chunks_store + METRIC_FAILURE) >
                count(before, METRIC_HISTOGRAM_chunks_store + METRIC_FAILURE));
    assert_int_equal(m->values[METRIC_SERIES_chunks_store_bytes + METRIC_FAILURE],
                     before->values[METRIC_SERIES_chunks_store_bytes + METRIC_FAILURE]);
    free(before);
    free(m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_batch_is_a_flight),
        cmocka_unit_test(a_batch_that_lacks_one_granule_has_failed),
        cmocka_unit_test(what_cannot_be_read_has_no_bytes),
    };

    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <locale.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/units.h"
#include "observe/accept.h"
#include "observe/expose.h"
#include "scratch.h"

static struct metrics *new_metrics(void)
{
    struct metrics *m = calloc(1, sizeof(*m));

    assert_non_null(m);
    return m;
}

static struct histogram *stored(struct metrics *m)
{
    return &m->histograms[METRIC_HISTOGRAM_chunks_store + METRIC_SUCCESS];
}

/* The text of @m; free() it. */
static char *text_of(const struct metrics *m)
{
    struct buf b CLEANUP_BUF = {0};

    expose_text(m, &b);
    buf_put_u8(&b, 0);
    assert_false(b.failed);
    return (char *)TAKE_PTR(b.data);
}

/* ---- text ---- */

static void text_of_counters_and_gauges(void **state)
{
    struct metrics *m CLEANUP_FREE = new_metrics();
    char *text CLEANUP_FREE = NULL;

    (void)state;
    m->values[METRIC_SERIES_dirty_page_threads] = 12;
    m->values[METRIC_SERIES_throttle_time + METRIC_THROTTLE_BPF] = 0.1;
    m->values[METRIC_SERIES_nbd_requests + METRIC_AT_2(METRIC_NBD_WRITE, METRIC_FAILURE, result)] =
        9007199254740993.0;
    text = text_of(m);
    assert_non_null(strstr(
        text, "# HELP orchestrator_host_balance_dirty_pages_threads_total Threads of this process"
              " seen in the kernel's dirty-page throttle, once a second.\n"
              "# TYPE orchestrator_host_balance_dirty_pages_threads_total counter\n"
              "orchestrator_host_balance_dirty_pages_threads_total 12\n"));
    assert_non_null(strstr(text, "\nthaw_throttle_time_milliseconds_total{source=\"bpf\"} 0.1\n"
                                 "thaw_throttle_time_milliseconds_total{source=\"perf\"} 0\n"));
    assert_non_null(strstr(
        text, "\nthaw_nbd_requests_total{op=\"write\",result=\"failure\"} 9007199254740992\n"));
    assert_non_null(strstr(text, "# TYPE thaw_cache_bytes gauge\n"));
}

/* The count of the bucket whose bound is written @bound, of what has been stored. */
static unsigned long bucket_in(const char *text, const char *bound)
{
    char line[200];
    const char *at;

    snprintf(
        line, sizeof(line),
        "\norchestrator_blocks_chunks_store_milliseconds_bucket{result=\"success\",le=\"%s\"} ",
        bound);
    at = strstr(text, line);
    assert_non_null(at);
    return strtoul(at + strlen(line), NULL, 10);
}

static void text_of_histograms(void **state)
{
    struct metrics *m CLEANUP_FREE = new_metrics();
    const double values[] = {0, -3, 1e-200, 0.0005, 0.0009765625, 0.001, 1, 1.5, 2, 2.1, 1e9};
    char *text CLEANUP_FREE = NULL;

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
        histogram_record(stored(m), values[i]);
    text = text_of(m);
    assert_int_equal(bucket_in(text, "0.0009765625"), 5);
    assert_int_equal(bucket_in(text, "0.001953125"), 6);
    assert_int_equal(bucket_in(text, "0.5"), 6);
    assert_int_equal(bucket_in(text, "1"), 7);
    assert_int_equal(bucket_in(text, "2"), 9);
    assert_int_equal(bucket_in(text, "4"), 10);
    assert_int_equal(bucket_in(text, "131072"), 10);
    assert_int_equal(bucket_in(text, "+Inf"), 11);
    assert_non_null(strstr(
        text,
        "\norchestrator_blocks_chunks_store_milliseconds_sum{result=\"success\"} 1000000006.6"));
    assert_non_null(strstr(
        text, "\norchestrator_blocks_chunks_store_milliseconds_count{result=\"success\"} 11\n"));
    assert_non_null(strstr(
        text, "\norchestrator_blocks_chunks_store_milliseconds_count{result=\"failure\"} 0\n"));
}

/* Exact for any values whose scale is not negative, which is 160 octaves. */
static void ladder_is_exact(void **state)
{
    uint64_t counts[EXPOSE_LADDER_STEPS], expected[EXPOSE_LADDER_STEPS] = {0};
    struct histogram h = {0};

    (void)state;
    for (int i = 0; i < 5000; i++) {
        double v = exp2(-40 + 70 * (double)(i * 7919 % 5000) / 5000);

        histogram_record(&h, v);
        for (int k = 0; k < EXPOSE_LADDER_STEPS; k++)
            expected[k] += v <= ldexp(1, EXPOSE_LADDER_LOW + k);
    }
    expose_ladder(&h, counts);
    assert_memory_equal(counts, expected, sizeof(counts));
}

/* A locale whose numbers have a comma, made in @dir; false where none can be made. */
static bool enter_comma_locale(const char *dir)
{
    char command[500];

    snprintf(command, sizeof(command), "localedef -i de_DE -f UTF-8 %s/de >/dev/null 2>&1", dir);
    return system(command) == 0 && setenv("LOCPATH", dir, 1) == 0 && setlocale(LC_ALL, "de");
}

static void numbers_have_points_in_every_locale(void **state)
{
    struct metrics *m CLEANUP_FREE = new_metrics();
    char *dir = scratch_make();
    char number[8];
    char *text CLEANUP_FREE = NULL;
    bool entered;

    (void)state;
    entered = enter_comma_locale(dir);
    scratch_remove(dir);
    if (!entered)
        skip();
    snprintf(number, sizeof(number), "%.2f", 1.25);
    m->values[METRIC_SERIES_process_start_time] = 1.25;
    text = text_of(m);
    setlocale(LC_ALL, "C");
    assert_string_equal(number, "1,25");
    assert_non_null(strstr(text, "\nprocess_start_time_seconds 1.25\n"));
}

/* ---- protobuf: golden bytes, put together by hand from the field numbers ---- */

static void expect_in(const struct buf *b, const char *bytes, size_t len)
{
    assert_non_null(memmem(b->data, b->len, bytes, len));
}

#define EXPECT_IN(b, bytes) expect_in((b), (bytes), sizeof(bytes) - 1)

static void protobuf_of_a_counter(void **state)
{
    struct metrics *m CLEANUP_FREE = new_metrics();
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    m->values[METRIC_SERIES_fetch_failures + METRIC_SOURCE_DISK] = 2;
    expose_protobuf(m, &b);
    assert_false(b.failed);
    EXPECT_IN(&b, "\x75" /* length of all that follows */
                  "\x0a\x19thaw_fetch_failures_total"
                  "\x12\x1bReads that failed for good."
                  "\x18\x00" /* a counter */
                  "\x22\x1b\x0a\x0e\x0a\x06source\x12\x04"
                  "disk\x1a\x09\x09\x00\x00\x00\x00\x00\x00\x00\x40" /* 2.0 */
                  "\x22\x1c\x0a\x0f\x0a\x06source\x12\x05"
                  "store\x1a\x09\x09\x00\x00\x00\x00\x00\x00\x00\x00");
}

static void protobuf_of_a_native_histogram(void **state)
{
    struct metrics *m CLEANUP_FREE = new_metrics();
    struct buf b CLEANUP_BUF = {0};
    const double values[] = {0, 0x1p-60, 1.5, 1.5, 1.5, 3, 24, 48, 0x1p60};

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(values); i++)
        histogram_record(stored(m), values[i]);
    assert_int_equal(stored(m)->scale, 0);
    expose_protobuf(m, &b);
    assert_false(b.failed);
    /* Buckets by upper bound: 2^-60 has -60, 1.5 has 1, 3 has 2, 24 has 5, 48 has 6, 2^60 has 60.
     */
    EXPECT_IN(&b, "\x28\x00"                             /* schema 0 */
                  "\x31\x9d\x97\x8c\xcf\x08\xba\x5b\x25" /* zero threshold 1e-128 */
                  "\x38\x01"                             /* zero count */
                  "\x62\x04\x08\x77\x10\x01"             /* -60, one */
                  "\x62\x04\x08\x78\x10\x06"             /* 60 on, six, two of them empty */
                  "\x62\x04\x08\x6a\x10\x01"             /* 53 on, one */
                  "\x6a\x08\x02\x04\x03\x01\x00\x02\x00\x00" /* 1, +2, -2, -1, 0, +1, 0, 0 */);
}

/* ---- Accept ---- */

#define PROTOBUF                                                                                   \
    "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"

static bool wants_protobuf(const char *field)
{
    struct accept a = {0};

    accept_add(&a, field, strlen(field));
    return accept_wants_protobuf(&a);
}

static void accept_chooses(void **state)
{
    static const struct {
        const char *field;
        bool protobuf;
    } cases[] = {
        /* What Prometheus sends, with native histograms and without. */
        {PROTOBUF ",application/openmetrics-text;version=1.0.0;q=0.8,application/openmetrics-text;"
                  "version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
         true},
        {"application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;"
         "q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1",
         false},
        {"", false},
        {"*/*", false},
        {"application/*", true},
        {"text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", false},
        {PROTOBUF, true},
        {PROTOBUF ";q=0", false},
        {PROTOBUF ";q=0.4, text/plain;q=0.5", false},
        {PROTOBUF ";q=0.5, text/plain;q=0.4", true},
        {"text/plain;q=0.001," PROTOBUF ";q=0.002", true},
        {PROTOBUF ", text/plain", false},
        {PROTOBUF ";q=0.3, */*;q=0.9", false},
        {"*/*, text/*;q=0.1", true},
        {"*/*;q=0.1, text/*, text/plain;q=0.05", true},
        {"text/plain;version=1.0.0, " PROTOBUF ";q=0.1", true},
        {"application/vnd.google.protobuf", false},
        {"application/vnd.google.protobuf;proto=other;encoding=delimited", false},
        {"application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text",
         false},
        {"APPLICATION/VND.GOOGLE.PROTOBUF ; Proto=\"io.prometheus.client.MetricFamily\" ;"
         " Encoding = \"delimited\" ; Q=0.5",
         true},
        {PROTOBUF ";q=2", false},
        {PROTOBUF ";q=1.5", false},
        {PROTOBUF ";q=-1", false},
        {PROTOBUF ";q=", false},
        {PROTOBUF ";q=0.1234", false},
        {PROTOBUF ";q=1.", true},
        {"x=\",\";q=\", " PROTOBUF, false}, /* a quote that does not end */
        {"a/b;c=\"d,\\\"e\", " PROTOBUF, true},
        {",,;;,=," PROTOBUF, true},
    };

    (void)state;
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        if (wants_protobuf(cases[i].field) != cases[i].protobuf)
            fail_msg("%s", cases[i].field);
    }
}

static void accept_takes_several_fields(void **state)
{
    struct accept a = {0};

    (void)state;
    accept_add(&a, "text/plain;q=0.5", strlen("text/plain;q=0.5"));
    accept_add(&a, PROTOBUF, strlen(PROTOBUF));
    assert_true(accept_wants_protobuf(&a));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(text_of_counters_and_gauges),
        cmocka_unit_test(text_of_histograms),
        cmocka_unit_test(ladder_is_exact),
        cmocka_unit_test(numbers_have_points_in_every_locale),
        cmocka_unit_test(protobuf_of_a_counter),
        cmocka_unit_test(protobuf_of_a_native_histogram),
        cmocka_unit_test(accept_chooses),
        cmocka_unit_test(accept_takes_several_fields),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

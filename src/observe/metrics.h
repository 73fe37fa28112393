/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_METRICS_H
#define THAW_OBSERVE_METRICS_H

/*
 * Recording and reading of the metrics in metric_list.h. To count one:
 *
 *     metric_nbd_requests_add(1, METRIC_NBD_READ, METRIC_SUCCESS);
 *     metric_fault_service_record(metric_ms(clock_now_ns() - start_ns), METRIC_FROM_STORE);
 *
 * Any thread may; it takes no lock, and a thread's values are its own until they are read. The
 * first value of a thread allocates its counters, some tens of KiB: a thread that serves a guest
 * calls metrics_thread_begin() where it starts. What an ended thread has counted stays counted.
 */

#include <stdint.h>

#include "observe/histogram.h"
#include "observe/metric_attributes.h"
#include "observe/metric_list.h"

/* ---- numbers: METRIC_id is the metric, METRIC_SERIES_id the first of its series ---- */

#define METRIC_COUNT_histogram_only_counter(n)    0
#define METRIC_COUNT_histogram_only_counter_ms(n) 0
#define METRIC_COUNT_histogram_only_gauge(n)      0
#define METRIC_COUNT_histogram_only_histogram(n)  (n)

#define METRIC_ID_0(kind, id, ...) METRIC_##id,
enum metric_id { METRIC_LIST(METRIC_ID_0, METRIC_ID_0, METRIC_ID_0) METRICS };

/* One enumerator for the first series and one for the last, after which the next metric's go on. */
#define METRIC_RANGE(id, n) METRIC_SERIES_##id, METRIC_SERIES_END_##id = METRIC_SERIES_##id + (n)-1,

#define METRIC_RANGE_0(kind, id, ...)    METRIC_RANGE(id, 1)
#define METRIC_RANGE_1(kind, id, a, ...) METRIC_RANGE(id, METRIC_COUNT_##a)
#define METRIC_RANGE_2(kind, id, a, b, ...)                                                        \
    METRIC_RANGE(id, (int)METRIC_COUNT_##a *(int)METRIC_COUNT_##b)
enum metric_series { METRIC_LIST(METRIC_RANGE_0, METRIC_RANGE_1, METRIC_RANGE_2) METRIC_SERIES };

/* Histograms have numbers of their own as well, in the order of their series. */
#define METRIC_HRANGE(kind, id, n)                                                                 \
    METRIC_HISTOGRAM_##id,                                                                         \
        METRIC_HISTOGRAM_END_##id =                                                                \
            METRIC_HISTOGRAM_##id + METRIC_COUNT_histogram_only_##kind(n) - 1,
#define METRIC_HRANGE_0(kind, id, ...)    METRIC_HRANGE(kind, id, 1)
#define METRIC_HRANGE_1(kind, id, a, ...) METRIC_HRANGE(kind, id, METRIC_COUNT_##a)
#define METRIC_HRANGE_2(kind, id, a, b, ...)                                                       \
    METRIC_HRANGE(kind, id, (int)METRIC_COUNT_##a *(int)METRIC_COUNT_##b)
enum metric_histogram {
    METRIC_LIST(METRIC_HRANGE_0, METRIC_HRANGE_1, METRIC_HRANGE_2) METRIC_HISTOGRAMS
};

/* ---- recording ---- */

/** metrics_count() - what metric_ID_add() of a counter does, by number of its series */
void metrics_count(unsigned series, uint64_t n);

/** metrics_count_ms() - the same of a counter_ms. Below 0 is 0; what is not finite counts as lost
 */
void metrics_count_ms(unsigned series, double ms);

/** metrics_record() - what metric_ID_record_many() does, by number of its histogram */
void metrics_record(unsigned histogram, double ms, uint64_t n);

/** metrics_gauge_add() - what metric_ID_add() of a gauge does. Gauges are shared by all threads */
void metrics_gauge_add(unsigned series, int64_t n);

/** metrics_gauge_set() - what metric_ID_set() does */
void metrics_gauge_set(unsigned series, int64_t n);

#define METRIC_FUNCTIONS_counter(id, at, ...)                                                      \
    static inline void metric_##id##_add(uint64_t n, ##__VA_ARGS__)                                \
    {                                                                                              \
        metrics_count(METRIC_SERIES_##id + (at), n);                                               \
    }
#define METRIC_FUNCTIONS_counter_ms(id, at, ...)                                                   \
    static inline void metric_##id##_add(double ms, ##__VA_ARGS__)                                 \
    {                                                                                              \
        metrics_count_ms(METRIC_SERIES_##id + (at), ms);                                           \
    }
#define METRIC_FUNCTIONS_histogram(id, at, ...)                                                    \
    static inline void metric_##id##_record(double ms, ##__VA_ARGS__)                              \
    {                                                                                              \
        metrics_record(METRIC_HISTOGRAM_##id + (at), ms, 1);                                       \
    }                                                                                              \
    static inline void metric_##id##_record_many(double ms, uint64_t n, ##__VA_ARGS__)             \
    {                                                                                              \
        metrics_record(METRIC_HISTOGRAM_##id + (at), ms, n);                                       \
    }
#define METRIC_FUNCTIONS_gauge(id, at, ...)                                                        \
    static inline void metric_##id##_add(int64_t n, ##__VA_ARGS__)                                 \
    {                                                                                              \
        metrics_gauge_add(METRIC_SERIES_##id + (at), n);                                           \
    }                                                                                              \
    static inline void metric_##id##_set(int64_t n, ##__VA_ARGS__)                                 \
    {                                                                                              \
        metrics_gauge_set(METRIC_SERIES_##id + (at), n);                                           \
    }
#define METRIC_FUNCTIONS_0(kind, id, ...) METRIC_FUNCTIONS_##kind(id, 0u)
#define METRIC_FUNCTIONS_1(kind, id, a, ...)                                                       \
    METRIC_FUNCTIONS_##kind(id, (unsigned)value_a, enum metric_##a value_a)
#define METRIC_FUNCTIONS_2(kind, id, a, b, ...)                                                    \
    METRIC_FUNCTIONS_##kind(id, METRIC_AT_2(value_a, value_b, b), enum metric_##a value_a,         \
                            enum metric_##b value_b)
#define METRIC_AT_2(value_a, value_b, b)                                                           \
    ((unsigned)(value_a)*METRIC_COUNT_##b + (unsigned)(value_b))

METRIC_LIST(METRIC_FUNCTIONS_0, METRIC_FUNCTIONS_1, METRIC_FUNCTIONS_2)

/** metric_ms() - nanoseconds as the milliseconds that metrics are in */
static inline double metric_ms(uint64_t ns)
{
    return (double)ns / 1e6;
}

/** metric_error_of() - which kind of error a negative errno value is, for metric_errors_add() */
enum metric_error metric_error_of(int code);

/* ---- threads ---- */

/** metrics_thread_begin() - allocate what this thread counts in, so that counting will not */
void metrics_thread_begin(void);

/* ---- reading ---- */

/* All values of one moment, but for what is being recorded in it. */
struct metrics {
    double values[METRIC_SERIES]; /* counters and gauges */
    struct histogram histograms[METRIC_HISTOGRAMS];
};

/**
 * metrics_read() - the values of all metrics; free() them
 *
 * Takes locks and allocates: not for a thread that serves a guest. Returns: 0 or -ENOMEM.
 */
[[gnu::warn_unused_result]] int metrics_read(struct metrics **ret);

/**
 * struct metrics_watch - a gauge that is asked for when it is read
 * @add: called by metrics_read() on its thread; adds what it knows of to @values, the series of the
 *       metric in their order: METRIC_AT_2(value of a, value of b, b) where it has two attributes.
 *       It may take locks of its owner and must not read or watch metrics itself
 *
 * The caller owns it and keeps it until metrics_unwatch().
 */
struct metrics_watch {
    enum metric_id metric;
    void (*add)(void *arg, double *values);
    void *arg;
    struct metrics_watch *next; /* [m] metrics.c's watch_mu */
};

/** metrics_watch() - have @w asked from now on. Several may watch one metric: they add up */
void metrics_watch(struct metrics_watch *w);

/** metrics_unwatch() - no more; it is not running when this returns. Not from its own @add */
void metrics_unwatch(struct metrics_watch *w);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/metrics.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/thread.h"
#include "observe/process.h"

/*
 * Theory of operation
 *
 * Each thread counts in a shard of its own, of which it is the only writer; whoever reads adds all
 * shards up. When a thread ends, its shard is added to `ended` and freed, so that what remains of a
 * thousand threads is one shard. Both happen under `mu`: a value is in a shard or in `ended`, never
 * in both or in neither. Counting itself knows no lock.
 */

struct shard {
    _Atomic uint64_t counts[METRIC_SERIES]; /* [t] written by its thread, read by any */
    _Atomic double ms[METRIC_SERIES];       /* [t] likewise */
    struct histogram histograms[METRIC_HISTOGRAMS];
    struct shard *next, *prev; /* [m] mu */
};

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static struct shard *shards; /* [m] mu: those of running threads, each owned by its thread */
static struct metrics ended; /* [m] mu: the sum of those of ended threads */
static _Thread_local struct shard *own;

static pthread_key_t end_key; /* its destructor tells of the end of a thread */
static pthread_once_t end_key_once = PTHREAD_ONCE_INIT;
static bool has_end_key;

static _Atomic int64_t gauges[METRIC_SERIES]; /* [a] */
static _Atomic uint64_t lost_for_memory;      /* [a] */

static pthread_mutex_t watch_mu = PTHREAD_MUTEX_INITIALIZER;
static struct metrics_watch *watches; /* [m] watch_mu; each owned by who watches */

/* ---- shards ---- */

/* Add @s, which its thread may be counting in, to @to. */
static void add_shard(struct metrics *to, struct shard *s)
{
    for (unsigned i = 0; i < METRIC_SERIES; i++) {
        to->values[i] += (double)atomic_load_explicit(&s->counts[i], memory_order_relaxed);
        to->values[i] += atomic_load_explicit(&s->ms[i], memory_order_relaxed);
    }
    for (unsigned i = 0; i < METRIC_HISTOGRAMS; i++) {
        struct histogram copy;

        histogram_read(&s->histograms[i], &copy);
        histogram_merge(&to->histograms[i], &copy);
    }
}

/* The thread of @arg ends. Should a later destructor count once more, there will be another shard
 * and another call of this: pthread_key_create(3). */
static void end_shard(void *arg)
{
    struct shard *s = arg;

    own = NULL;
    {
        LOCK_SCOPE(&mu);
        add_shard(&ended, s);
        if (s->prev)
            s->prev->next = s->next;
        else
            shards = s->next;
        if (s->next)
            s->next->prev = s->prev;
    }
    free(s);
}

static void make_end_key(void)
{
    has_end_key = pthread_key_create(&end_key, end_shard) == 0;
}

/* The shard of this thread; NULL if there is no memory for one. */
static struct shard *make_shard(void)
{
    struct shard *s;

    pthread_once(&end_key_once, make_end_key);
    s = has_end_key ? calloc(1, sizeof(*s)) : NULL;
    if (!s || pthread_setspecific(end_key, s) != 0) {
        free(s);
        return NULL;
    }
    LOCK_SCOPE(&mu);
    s->next = shards;
    if (shards)
        shards->prev = s;
    shards = s;
    return own = s;
}

static inline struct shard *shard_of_thread(void)
{
    struct shard *s = own ? own : make_shard();

    if (__builtin_expect(!s, 0))
        atomic_fetch_add_explicit(&lost_for_memory, 1, memory_order_relaxed);
    return s;
}

void metrics_thread_begin(void)
{
    (void)shard_of_thread();
}

/* ---- recording ---- */

static void add_to_count(struct shard *s, unsigned series, uint64_t n)
{
    uint64_t before = atomic_load_explicit(&s->counts[series], memory_order_relaxed);

    atomic_store_explicit(&s->counts[series], before + n, memory_order_relaxed);
}

void metrics_count(unsigned series, uint64_t n)
{
    struct shard *s = shard_of_thread();

    assert(series < METRIC_SERIES);
    if (s)
        add_to_count(s, series, n);
}

static void add_to_ms(struct shard *s, unsigned series, double ms)
{
    double before = atomic_load_explicit(&s->ms[series], memory_order_relaxed);

    atomic_store_explicit(&s->ms[series], before + ms, memory_order_relaxed);
}

void metrics_count_ms(unsigned series, double ms)
{
    struct shard *s = shard_of_thread();

    assert(series < METRIC_SERIES);
    if (s && isfinite(ms))
        add_to_ms(s, series, ms > 0 ? ms : 0);
    else if (s)
        add_to_count(s, METRIC_SERIES_metrics_lost + METRIC_LOSS_NOT_FINITE, 1);
}

void metrics_record(unsigned histogram, double ms, uint64_t n)
{
    struct shard *s = shard_of_thread();

    assert(histogram < METRIC_HISTOGRAMS);
    if (s)
        histogram_record_many(&s->histograms[histogram], ms, n);
}

void metrics_gauge_add(unsigned series, int64_t n)
{
    assert(series < METRIC_SERIES);
    atomic_fetch_add_explicit(&gauges[series], n, memory_order_relaxed);
}

void metrics_gauge_set(unsigned series, int64_t n)
{
    assert(series < METRIC_SERIES);
    atomic_store_explicit(&gauges[series], n, memory_order_relaxed);
}

enum metric_error metric_error_of(int code)
{
    switch (-code) {
    case EBADMSG:
        return METRIC_ERROR_DAMAGED;
    case ENOENT:
        return METRIC_ERROR_MISSING;
    case EIO:
        return METRIC_ERROR_IO;
    case ETIMEDOUT:
        return METRIC_ERROR_TIMEOUT;
    case EPROTO:
        return METRIC_ERROR_PROTOCOL;
    case ENOMEM:
        return METRIC_ERROR_NO_MEMORY;
    case ENOSPC:
    case EDQUOT:
        return METRIC_ERROR_NO_SPACE;
    default:
        return METRIC_ERROR_OTHER;
    }
}

/* ---- gauges that are asked ---- */

/* Where the first series of each metric is; the registry knows more, and is for readers. */
#define FIRST_SERIES(kind, id, ...) [METRIC_##id] = METRIC_SERIES_##id,
static const unsigned first_series[METRICS] = {
    METRIC_LIST(FIRST_SERIES, FIRST_SERIES, FIRST_SERIES)};

void metrics_watch(struct metrics_watch *w)
{
    LOCK_SCOPE(&watch_mu);

    w->next = watches;
    watches = w;
}

void metrics_unwatch(struct metrics_watch *w)
{
    LOCK_SCOPE(&watch_mu);

    for (struct metrics_watch **at = &watches; *at; at = &(*at)->next) {
        if (*at == w) {
            *at = w->next;
            return;
        }
    }
}

static void add_gauges(struct metrics *m)
{
    LOCK_SCOPE(&watch_mu);

    for (unsigned i = 0; i < METRIC_SERIES; i++)
        m->values[i] += (double)atomic_load_explicit(&gauges[i], memory_order_relaxed);
    for (struct metrics_watch *w = watches; w; w = w->next)
        w->add(w->arg, &m->values[first_series[w->metric]]);
}

/* ---- reading ---- */

static void add_shards(struct metrics *m)
{
    LOCK_SCOPE(&mu);

    *m = ended;
    for (struct shard *s = shards; s; s = s->next)
        add_shard(m, s);
}

static void add_own_metrics(struct metrics *m)
{
    double *lost = &m->values[METRIC_SERIES_metrics_lost];

    for (unsigned i = 0; i < METRIC_HISTOGRAMS; i++)
        lost[METRIC_LOSS_NOT_FINITE] += (double)m->histograms[i].rejected;
    lost[METRIC_LOSS_NO_MEMORY] +=
        (double)atomic_load_explicit(&lost_for_memory, memory_order_relaxed);
    m->values[METRIC_SERIES_build_info] = 1;
    m->values[METRIC_SERIES_process_start_time] = process_start_time();
}

int metrics_read(struct metrics **ret)
{
    struct metrics *m = malloc(sizeof(*m));

    if (!m)
        return -ENOMEM;
    add_shards(m);
    add_gauges(m);
    add_own_metrics(m);
    *ret = m;
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/host_metrics.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "fetch/fetch.h"
#include "lib/host.h"
#include "observe/metrics.h"
#include "observe/throttle.h"

/* The attributes' values are in the order of the sources. */
_Static_assert((int)METRIC_THROTTLE_BPF == 0 && (int)METRIC_THROTTLE_WCHAN == 3,
               "sources of the throttle, the best first");

struct host_metrics {
    struct thaw_host *host;    /* borrowed */
    struct throttle *throttle; /* owned */
    struct metrics_watch cache_bytes, budget, not_kept, evictions, given_back, refused, pauses,
        time;
    struct metrics_watch paced, spilled;
    struct metrics_watch disk_written, disk_evicted, disk_errors, disk_behind, disk_not_written,
        disk_writable;
};

/* The disk tier, or NULL. */
static struct tier *tier_of(const struct host_metrics *m)
{
    struct cache_set *set = host_set(m->host, CACHE_BACKING_TIERED);

    return set ? cache_set_tier(set) : NULL;
}

static struct tier_counters disk(const struct host_metrics *m)
{
    return tier_of(m) ? tier_counters(tier_of(m)) : (struct tier_counters){0};
}

static void add_cache_bytes(void *arg, double *values)
{
    static const enum metric_backing names[] = {
        [CACHE_BACKING_MEMFD] = METRIC_BACKING_MEMFD,
        [CACHE_BACKING_FILE] = METRIC_BACKING_FILE,
        [CACHE_BACKING_TIERED] = METRIC_BACKING_POOL,
    };
    struct host_metrics *m = arg;

    for (size_t i = 0; i < CACHE_BACKINGS; i++) {
        struct cache_set *set = host_set(m->host, (enum cache_backing)i);
        double *of = values + METRIC_AT_2(names[i], 0, holds);
        struct cache_set_counters c;

        if (!set)
            continue;
        c = cache_set_counters(set);
        of[METRIC_HOLDS_OBJECT] += (double)c.bytes[CACHE_KIND_READ_THROUGH];
        of[METRIC_HOLDS_OVERLAY] += (double)c.bytes[CACHE_KIND_OVERLAY];
    }
    values[METRIC_AT_2(METRIC_BACKING_DISK, METRIC_HOLDS_OBJECT, holds)] += (double)disk(m).bytes;
    values[METRIC_AT_2(METRIC_BACKING_DISK, METRIC_HOLDS_OVERLAY, holds)] +=
        (double)disk(m).overlay_bytes;
}

/* The counters of all caches, whatever their backing. */
static struct cache_set_counters all_caches(const struct host_metrics *m)
{
    struct cache_set_counters sum = {0};

    for (size_t i = 0; i < CACHE_BACKINGS; i++) {
        struct cache_set *set = host_set(m->host, (enum cache_backing)i);
        struct cache_set_counters c;

        if (!set)
            continue;
        c = cache_set_counters(set);
        sum.budget_bytes = MAX(sum.budget_bytes, c.budget_bytes); /* the same one for each */
        sum.not_kept += c.not_kept;
        sum.refused += c.refused;
        sum.given_bytes += c.given_bytes;
        sum.spilled_bytes += c.spilled_bytes;
        sum.paced += c.paced;
    }
    return sum;
}

static void add_budget(void *arg, double *values)
{
    *values += (double)all_caches(arg).budget_bytes;
}

static void add_not_kept(void *arg, double *values)
{
    *values += (double)all_caches(arg).not_kept;
}

static void add_evictions(void *arg, double *values)
{
    struct host_metrics *m = arg;

    for (size_t i = 0; i < CACHE_BACKINGS; i++) {
        struct cache_set *set = host_set(m->host, (enum cache_backing)i);
        size_t why = i == CACHE_BACKING_TIERED ? METRIC_EVICTION_COLD : METRIC_EVICTION_NOT_KEPT;

        if (set)
            values[why] += (double)cache_set_counters(set).evicted;
    }
}

static void add_given_back(void *arg, double *values)
{
    *values += (double)all_caches(arg).given_bytes;
}

static void add_refused(void *arg, double *values)
{
    *values += (double)all_caches(arg).refused;
}

static void add_paced(void *arg, double *values)
{
    *values += (double)all_caches(arg).paced;
}

static void add_spilled(void *arg, double *values)
{
    *values += (double)all_caches(arg).spilled_bytes;
}

static void add_disk_written(void *arg, double *values)
{
    *values += (double)disk(arg).written_bytes;
}

static void add_disk_evicted(void *arg, double *values)
{
    *values += (double)disk(arg).evicted_bytes;
}

static void add_disk_errors(void *arg, double *values)
{
    struct tier_counters c = disk(arg);

    values[METRIC_DISK_READ] += (double)c.read_errors;
    values[METRIC_DISK_WRITE] += (double)c.write_errors;
    values[METRIC_DISK_NO_ROOM] += (double)c.no_room;
    values[METRIC_DISK_DAMAGED] += (double)c.damaged;
    values[METRIC_DISK_STALL] += (double)c.stalls;
}

static struct fetch_counters fetched(const struct host_metrics *m)
{
    bool there = host_set(m->host, CACHE_BACKING_TIERED);

    return there ? fetch_counters(m->host->caches[CACHE_BACKING_TIERED].fetch)
                 : (struct fetch_counters){0};
}

static void add_disk_behind(void *arg, double *values)
{
    *values += (double)fetched(arg).behind;
}

static void add_disk_not_written(void *arg, double *values)
{
    *values += (double)fetched(arg).not_written;
}

static void add_disk_writable(void *arg, double *values)
{
    *values += disk(arg).writable;
}

/* Which of the label's values the source in use is. */
static size_t source_index(const struct throttle_counts *c)
{
    size_t i = 0;

    while (throttle_source_name(i + 1) && strcmp(throttle_source_name(i), c->source) != 0)
        i++;
    return MIN(i, (size_t)METRIC_COUNT_throttle_source - 1);
}

static void add_pauses(void *arg, double *values)
{
    struct host_metrics *m = arg;
    struct throttle_counts c;

    throttle_read(m->throttle, &c, NULL, 0);
    values[source_index(&c)] += (double)c.pauses;
}

static void add_time(void *arg, double *values)
{
    struct host_metrics *m = arg;
    struct throttle_counts c;

    throttle_read(m->throttle, &c, NULL, 0);
    values[source_index(&c)] += metric_ms(c.paused_ns);
}

static void count_threads(void *arg, uint64_t at_ns, unsigned threads)
{
    (void)arg;
    (void)at_ns;
    metric_dirty_page_threads_add(threads);
}

static void watch(struct host_metrics *m, struct metrics_watch *w, enum metric_id metric,
                  void (*add)(void *arg, double *values))
{
    *w = (struct metrics_watch){.metric = metric, .add = add, .arg = m};
    metrics_watch(w);
}

int host_metrics_start(struct thaw_host *h, struct host_metrics **ret, struct thaw_error *e)
{
    struct host_metrics *m = calloc(1, sizeof(*m));
    int r;

    if (!m)
        return err_set(e, -ENOMEM, "no memory for metrics");
    m->host = h;
    r = throttle_start(&(struct throttle_options){.sample = count_threads}, &m->throttle, e);
    if (r < 0) {
        free(m);
        return r;
    }
    watch(m, &m->cache_bytes, METRIC_cache_bytes, add_cache_bytes);
    watch(m, &m->budget, METRIC_cache_budget, add_budget);
    watch(m, &m->not_kept, METRIC_cache_not_kept, add_not_kept);
    watch(m, &m->evictions, METRIC_cache_evictions, add_evictions);
    watch(m, &m->given_back, METRIC_cache_given_back, add_given_back);
    watch(m, &m->refused, METRIC_cache_refused, add_refused);
    watch(m, &m->paced, METRIC_cache_paced, add_paced);
    watch(m, &m->spilled, METRIC_cache_spilled, add_spilled);
    watch(m, &m->disk_written, METRIC_disk_written, add_disk_written);
    watch(m, &m->disk_evicted, METRIC_disk_evicted, add_disk_evicted);
    watch(m, &m->disk_errors, METRIC_disk_errors, add_disk_errors);
    watch(m, &m->disk_behind, METRIC_disk_behind, add_disk_behind);
    watch(m, &m->disk_not_written, METRIC_disk_not_written, add_disk_not_written);
    watch(m, &m->disk_writable, METRIC_disk_writable, add_disk_writable);
    watch(m, &m->pauses, METRIC_throttle_pauses, add_pauses);
    watch(m, &m->time, METRIC_throttle_time, add_time);
    *ret = m;
    return 0;
}

void host_metrics_stop(struct host_metrics *m)
{
    if (!m)
        return;
    metrics_unwatch(&m->cache_bytes);
    metrics_unwatch(&m->budget);
    metrics_unwatch(&m->not_kept);
    metrics_unwatch(&m->evictions);
    metrics_unwatch(&m->given_back);
    metrics_unwatch(&m->refused);
    metrics_unwatch(&m->paced);
    metrics_unwatch(&m->spilled);
    metrics_unwatch(&m->disk_written);
    metrics_unwatch(&m->disk_evicted);
    metrics_unwatch(&m->disk_errors);
    metrics_unwatch(&m->disk_behind);
    metrics_unwatch(&m->disk_not_written);
    metrics_unwatch(&m->disk_writable);
    metrics_unwatch(&m->pauses);
    metrics_unwatch(&m->time);
    throttle_stop(m->throttle);
    free(m);
}

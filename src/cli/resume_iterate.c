/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/resume_iterate.h"

#include <inttypes.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"
#include "base/size.h"
#include "base/units.h"
#include "cli/cli.h"
#include "cli/host_memory.h"

/* One thing that is measured in each iteration; those that lack it have fewer values. */
struct series {
    const char *name; /* static */
    double *values;   /* owned; room for all iterations */
    unsigned count;
};

struct measured {
    unsigned iterations, done;
    bool stopped;                          /* by a signal */
    struct series stages[THAW_STAGES_MAX]; /* when they were over, since the start */
    unsigned stage_count;
    struct series faults, waited, fetched;
    struct host_memory peak;
};

struct summary {
    double min, avg, p50, p95, p99, max;
};

static void measured_finish(struct measured *m)
{
    for (unsigned i = 0; i < m->stage_count; i++)
        free(m->stages[i].values);
    free(m->faults.values);
    free(m->waited.values);
    free(m->fetched.values);
}

static int series_add(struct series *s, unsigned room, double value)
{
    if (!s->values)
        s->values = calloc(room, sizeof(*s->values));
    if (!s->values)
        return -1;
    s->values[s->count++] = value;
    return 0;
}

static struct series *find_stage(struct measured *m, const char *name)
{
    struct series *s = m->stages;

    while (s < m->stages + m->stage_count && strcmp(s->name, name) != 0)
        s++;
    if (s == m->stages + THAW_STAGES_MAX)
        return NULL;
    if (s == m->stages + m->stage_count) {
        s->name = name;
        m->stage_count++;
    }
    return s;
}

static int measure(struct measured *m, struct thaw_sandbox *sandbox)
{
    struct thaw_sandbox_stats st;
    int r = 0;

    thaw_sandbox_stats(sandbox, &st);
    for (size_t i = 0; r == 0 && i < st.stage_count; i++) {
        struct series *s = find_stage(m, st.stages[i].name);

        r = s ? series_add(s, m->iterations, st.stages[i].at_ms) : 0;
    }
    if (r == 0)
        r = series_add(&m->faults, m->iterations, (double)st.faults.total);
    if (r == 0)
        r = series_add(&m->waited, m->iterations, (double)st.faults.store);
    if (r == 0)
        r = series_add(&m->fetched, m->iterations, (double)st.bytes.fetched);
    if (r < 0)
        fputs("thaw: no memory for measurements\n", stderr);
    m->done++;
    return r;
}

/* --- one iteration --- */

/*
 * The sandbox of the iteration before is stopped, but keeps its caches until this one has taken
 * them over; a cold iteration begins without.
 */
static int iterate(struct thaw_host *host, const struct thaw_resume_options *resume,
                   const struct serve_options *serve_options, bool cold, struct measured *m,
                   struct thaw_sandbox **before)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_sandbox *s;
    int status = EXIT_OK;

    if (cold) {
        thaw_sandbox_destroy(*before);
        *before = NULL;
    }
    if (thaw_resume(resume, &s, &e) < 0)
        return fail(&e);
    thaw_sandbox_destroy(*before);
    *before = s;
    if (serve_options->cmd)
        status = serve(host, s, serve_options, &m->stopped);
    host_memory_take(&m->peak);
    thaw_sandbox_stop(s);
    if (measure(m, s) < 0)
        return EXIT_FAILED;
    return status;
}

/* --- the result --- */

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Nearest rank: the smallest value that at least @q of all are not above. */
static double quantile(const struct series *s, double q)
{
    double rank = ceil(q * s->count);

    return s->values[rank < 1 ? 0 : (unsigned)rank - 1];
}

static struct summary summarise(const struct series *s)
{
    struct summary r = {0};

    if (s->count == 0)
        return r;
    qsort(s->values, s->count, sizeof(*s->values), by_value);
    for (unsigned i = 0; i < s->count; i++)
        r.avg += s->values[i] / s->count;
    r.min = s->values[0];
    r.max = s->values[s->count - 1];
    r.p50 = quantile(s, 0.50);
    r.p95 = quantile(s, 0.95);
    r.p99 = quantile(s, 0.99);
    return r;
}

static void show_row(const char *name, const struct series *s, double unit)
{
    struct summary r = summarise(s);

    printf("  %-26s %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, r.min / unit, r.avg / unit,
           r.p50 / unit, r.p95 / unit, r.p99 / unit, r.max / unit);
}

static void show(const struct measured *m, bool cold)
{
    char pss[SIZE_TEXT_BYTES], memfd[SIZE_TEXT_BYTES], dirty[SIZE_TEXT_BYTES],
        writeback[SIZE_TEXT_BYTES];

    printf("%u iterations, %s\n\n", m->done,
           cold ? "each with a cold cache" : "the first one cold");
    printf("  %-26s %10s %10s %10s %10s %10s %10s\n", "until, in ms", "min", "avg", "p50", "p95",
           "p99", "max");
    for (unsigned i = 0; i < m->stage_count; i++)
        show_row(m->stages[i].name, &m->stages[i], 1);
    printf("\n");
    show_row("page faults", &m->faults, 1);
    show_row("waited for the store", &m->waited, 1);
    show_row("MiB fetched", &m->fetched, (double)MIB);
    printf(
        "\n  at most: PSS %s, caches in memory %s; the host's dirty pages %s, under writeback %s\n",
        size_format(m->peak.pss_bytes, pss), size_format(m->peak.memfd_bytes, memfd),
        size_format(m->peak.dirty_bytes, dirty), size_format(m->peak.writeback_bytes, writeback));
}

static json_t *row_json(const struct series *s)
{
    struct summary r = summarise(s);

    return json_pack("{s:f, s:f, s:f, s:f, s:f, s:f, s:i}", "min", r.min, "avg", r.avg, "p50",
                     r.p50, "p95", r.p95, "p99", r.p99, "max", r.max, "count", (int)s->count);
}

static json_t *result_json(struct thaw_host *host, const struct measured *m, bool cold)
{
    json_t *stages = json_array();
    struct thaw_host_info info;

    for (unsigned i = 0; i < m->stage_count; i++) {
        json_t *row = row_json(&m->stages[i]);

        json_object_set_new(row, "name", json_string(m->stages[i].name));
        json_array_append_new(stages, row);
    }
    thaw_host_info(host, &info);
    return json_pack(
        "{s:i, s:b, s:s, s:s, s:o, s:o, s:o, s:o, s:{s:I, s:I, s:I, s:I}}", "iterations",
        (int)m->done, "cold", cold, "cache_backing", info.cache_backing, "cache_backing_source",
        info.cache_backing_source, "stages_ms", stages, "faults", row_json(&m->faults),
        "faults_store", row_json(&m->waited), "fetched_bytes", row_json(&m->fetched), "memory",
        "pss", (json_int_t)m->peak.pss_bytes, "memfd", (json_int_t)m->peak.memfd_bytes, "dirty",
        (json_int_t)m->peak.dirty_bytes, "writeback", (json_int_t)m->peak.writeback_bytes);
}

int resume_iterate(struct thaw_host *host, const struct thaw_resume_options *resume,
                   const struct serve_options *serve_options, unsigned iterations, bool cold)
{
    struct serve_options quiet = *serve_options;
    struct measured m = {.iterations = iterations};
    struct thaw_sandbox *last = NULL;
    int status = EXIT_OK, told = EXIT_OK;

    quiet.quiet = true;
    while (status == EXIT_OK && m.done < iterations && !m.stopped)
        status = iterate(host, resume, &quiet, cold, &m, &last);
    if (m.done > 0 && serve_options->json)
        told = print_json(result_json(host, &m, cold));
    else if (m.done > 0)
        show(&m, cold);
    thaw_sandbox_destroy(last);
    measured_finish(&m);
    return status != EXIT_OK ? status : told;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/expose.h"

#include <inttypes.h>
#include <locale.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "observe/registry.h"

/*
 * The text format, version 0.0.4: prometheus.io, "Exposition formats". Names, help and label values
 * are constants of ours without a backslash, quote or line feed, so that nothing needs escaping; a
 * test looks at that.
 */

#define NUMBER_MAX 32
#define LABELS_MAX 200

[[gnu::format(printf, 2, 3)]] static void put(struct buf *to, const char *fmt, ...)
{
    char line[512];
    va_list args;
    int n;

    va_start(args, fmt);
    n = vsnprintf(line, sizeof(line), fmt, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof(line))
        to->failed = true;
    else
        buf_put(to, line, (size_t)n);
}

/* @v with as few digits as lead back to it. */
static const char *number(double v, char ret[static NUMBER_MAX])
{
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(ret, NUMBER_MAX, "%.*g", digits, v);
        if (strtod(ret, NULL) == v)
            break;
    }
    return ret;
}

/* The labels of series @n of @m, separated by commas, without braces. */
static void format_labels(const struct metric *m, unsigned n, char ret[static LABELS_MAX])
{
    size_t len = 0;

    ret[0] = '\0';
    for (unsigned i = 0; i < METRIC_ATTRIBUTES_MAX && m->attributes[i] && len < LABELS_MAX; i++) {
        int added = snprintf(ret + len, LABELS_MAX - len, "%s%s=\"%s\"", i > 0 ? "," : "",
                             m->attributes[i]->name, metric_value_of(m, n, i));

        len += added > 0 ? (size_t)added : 0;
    }
}

static void put_sample(struct buf *to, const char *name, const char *suffix, const char *labels,
                       double v)
{
    char text[NUMBER_MAX];

    if (labels[0])
        put(to, "%s%s{%s} %s\n", name, suffix, labels, number(v, text));
    else
        put(to, "%s%s %s\n", name, suffix, number(v, text));
}

static void put_bucket(struct buf *to, const char *name, const char *labels, const char *bound,
                       uint64_t count)
{
    put(to, "%s_bucket{%s%sle=\"%s\"} %" PRIu64 "\n", name, labels, labels[0] ? "," : "", bound,
        count);
}

void expose_ladder(const struct histogram *h, uint64_t ret[static EXPOSE_LADDER_STEPS])
{
    memset(ret, 0, EXPOSE_LADDER_STEPS * sizeof(*ret));
    for (uint32_t i = 0; i < histogram_used(h); i++) {
        int32_t index = h->first + (int32_t)i;
        int32_t step = histogram_octave(index, h->scale) - EXPOSE_LADDER_LOW;

        if (step < EXPOSE_LADDER_STEPS)
            ret[step > 0 ? step : 0] += histogram_bucket(h, index);
    }
    ret[0] += h->zero_count;
    for (unsigned i = 1; i < EXPOSE_LADDER_STEPS; i++)
        ret[i] += ret[i - 1];
}

static void put_histogram(struct buf *to, const char *name, const char *labels,
                          const struct histogram *h)
{
    uint64_t counts[EXPOSE_LADDER_STEPS], total = histogram_count(h);
    char bound[NUMBER_MAX];

    expose_ladder(h, counts);
    for (int i = 0; i < EXPOSE_LADDER_STEPS; i++)
        put_bucket(to, name, labels, number(ldexp(1.0, EXPOSE_LADDER_LOW + i), bound), counts[i]);
    put_bucket(to, name, labels, "+Inf", total);
    put_sample(to, name, "_sum", labels, h->sum);
    put_sample(to, name, "_count", labels, (double)total);
}

static void put_metric(struct buf *to, const struct metric *m, const struct metrics *values)
{
    static const char *const types[] = {
        [METRIC_KIND_COUNTER] = "counter",
        [METRIC_KIND_GAUGE] = "gauge",
        [METRIC_KIND_HISTOGRAM] = "histogram",
    };
    char name[METRIC_PROMETHEUS_NAME_MAX], labels[LABELS_MAX];

    metric_prometheus_name(m, name);
    put(to, "# HELP %s %s\n# TYPE %s %s\n", name, m->help, name, types[m->kind]);
    for (unsigned i = 0; i < m->count; i++) {
        format_labels(m, i, labels);
        if (m->kind == METRIC_KIND_HISTOGRAM)
            put_histogram(to, name, labels, &values->histograms[m->histogram + i]);
        else
            put_sample(to, name, "", labels, values->values[m->series + i]);
    }
}

void expose_text(const struct metrics *m, struct buf *to)
{
    /* An embedder may have chosen a locale whose numbers have a comma. */
    locale_t c = newlocale(LC_ALL_MASK, "C", (locale_t)0);
    locale_t before;

    if (c == (locale_t)0) {
        to->failed = true;
        return;
    }
    before = uselocale(c);
    for (unsigned i = 0; i < METRICS; i++)
        put_metric(to, &metric_registry[i], m);
    uselocale(before);
    freelocale(c);
}

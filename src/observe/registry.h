/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_REGISTRY_H
#define THAW_OBSERVE_REGISTRY_H

/* What there is to know of each metric, for those who print them all. Constant; any thread. */

#include <stddef.h>

#include "observe/metrics.h"

#define METRIC_ATTRIBUTES_MAX 2

enum metric_kind { METRIC_KIND_COUNTER, METRIC_KIND_GAUGE, METRIC_KIND_HISTOGRAM };

struct metric_attribute {
    const char *name;
    const char *const *values;
    unsigned count;
};

struct metric {
    const char *name; /* OpenTelemetry's */
    const char *unit; /* UCUM, as OpenTelemetry has it: "ms", "By", "{thread}", or "" */
    const char *help;
    const struct metric_attribute
        *attributes[METRIC_ATTRIBUTES_MAX]; /* those there are, then NULL */
    enum metric_kind kind;
    unsigned series;    /* the first one's index in struct metrics.values */
    unsigned histogram; /* and in .histograms, for a histogram */
    unsigned count; /* how many series it has: the values of the last attribute change fastest */
};

extern const struct metric metric_registry[METRICS];

/** metric_value_of() - the value of attribute number @i for series number @n of @m */
const char *metric_value_of(const struct metric *m, unsigned n, unsigned i);

#define METRIC_PROMETHEUS_NAME_MAX 128

/**
 * metric_prometheus_name() - how Prometheus calls @m, by OpenTelemetry's rules of compatibility:
 * other characters than letters, digits, '_' and ':' become '_'; then the unit in words, unless it
 * is a {remark} or the name ends with it; then "_total" for a counter
 */
void metric_prometheus_name(const struct metric *m, char ret[static METRIC_PROMETHEUS_NAME_MAX]);

#endif

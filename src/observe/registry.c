/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/registry.h"

#include <assert.h>
#include <ctype.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#include "base/units.h"

/* ---- attributes ---- */

static const char *const result_values[] = {
    [METRIC_SUCCESS] = "success",
    [METRIC_FAILURE] = "failure",
};
static const char *const throttle_source_values[] = {
    [METRIC_THROTTLE_BPF] = "bpf",
    [METRIC_THROTTLE_PERF] = "perf",
    [METRIC_THROTTLE_DELAYACCT] = "delayacct",
    [METRIC_THROTTLE_WCHAN] = "wchan",
};
static const char *const where_values[] = {
    [METRIC_FROM_RAM] = "ram",
    [METRIC_FROM_DISK] = "disk",
    [METRIC_FROM_STORE] = "store",
    [METRIC_FROM_ZERO] = "zero",
};
static const char *const backing_values[] = {
    [METRIC_BACKING_FILE] = "file",
    [METRIC_BACKING_MEMFD] = "memfd",
    [METRIC_BACKING_POOL] = "pool",
    [METRIC_BACKING_DISK] = "disk",
};
static const char *const holds_values[] = {
    [METRIC_HOLDS_OBJECT] = "object",
    [METRIC_HOLDS_OVERLAY] = "overlay",
};
static const char *const source_values[] = {
    [METRIC_SOURCE_DISK] = "disk",
    [METRIC_SOURCE_STORE] = "store",
};
static const char *const step_values[] = {
    [METRIC_STEP_READ] = "read",
    [METRIC_STEP_VERIFY] = "verify",
};
static const char *const eviction_values[] = {
    [METRIC_EVICTION_NOT_KEPT] = "not_kept",
    [METRIC_EVICTION_COLD] = "cold",
};
static const char *const disk_error_values[] = {
    [METRIC_DISK_READ] = "read",       [METRIC_DISK_WRITE] = "write",
    [METRIC_DISK_NO_ROOM] = "no_room", [METRIC_DISK_DAMAGED] = "damaged",
    [METRIC_DISK_STALL] = "stall",
};
static const char *const nbd_op_values[] = {
    [METRIC_NBD_READ] = "read",
    [METRIC_NBD_WRITE] = "write",
    [METRIC_NBD_FLUSH] = "flush",
    [METRIC_NBD_TRIM] = "trim",
    [METRIC_NBD_CACHE] = "cache",
    [METRIC_NBD_WRITE_ZEROES] = "write_zeroes",
    [METRIC_NBD_BLOCK_STATUS] = "block_status",
    [METRIC_NBD_UNKNOWN] = "unknown",
};
static const char *const direction_values[] = {
    [METRIC_DIRECTION_READ] = "read",
    [METRIC_DIRECTION_WRITTEN] = "written",
};
static const char *const stage_values[] = {
    [METRIC_STAGE_BUILD_OPENED] = "build_opened",
    [METRIC_STAGE_MEMORY_LISTENING] = "memory_listening",
    [METRIC_STAGE_DISK_LISTENING] = "disk_listening",
    [METRIC_STAGE_VMM_STARTED] = "vmm_started",
    [METRIC_STAGE_STATE_FETCHED] = "state_fetched",
    [METRIC_STAGE_MEMORY_HANDED_OVER] = "memory_handed_over",
    [METRIC_STAGE_FIRST_FAULT] = "first_fault",
    [METRIC_STAGE_STATE_LOADED] = "state_loaded",
    [METRIC_STAGE_VCPUS_RUNNING] = "vcpus_running",
    [METRIC_STAGE_MEMORY_INSTALLED] = "memory_installed",
};
static const char *const error_values[] = {
    [METRIC_ERROR_DAMAGED] = "damaged",
    [METRIC_ERROR_MISSING] = "missing",
    [METRIC_ERROR_IO] = "io",
    [METRIC_ERROR_TIMEOUT] = "timeout",
    [METRIC_ERROR_PROTOCOL] = "protocol",
    [METRIC_ERROR_NO_MEMORY] = "no_memory",
    [METRIC_ERROR_NO_SPACE] = "no_space",
    [METRIC_ERROR_OTHER] = "other",
};
static const char *const loss_values[] = {
    [METRIC_LOSS_NOT_FINITE] = "not_finite",
    [METRIC_LOSS_NO_MEMORY] = "no_memory",
    [METRIC_LOSS_TOO_MANY] = "too_many",
};
static const char *const version_values[] = {
    [METRIC_VERSION_THIS] = THAW_VERSION,
};

#define ATTRIBUTE(id, text)                                                                        \
    static_assert(ARRAY_SIZE(id##_values) == METRIC_COUNT_##id, "each value has a text");          \
    static const struct metric_attribute attribute_##id = {                                        \
        .name = (text), .values = id##_values, .count = METRIC_COUNT_##id}

ATTRIBUTE(result, "result");
ATTRIBUTE(throttle_source, "source");
ATTRIBUTE(where, "where");
ATTRIBUTE(backing, "backing");
ATTRIBUTE(holds, "holds");
ATTRIBUTE(source, "source");
ATTRIBUTE(step, "step");
ATTRIBUTE(eviction, "reason");
ATTRIBUTE(disk_error, "kind");
ATTRIBUTE(nbd_op, "op");
ATTRIBUTE(direction, "direction");
ATTRIBUTE(stage, "stage");
ATTRIBUTE(error, "kind");
ATTRIBUTE(loss, "reason");
ATTRIBUTE(version, "version");

/* ---- metrics ---- */

#define KIND_counter    METRIC_KIND_COUNTER
#define KIND_counter_ms METRIC_KIND_COUNTER
#define KIND_gauge      METRIC_KIND_GAUGE
#define KIND_histogram  METRIC_KIND_HISTOGRAM

#define ENTRY(kind_, id, unit_, name_, help_)                                                      \
    .name = (name_), .unit = (unit_), .help = (help_), .kind = KIND_##kind_,                       \
    .series = METRIC_SERIES_##id, .histogram = METRIC_HISTOGRAM_##id,                              \
    .count = METRIC_SERIES_END_##id - METRIC_SERIES_##id + 1
#define ENTRY_0(kind, id, ...) [METRIC_##id] = {ENTRY(kind, id, __VA_ARGS__)},
#define ENTRY_1(kind, id, a, ...)                                                                  \
    [METRIC_##id] = {ENTRY(kind, id, __VA_ARGS__), .attributes = {&attribute_##a}},
#define ENTRY_2(kind, id, a, b, ...)                                                               \
    [METRIC_##id] = {ENTRY(kind, id, __VA_ARGS__), .attributes = {&attribute_##a, &attribute_##b}},

const struct metric metric_registry[METRICS] = {METRIC_LIST(ENTRY_0, ENTRY_1, ENTRY_2)};

const char *metric_value_of(const struct metric *m, unsigned n, unsigned i)
{
    assert(n < m->count && i < METRIC_ATTRIBUTES_MAX && m->attributes[i]);
    if (i == 0 && m->attributes[1])
        return m->attributes[0]->values[n / m->attributes[1]->count];
    return m->attributes[i]->values[n % m->attributes[i]->count];
}

/* ---- names for Prometheus ---- */

static const char *unit_in_words(const char *unit)
{
    static const struct {
        const char *unit, *words;
    } known[] = {{"ms", "milliseconds"}, {"s", "seconds"}, {"By", "bytes"}, {"", ""}};

    for (size_t i = 0; i < ARRAY_SIZE(known); i++) {
        if (strcmp(unit, known[i].unit) == 0)
            return known[i].words;
    }
    assert(unit[0] == '{');
    return "";
}

static bool ends_with_word(const char *name, const char *word)
{
    size_t n = strlen(name), len = strlen(word);

    return n > len && name[n - len - 1] == '_' && strcmp(name + n - len, word) == 0;
}

void metric_prometheus_name(const struct metric *m, char ret[static METRIC_PROMETHEUS_NAME_MAX])
{
    const char *unit = unit_in_words(m->unit);
    const char *total = m->kind == METRIC_KIND_COUNTER ? "_total" : "";
    char name[METRIC_PROMETHEUS_NAME_MAX];
    size_t len = 0;
    int n;

    for (const char *c = m->name; *c && len < sizeof(name) - 1; c++) {
        if (isalnum((unsigned char)*c) || *c == '_' || *c == ':')
            name[len++] = *c;
        else if (len > 0 && name[len - 1] != '_')
            name[len++] = '_';
    }
    name[len] = '\0';
    if (ends_with_word(name, unit))
        unit = "";
    n = snprintf(ret, METRIC_PROMETHEUS_NAME_MAX, "%s%s%s%s", name, unit[0] ? "_" : "", unit,
                 total);
    assert(n < METRIC_PROMETHEUS_NAME_MAX);
}

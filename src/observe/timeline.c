/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/timeline.h"

#include <string.h>

#include "base/clock.h"
#include "base/units.h"
#include "observe/metrics.h"

/* What thaw.resume.stage calls the events of every resume. Others are told, but not counted. */
static const struct {
    const char *name;
    enum metric_stage stage;
} stages[] = {
    {"build opened", METRIC_STAGE_BUILD_OPENED},
    {"memory server listening", METRIC_STAGE_MEMORY_LISTENING},
    {"disk listening", METRIC_STAGE_DISK_LISTENING},
    {"VMM started", METRIC_STAGE_VMM_STARTED},
    {"VMM state fetched", METRIC_STAGE_STATE_FETCHED},
    {"memory handed over", METRIC_STAGE_MEMORY_HANDED_OVER},
    {"first fault served", METRIC_STAGE_FIRST_FAULT},
    {"VMM state loaded", METRIC_STAGE_STATE_LOADED},
    {"vCPUs running", METRIC_STAGE_VCPUS_RUNNING},
    {"all memory installed", METRIC_STAGE_MEMORY_INSTALLED},
};
_Static_assert(ARRAY_SIZE(stages) == METRIC_COUNT_stage, "each stage is an event");

static void count_stage(const char *name, uint64_t at_ns)
{
    for (size_t i = 0; i < ARRAY_SIZE(stages); i++) {
        if (strcmp(stages[i].name, name) == 0)
            metric_resume_stage_record(metric_ms(at_ns), stages[i].stage);
    }
}

void timeline_start(struct timeline *t)
{
    *t = (struct timeline){.start_ns = clock_now_ns()};
}

void timeline_add(struct timeline *t, const char *name, uint64_t clock_ns)
{
    uint64_t at_ns = clock_ns > t->start_ns ? clock_ns - t->start_ns : 0;
    size_t i = t->count;

    if (t->count == TIMELINE_MAX)
        return;
    for (; i > 0 && t->events[i - 1].at_ns > at_ns; i--)
        t->events[i] = t->events[i - 1];
    t->events[i] = (struct timeline_event){.name = name, .at_ns = at_ns};
    t->count++;
    count_stage(name, at_ns);
}

void timeline_mark(struct timeline *t, const char *name)
{
    timeline_add(t, name, clock_now_ns());
}

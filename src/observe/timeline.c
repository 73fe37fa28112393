/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/timeline.h"

#include "base/clock.h"

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
}

void timeline_mark(struct timeline *t, const char *name)
{
    timeline_add(t, name, clock_now_ns());
}

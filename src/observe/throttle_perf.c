/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Counting by the tracepoint's samples. One ring for each processor takes the pauses of all
 * processes, since only that catches threads that are not born yet; ours are picked out here.
 */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "format/trace_format.h"
#include "kernel/perf.h"
#include "kernel/tracefs.h"
#include "observe/throttle_internal.h"

#define EVENT_FORMAT "events/writeback/" THROTTLE_EVENT "/format"
#define RING_BYTES   (256 * KIB) /* 1700 pauses between two looks */
#define MAX_CPUS     4096

struct perf_state {
    struct perf_ring *rings; /* owned; one for each processor that is online */
    size_t ring_count;
    struct trace_field pause; /* in milliseconds */
    pid_t pid;
};

static void perf_close(void *state)
{
    struct perf_state *s = state;

    if (!s)
        return;
    for (size_t i = 0; i < s->ring_count; i++)
        perf_ring_close(&s->rings[i]);
    free(s->rings);
    free(s);
}
DEFINE_CLEANUP(void, perf_close);

static int describe_event(struct perf_state *s, uint32_t *ret_id, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r = tracefs_load(EVENT_FORMAT, TRACE_FORMAT_MAX_BYTES, &text);

    if (r < 0)
        return err_errno(e, r, "tracefs: " EVENT_FORMAT);
    r = trace_format_decode(text.data, text.len, "pause", ret_id, &s->pause);
    if (r < 0)
        return err_errno(e, r, "tracefs: " EVENT_FORMAT);
    if (s->pause.bytes != sizeof(int64_t))
        return err_set(e, -EPROTO, "tracefs: " EVENT_FORMAT ": the pause has %u bytes, not 8",
                       s->pause.bytes);
    return 0;
}

static int open_rings(struct perf_state *s, struct thaw_error *e)
{
    long cpus = sysconf(_SC_NPROCESSORS_CONF);
    uint32_t id = 0;
    int r = describe_event(s, &id, e);

    if (r < 0)
        return r;
    if (cpus < 1 || cpus > MAX_CPUS)
        cpus = MAX_CPUS;
    s->rings = calloc((size_t)cpus, sizeof(*s->rings));
    if (!s->rings)
        return err_set(e, -ENOMEM, "no memory");
    for (int cpu = 0; cpu < cpus; cpu++) {
        r = perf_ring_open(id, cpu, "pause > 0", RING_BYTES, &s->rings[s->ring_count]);
        if (r == -ENODEV) /* offline */
            continue;
        if (r < 0)
            return err_errno(e, r, "a perf ring on processor %d (needs CAP_PERFMON)", cpu);
        s->ring_count++;
    }
    return s->ring_count > 0 ? 0 : err_set(e, -ENODEV, "no processor is online");
}

static int perf_open(void **ret_state, struct thaw_error *e)
{
    struct perf_state *s = calloc(1, sizeof(*s));
    void *owned CLEANUP(cleanup_perf_close) = s;
    int r;

    if (!s)
        return err_set(e, -ENOMEM, "no memory");
    s->pid = getpid();
    r = open_rings(s, e);
    if (r < 0)
        return r;
    *ret_state = TAKE_PTR(owned);
    return 0;
}

static void take_sample(void *arg, const struct perf_sample *sample)
{
    struct throttle *t = arg;
    const struct perf_state *s = t->state;
    int64_t pause_ms;

    if (sample->pid != s->pid || sample->raw_len < s->pause.offset ||
        sample->raw_len - s->pause.offset < sizeof(pause_ms))
        return;
    memcpy(&pause_ms, (const uint8_t *)sample->raw + s->pause.offset, sizeof(pause_ms));
    if (pause_ms > 0)
        throttle_add(t, sample->tid, 1, (uint64_t)pause_ms * NS_PER_MS);
}

static void perf_collect(struct throttle *t)
{
    struct perf_state *s = t->state;

    for (size_t i = 0; i < s->ring_count; i++)
        t->counts.lost += perf_ring_drain(&s->rings[i], take_sample, t);
}

const struct throttle_source throttle_perf = {
    .name = "perf",
    .exact = true,
    .open = perf_open,
    .collect = perf_collect,
    .close = perf_close,
};

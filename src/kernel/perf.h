/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_PERF_H
#define THAW_KERNEL_PERF_H

/*
 * perf_event_open(2), as a reader of one tracepoint: every event of every process on one processor,
 * in a ring that is shared with the kernel. Needs CAP_PERFMON, root, or perf_event_paranoid < 0.
 * A ring belongs to one thread at a time.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct perf_ring {
    int fd;    /* owned */
    void *map; /* owned: a page of control, then the ring */
    size_t map_len;
    size_t data_len; /* of the ring, a power of two */
};

#define PERF_RING_NONE                                                                             \
    {                                                                                              \
        .fd = -1                                                                                   \
    }

/**
 * struct perf_sample - one event
 * @pid, @tid: in the PID namespace of whoever opened the ring; 0 for what is not visible there
 * @raw: the tracepoint's fields as its format file says; valid during the call
 */
struct perf_sample {
    pid_t pid, tid;
    const void *raw;
    size_t raw_len;
};

/**
 * perf_ring_open() - collect tracepoint @event_id on @cpu
 * @filter: on the tracepoint's fields, as "pause > 0"
 * @data_bytes: of the ring; a power of two and at least a page
 *
 * Returns: 0 or -errno: -EACCES or -EPERM without the right, -ENODEV when the processor is offline.
 */
[[gnu::warn_unused_result]] int perf_ring_open(uint32_t event_id, int cpu, const char *filter,
                                               size_t data_bytes, struct perf_ring *ret);

/** perf_ring_drain() - hand over what has been collected since; returns how many events were lost
 * because the ring was full */
uint64_t perf_ring_drain(struct perf_ring *ring,
                         void (*take)(void *arg, const struct perf_sample *sample), void *arg);

/** perf_ring_close() - also for one that was never opened but set to PERF_RING_NONE */
void perf_ring_close(struct perf_ring *ring);

#endif

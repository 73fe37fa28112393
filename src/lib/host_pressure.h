/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_LIB_HOST_PRESSURE_H
#define THAW_LIB_HOST_PRESSURE_H

/*
 * A thread, `thaw-pressure`, that waits for the host to be short of memory and has the caches give
 * some back. It serves no guest, and may block.
 */

#include "base/cleanup.h"

struct cache_set;
struct host_pressure;
struct pressure;

/**
 * struct host_pressure_ops - where the news come from; for tests
 * @open: as pressure_open() of this system
 * @events: what to poll for
 * @take: the events are there: take them, if they do not go by being seen. May be NULL.
 */
struct host_pressure_ops {
    int (*open)(struct pressure *ret);
    short events;
    void (*take)(int fd);
};

extern const struct host_pressure_ops host_pressure_kernel;

/**
 * host_pressure_start() - give back from @set, which outlives it. Control thread.
 *
 * Returns: 0; or -errno where nobody tells, which a debug line says.
 */
[[gnu::warn_unused_result]] int host_pressure_start(struct cache_set *set,
                                                    const struct host_pressure_ops *ops,
                                                    struct host_pressure **ret);

/** host_pressure_stop() - on return the thread has ended. NULL is allowed. */
void host_pressure_stop(struct host_pressure *p);

#endif

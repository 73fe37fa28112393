/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_GUARDIAN_H
#define THAW_VMM_QEMU_GUARDIAN_H

/*
 * A small process that outlives us if we are killed while a guest stands still for us, and then
 * says to its QEMU what we can no longer say. Control thread.
 */

#include <stddef.h>
#include <sys/types.h>

#include "base/error.h"

struct qemu_guardian {
    pid_t pid; /* 0: none */
    int fd;    /* owned; what it waits at */
};

#define QEMU_GUARDIAN_INIT                                                                         \
    {                                                                                              \
        .fd = -1                                                                                   \
    }

/**
 * qemu_guardian_start() - watch over this process
 * @monitor: the socket of a negotiated QMP connection; borrowed for the call
 * @words: commands, each a line; said until QEMU tells of the event RESUME, some seconds at most
 */
[[gnu::warn_unused_result]] int qemu_guardian_start(struct qemu_guardian *g, int monitor,
                                                    const char *words, struct thaw_error *e);

/** qemu_guardian_end() - it is not needed any more; returns when it is gone */
void qemu_guardian_end(struct qemu_guardian *g);

#endif

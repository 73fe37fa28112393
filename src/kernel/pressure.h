/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_PRESSURE_H
#define THAW_KERNEL_PRESSURE_H

/*
 * Pressure stall information of memory, as a trigger: the kernel tells when some task has waited
 * for memory for 150 ms of the last 2 s. Kernel documentation, accounting/psi.rst; a window of
 * whole 2 s is what a process without CAP_SYS_RESOURCE may ask for.
 *
 * Any thread.
 */

#include <limits.h>

#define PRESSURE_TRIGGER "some 150000 2000000"

/** struct pressure - a trigger: poll @fd for POLLPRI; POLLERR: it is gone, with its cgroup */
struct pressure {
    int fd;              /* owned */
    char path[PATH_MAX]; /* where it comes from, for reports */
};

/**
 * pressure_open() - arm a trigger
 * @root: put before all paths, as in memory_limit.h; "" for this system
 *
 * That of the memory cgroup of version 2 that this process is in, if it may be used; else that of
 * the host.
 *
 * Returns: 0 and the caller closes @ret->fd; or -errno, of the host's: -ENOENT or -EOPNOTSUPP where
 * the kernel does not tell, -EACCES, -EPERM.
 */
[[gnu::warn_unused_result]] int pressure_open(const char *root, struct pressure *ret);

#endif

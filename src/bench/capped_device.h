/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_CAPPED_DEVICE_H
#define THAW_BENCH_CAPPED_DEVICE_H

/*
 * A file system whose device writes slowly and whose share of dirty pages is small, so that whoever
 * dirties its files soon sleeps in balance_dirty_pages(). Made of a loop device over a file without
 * a name, ext4, a limit of the block I/O controller (version 1 or 2 of cgroups), and the device's
 * own limits of dirty pages (/sys/class/bdi). Needs root. Nothing else on the host is limited.
 *
 * All of it is made, and undone, by a process of its own, the keeper: it waits for the end of a
 * socket, which comes with capped_device_close() or with the death of its maker, however that dies.
 * The keeper ignores the signals of a terminal and of a job's end.
 *
 * For one thread. Make it before there are other threads: it forks and goes on without exec.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"

struct capped_device;

/**
 * struct capped_device_options
 * @scratch: a folder on a file system with room; the device is mounted on a new folder in it
 * @size_bytes: of the file system; its file is sparse
 * @write_bytes_per_s: what the device writes at most; 0: no limit
 * @dirty_percent: of the memory that may be dirty, what the device gets at most, 1 to 100; the
 *                 limit holds also while the rest is free, where the kernel can do that (6.2)
 * @delay_accounting: have the kernel count the delays of threads that begin while the device
 *                    exists (sysctl kernel.task_delayacct), where it can; waits for other devices
 *                    that have asked for it
 */
struct capped_device_options {
    const char *scratch;
    uint64_t size_bytes;
    uint64_t write_bytes_per_s;
    unsigned dirty_percent;
    bool delay_accounting;
};

/**
 * capped_device_open() - make one
 *
 * Returns: 0; -EPERM or -EACCES without the right, -EOPNOTSUPP when neither kind of cgroup here
 * limits block I/O, or -errno; @e says which step failed. Nothing is left over then.
 */
[[gnu::warn_unused_result]] int capped_device_open(const struct capped_device_options *options,
                                                   struct capped_device **ret,
                                                   struct thaw_error *e);

/** capped_device_path() - where it is mounted; valid until the close */
const char *capped_device_path(const struct capped_device *d);

/**
 * capped_device_close() - undo all of it and wait for that; NULL is allowed
 *
 * Files on it should be closed; if not, it goes away with the last of them.
 * Returns: 0, or -EIO when something could not be undone, which was said on stderr.
 */
int capped_device_close(struct capped_device *d);

#endif

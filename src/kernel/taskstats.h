/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_TASKSTATS_H
#define THAW_KERNEL_TASKSTATS_H

/*
 * The kernel's accounts of one thread, by generic netlink (Documentation/accounting/taskstats.rst).
 * Needs CAP_NET_ADMIN. Delays are counted only in threads that began while sysctl
 * kernel.task_delayacct was 1. One thread at a time per socket.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct taskstats_socket {
    int fd; /* owned */
    uint16_t family;
};

/* How often, and how long, a thread has waited for block devices. */
struct taskstats_delay {
    uint64_t count;
    uint64_t ns;
};

/** taskstats_open() - 0 or -errno; -ENOENT when the kernel has no taskstats */
[[gnu::warn_unused_result]] int taskstats_open(struct taskstats_socket *ret);

/** taskstats_delay_of() - of thread @tid; 0, -ESRCH when it is gone, -EPERM,
 * -EOPNOTSUPP where the kernel's accounts are laid out otherwise (6.14), or -errno */
[[gnu::warn_unused_result]] int taskstats_delay_of(struct taskstats_socket *s, pid_t tid,
                                                   struct taskstats_delay *ret);

void taskstats_close(struct taskstats_socket *s);

/** delayacct_enabled() - whether threads that begin now have their delays counted */
bool delayacct_enabled(void);

#endif

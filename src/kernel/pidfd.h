/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_PIDFD_H
#define THAW_KERNEL_PIDFD_H

/* Processes by descriptor: readable when the process has ended, never another process's. */

#include <sys/types.h>

/** pidfd_open_pid() - a descriptor of process @pid (close-on-exec), or -errno */
[[gnu::warn_unused_result]] int pidfd_open_pid(pid_t pid);

/**
 * pidfd_of_peer() - a descriptor of the process that connected unix socket @sock
 * @ret_pid: its number in our namespace, 0 when it has none there
 *
 * Uses SO_PEERPIDFD where the kernel has it (6.5), else SO_PEERCRED and pidfd_open(2).
 * Returns: the descriptor, or -errno; -ESRCH when the peer is gone or is not visible from here.
 */
[[gnu::warn_unused_result]] int pidfd_of_peer(int sock, pid_t *ret_pid);

/** pidfd_kill() - send @sig; 0 or -errno (-ESRCH: it ended already) */
int pidfd_kill(int pidfd, int sig);

#endif

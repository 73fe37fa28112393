/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_UFFD_H
#define THAW_KERNEL_UFFD_H

/*
 * userfaultfd(2), as the side that serves faults sees it. The descriptor comes from the VMM that
 * registered its memory. All calls for one VM come from that VM's pager thread: once a REMOVE event
 * has been read, a copy from any other thread would still succeed and leave stale data where the
 * guest must read zeros.
 *
 * The calls go through struct uffd_ops, so that a test can make the kernel say EAGAIN or ESRCH on
 * demand; uffd_kernel is the real one.
 */

#include <linux/userfaultfd.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

/**
 * struct uffd_ops - what a pager asks of a userfaultfd
 * @read: fetch up to @max events; the count, -EAGAIN when there are none, or -errno
 * @copy: install @len_bytes from @src at @dst and wake its waiters; 0, or
 *        -EEXIST a page was there already (nothing is woken),
 *        -EAGAIN an event is unread or the mapping was changing (nothing is woken, nothing is
 *        redelivered: the caller retries), -ENOENT no such registered range any more,
 *        -ESRCH the process is gone. @ret_done says how many bytes were installed all the same.
 * @zero: the same with zero pages; no memory is used for them in anonymous mappings
 * @wake: wake whoever waits for a page of the range
 * @poison: make accesses to the range fail with SIGBUS (or -EFAULT in a vCPU); -EOPNOTSUPP before
 *          Linux 6.6
 * @unprotect: allow writes to the range and wake whoever waits to; 0 or as @copy
 */
struct uffd_ops {
    int (*read)(int fd, struct uffd_msg *ret, size_t max);
    int (*copy)(int fd, struct host_addr dst, const void *src, uint64_t len_bytes,
                uint64_t *ret_done);
    int (*zero)(int fd, struct host_addr dst, uint64_t len_bytes, uint64_t *ret_done);
    int (*wake)(int fd, struct host_addr at, uint64_t len_bytes);
    int (*poison)(int fd, struct host_addr at, uint64_t len_bytes);
    int (*unprotect)(int fd, struct host_addr at, uint64_t len_bytes);
};

extern const struct uffd_ops uffd_kernel;

/** uffd_is_one() - whether @fd is a userfaultfd at all; a peer may send anything */
bool uffd_is_one(int fd);

/**
 * uffd_guard_open() - a userfaultfd that makes errors of holes
 *
 * In memory added to it, an access to a page that its file does not hold does not allocate one: it
 * is SIGBUS for a program, and -EFAULT for a system call (UFFD_FEATURE_SIGBUS, userfaultfd(2)).
 * Nobody reads events from it. It asks for no faults of the kernel, which needs no privilege: the
 * error is the same for them. Closing it lifts the guard.
 *
 * Returns: the descriptor, or -EPERM or -ENOSYS where the system keeps it from us, -EOPNOTSUPP
 * where the kernel cannot do this for shared memory.
 */
[[gnu::warn_unused_result]] int uffd_guard_open(void);

/** uffd_guard_add() - guard a shared mapping of a memfd; until it is unmapped. 0 or -errno. */
[[gnu::warn_unused_result]] int uffd_guard_add(int fd, void *start, size_t len_bytes);

#endif

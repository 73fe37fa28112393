/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_BUS_H
#define THAW_CACHE_BUS_H

/*
 * Touching a mapped file whose disk may be full or broken, or storing to memory that was lost: the
 * kernel answers with SIGBUS, which here is an error instead of the end of the process. A handler
 * jumps back to the thread's last bus_call(); a SIGBUS anywhere else is for whoever handled it
 * before.
 *
 * Why not process_vm_writev(2) on ourselves, which gets EFAULT: bytes are not only copied to such
 * memory, sums are computed over it where it lies; and for what is stored it would be twice as slow
 * as a store, so that `file` would compare worse than it is. Reads use process_vm_readv(2), as for
 * the other backings.
 */

#include <stddef.h>

/**
 * bus_guard() - install the handler, unless it is; without it bus_call() does not protect
 *
 * Each cache does so. Who installs another handler later should pass on to the old one.
 * Returns: 0 or -errno.
 */
[[gnu::warn_unused_result]] int bus_guard(void);

/**
 * bus_call() - call @fn(@arg), which may be left at any access to memory
 *
 * So it must own nothing: no lock, no allocation. Calls do not nest. Any thread.
 * Returns: 0, or -EFAULT if it was left.
 */
[[gnu::warn_unused_result]] int bus_call(void (*fn)(void *arg), void *arg);

/** bus_copy() - memcpy(3); 0, or -EFAULT if not all could be copied */
[[gnu::warn_unused_result]] int bus_copy(void *to, const void *from, size_t len);

#endif

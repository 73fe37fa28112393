/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_GUARD_H
#define THAW_CACHE_GUARD_H

/*
 * One userfaultfd for all guarded mappings of the process, open as long as there are any. Any
 * thread that may block.
 */

#include <stddef.h>

/**
 * guard_get() - guard the shared mapping at @start: see uffd_guard_open()
 *
 * Returns: 0, to be given back with guard_put() after unmapping; or -errno: it is not guarded.
 */
[[gnu::warn_unused_result]] int guard_get(void *start, size_t len_bytes);

void guard_put(void);

#endif

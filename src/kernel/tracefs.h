/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_TRACEFS_H
#define THAW_KERNEL_TRACEFS_H

/* The files that describe the kernel's tracepoints. Any thread. */

#include <stddef.h>

#include "base/bytes.h"

/**
 * tracefs_load() - append file @path, as "events/writeback/balance_dirty_pages/format"
 * @max_bytes: more is refused with -EFBIG
 *
 * Looks where tracefs is mounted by custom. Where it is not, an instance is mounted that has no
 * place in the tree and is gone after the call, which needs CAP_SYS_ADMIN.
 * Returns: 0 or -errno: -ENOENT without such a file, -EACCES or -EPERM without the right.
 */
[[gnu::warn_unused_result]] int tracefs_load(const char *path, size_t max_bytes, struct buf *ret);

#endif

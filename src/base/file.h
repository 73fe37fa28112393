/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_FILE_H
#define THAW_BASE_FILE_H

/* Whole-buffer file I/O that retries EINTR and short transfers. Control paths only: these block. */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/bytes.h"

/** file_read_at() - up to @len bytes at @off; the count (short only at end of file) or -errno */
[[gnu::warn_unused_result]] ssize_t file_read_at(int fd, void *buf, size_t len, uint64_t off);

/** file_write_at() - exactly @len bytes at @off; 0 or -errno (-EIO when the kernel takes nothing)
 */
[[gnu::warn_unused_result]] int file_write_at(int fd, const void *buf, size_t len, uint64_t off);

/**
 * file_load() - append the whole of @path (below directory @dir_fd, or AT_FDCWD) to @ret
 * @max_bytes: a larger file is refused with -EFBIG before any of it is read
 *
 * Returns: 0 or -errno; on failure @ret may hold a part and is still the caller's to finish.
 */
[[gnu::warn_unused_result]] int file_load(int dir_fd, const char *path, size_t max_bytes,
                                          struct buf *ret);

/** file_load_fd() - the same for a file that is open; -EINVAL for anything but a regular file */
[[gnu::warn_unused_result]] int file_load_fd(int fd, size_t max_bytes, struct buf *ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_EXPORT_FILE_H
#define THAW_IMAGE_EXPORT_FILE_H

/*
 * A file that appears under its name when it is complete, or never. Pages of zeros become holes.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/uuid.h"

struct thaw_error;

struct export_file {
    const char *name; /* borrowed */
    int dir_fd;       /* borrowed */
    int fd;           /* owned; -1: not begun */
    uint64_t size_bytes;
    _Atomic(uint64_t) written_bytes; /* [a] relaxed: pages that are not zeros */
    bool named;
    char temporary[UUID_TEXT_BYTES + 8];
};

/** export_file_begin() - a file of @size_bytes zeros in @dir_fd, to be @name one day */
[[gnu::warn_unused_result]] int export_file_begin(struct export_file *f, int dir_fd,
                                                  const char *name, uint64_t size_bytes,
                                                  struct thaw_error *e);

/**
 * export_file_write() - put @len_bytes at @offset, a multiple of PAGE_BYTES
 *
 * What lies beyond the end of the file is dropped. Any thread. Returns: 0 or -errno.
 */
[[gnu::warn_unused_result]] int export_file_write(struct export_file *f, const void *bytes,
                                                  uint64_t offset, size_t len_bytes);

/** export_file_flush() - bring it to the disk */
[[gnu::warn_unused_result]] int export_file_flush(struct export_file *f, struct thaw_error *e);

/** export_file_name() - let it appear; -EEXIST when the name has been taken meanwhile */
[[gnu::warn_unused_result]] int export_file_name(struct export_file *f, struct thaw_error *e);

/** export_file_finish() - close it; unless @keep, it is removed under whatever name it has */
void export_file_finish(struct export_file *f, bool keep);

#endif

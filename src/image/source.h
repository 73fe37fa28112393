/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_SOURCE_H
#define THAW_IMAGE_SOURCE_H

/*
 * A raw image to make a build of: a file or a block device. Holes are told, not read; an image that
 * is cut or written to meanwhile is refused, for what was read of it never was its content.
 * Reading: any thread. The rest: control thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct thaw_error;

struct source {
    const char *path; /* borrowed */
    int fd;           /* owned; -1: none */
    uint64_t size_bytes;
    bool is_file;          /* not a device */
    struct timespec mtime; /* when it was opened */
};

/** source_open() - open @path into *@ret, whose path stays the caller's */
[[gnu::warn_unused_result]] int source_open(const char *path, struct source *ret,
                                            struct thaw_error *e);

/** source_close() - a source that is all zeros but for fd -1 is allowed */
void source_close(struct source *s);

/**
 * source_next_data() - the first stretch of data that begins at or reaches beyond @from
 * @ret_start, @ret_end: in bytes, not rounded; at least @from, at most the size of the image
 *
 * Returns: false when only a hole follows. Where holes cannot be asked for, all is data.
 */
bool source_next_data(const struct source *s, uint64_t from, uint64_t *ret_start,
                      uint64_t *ret_end);

/** source_will_read() - a hint that the kernel may begin to read */
void source_will_read(const struct source *s, uint64_t offset, uint64_t len_bytes);

/** source_read() - exactly @len_bytes; -ESTALE when the image ends before */
[[gnu::warn_unused_result]] int source_read(const struct source *s, void *buf, size_t len_bytes,
                                            uint64_t offset, struct thaw_error *e);

/** source_check_unchanged() - -ESTALE when the file was written to since source_open() */
[[gnu::warn_unused_result]] int source_check_unchanged(const struct source *s,
                                                       struct thaw_error *e);

#endif

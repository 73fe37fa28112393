/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_SOURCE_H
#define THAW_IMAGE_SOURCE_H

/*
 * A raw image to make a build of: a file, a block device, an export of an NBD server, or what
 * another layer has the operations for. Holes are told, not read; a file that is cut or written to
 * meanwhile is refused, for what was read of it never was its content. Reading: any thread. The
 * rest: control thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <time.h>

struct source;
struct thaw_error;

/**
 * struct source_ops - one kind of source; see the functions below
 * @will_read, @check_unchanged: NULL where there is nothing to do
 */
struct source_ops {
    bool (*next_data)(const struct source *s, uint64_t from, uint64_t *ret_start,
                      uint64_t *ret_end);
    void (*will_read)(const struct source *s, uint64_t offset, uint64_t len_bytes);
    int (*read)(const struct source *s, void *buf, size_t len_bytes, uint64_t offset,
                struct thaw_error *e);
    int (*check_unchanged)(const struct source *s, struct thaw_error *e);
    void (*close)(struct source *s);
};

/* All zeros: none. */
struct source {
    const struct source_ops *ops;
    const char *path; /* borrowed; what it is called in messages */
    uint64_t size_bytes;
    int cancel_fd; /* borrowed; readable: give up; 0: none */
    void *impl;    /* what a kind of its own needs; owned */
    /* Of a file or device: */
    int fd;                /* owned */
    bool may_change;       /* a file that others may write to */
    struct timespec mtime; /* when it was opened */
};

/** source_open() - open @path, which stays the caller's: a file, a device, or an NBD URI */
[[gnu::warn_unused_result]] int source_open(const char *path, struct source *ret,
                                            struct thaw_error *e);

/**
 * source_of_fd() - a source that reads @size_bytes from @fd, which becomes its own
 * @name: borrowed
 *
 * That nobody writes to it is the caller's to see to.
 */
void source_of_fd(int fd, const char *name, uint64_t size_bytes, struct source *ret);

/** source_close() - release; a source that is all zeros is allowed */
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

/** source_read() - exactly @len_bytes; -ESTALE when the image ends before, -ECANCELED when told */
[[gnu::warn_unused_result]] int source_read(const struct source *s, void *buf, size_t len_bytes,
                                            uint64_t offset, struct thaw_error *e);

/** source_check_unchanged() - -ESTALE when the file was written to since source_open() */
[[gnu::warn_unused_result]] int source_check_unchanged(const struct source *s,
                                                       struct thaw_error *e);

#endif

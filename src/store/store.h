/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_STORE_STORE_H
#define THAW_STORE_STORE_H

/*
 * Where builds live: objects named by (build, name), immutable once written.
 *
 * Two ways in. The guest's way is store_read(): asynchronous, any thread, completed on a thread of
 * the store, allocates nothing. The operator's way (get, write, list, ...) blocks and explains
 * itself; control threads only.
 *
 * Errors: -ENOENT no such object, -EEXIST the object is there already (nothing is ever
 * overwritten), -EBADMSG the stored bytes cannot be what was asked for, -EIO and the like as the
 * store has them.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/units.h"
#include "base/uuid.h"
#include "kernel/io.h"

struct store;
struct store_object;
struct store_writer;
struct thaw_error;

/**
 * store_open() - open the store that @url names: DIR or file:///DIR
 * @io: carries the reads of a directory store; must outlive the store
 * @create: make the folder if it is missing
 */
[[gnu::warn_unused_result]] int store_open(const char *url, struct io_engine *io, bool create,
                                           struct store **ret, struct thaw_error *e);

/** store_close() - every object and writer of @s must be closed before. NULL is allowed. */
void store_close(struct store *s);

DEFINE_CLEANUP(struct store, store_close);
#define CLEANUP_STORE CLEANUP(cleanup_store_close)

/**
 * store_object_open() - a handle for reading object @name of @build
 *
 * Touches nothing: a missing object shows as -ENOENT at the first read. @name is at most
 * STORE_NAME_MAX characters of [A-Za-z0-9._-] and does not begin with a dot: -EINVAL.
 */
[[gnu::warn_unused_result]] int store_object_open(struct store *s, const struct uuid *build,
                                                  const char *name, struct store_object **ret);
#define STORE_NAME_MAX 100

/** store_object_close() - no read may be under way. NULL is allowed. */
void store_object_close(struct store_object *o);

/**
 * struct store_read - one ranged read
 * @buf: page-aligned, with room for @len_bytes rounded up to whole pages
 * @offset: a multiple of the page size
 * @done: called on a store thread with the number of bytes read, short only at the end of the
 *        object, or -errno; the struct is the caller's again
 */
struct store_read {
    struct store_object *object;
    void *buf;
    size_t len_bytes;
    struct c_off offset;
    enum io_priority priority;
    void (*done)(struct store_read *self, int64_t result);

    struct io_request io;    /* store only */
    struct store_read *next; /* store only */
};

/** store_read() - start @r. Any thread; neither blocks nor fails. */
void store_read(struct store_read *r);

/**
 * store_get() - append the whole of a small object to @ret
 * @max_bytes: a larger object is refused with -EFBIG
 */
[[gnu::warn_unused_result]] int store_get(struct store *s, const struct uuid *build,
                                          const char *name, size_t max_bytes, struct buf *ret,
                                          struct thaw_error *e);

/** store_size() - the size of an object as it is stored; 0, or -ENOENT and the like */
[[gnu::warn_unused_result]] int store_size(struct store *s, const struct uuid *build,
                                           const char *name, uint64_t *ret_bytes);

/** store_put() - write a small object, atomically and durably */
[[gnu::warn_unused_result]] int store_put(struct store *s, const struct uuid *build,
                                          const char *name, const void *bytes, size_t len_bytes,
                                          struct thaw_error *e);

/**
 * store_writer_open() - begin an object that is written front to back
 *
 * The object does not exist, under any name that a reader could ask for, before
 * store_writer_commit() has returned 0; from then on it survives a power loss.
 */
[[gnu::warn_unused_result]] int store_writer_open(struct store *s, const struct uuid *build,
                                                  const char *name, struct store_writer **ret,
                                                  struct thaw_error *e);

[[gnu::warn_unused_result]] int store_writer_append(struct store_writer *w, const void *bytes,
                                                    size_t len_bytes, struct thaw_error *e);

/** store_writer_commit() - make the object exist; -EEXIST if somebody else was first */
[[gnu::warn_unused_result]] int store_writer_commit(struct store_writer *w, struct thaw_error *e);

/** store_writer_close() - release @w, and what it wrote unless it was committed. NULL is allowed.
 */
void store_writer_close(struct store_writer *w);

DEFINE_CLEANUP(struct store_writer, store_writer_close);
#define CLEANUP_STORE_WRITER CLEANUP(cleanup_store_writer_close)

#endif

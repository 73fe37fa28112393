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
 * overwritten), -EBADMSG the stored bytes cannot be what was asked for (what bears the name is not
 * even a file), -EINVAL a name is none, -EBUSY another process is writing or deleting the build,
 * -EIO and the like as the store has them.
 *
 * The name of an object is at most STORE_NAME_MAX characters of [A-Za-z0-9._-] and does not begin
 * with a dot. Nothing that is still being written is ever seen under such a name.
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

/** store_origin() - a number that no other store has, and that this one has at its next opening */
uint64_t store_origin(const struct store *s);

/**
 * store_object_open() - a handle for reading object @name of @build
 *
 * Touches nothing: a missing object shows as -ENOENT at the first read. Returns: 0, -ENOMEM or
 * -EINVAL.
 */
[[gnu::warn_unused_result]] int store_object_open(struct store *s, const struct uuid *build,
                                                  const char *name, struct store_object **ret);
#define STORE_NAME_MAX 63

/** store_object_close() - no read may be under way. NULL is allowed. */
void store_object_close(struct store_object *o);

/**
 * struct store_read - one ranged read
 * @buf: page-aligned, with room for @len_bytes rounded up to whole pages
 * @iov, @iov_count: unless the count is 0, in place of @buf: page-aligned pieces of whole pages, as
 *                   much together. They are changed.
 * @offset: a multiple of the page size
 * @done: called on a store thread with the number of bytes read, short only at the end of the
 *        object, or -errno; the struct is the caller's again
 */
struct store_read {
    struct store_object *object;
    void *buf;
    struct iovec *iov;
    unsigned iov_count;
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
 * store_writer_commit() is called; when that has returned 0, it survives a power loss.
 *
 * The first writer makes the build this store's to write, until its manifest is there, it is
 * discarded or the store is closed. Meanwhile other stores, also those of other processes, are told
 * -EEXIST.
 */
[[gnu::warn_unused_result]] int store_writer_open(struct store *s, const struct uuid *build,
                                                  const char *name, struct store_writer **ret,
                                                  struct thaw_error *e);

[[gnu::warn_unused_result]] int store_writer_append(struct store_writer *w, const void *bytes,
                                                    size_t len_bytes, struct thaw_error *e);

/**
 * store_writer_commit() - make the object exist, durably
 *
 * Returns: 0; -EEXIST if somebody else was first; on any other failure the object does not exist
 * either, unless the store itself is failing. @w may only be closed after that.
 */
[[gnu::warn_unused_result]] int store_writer_commit(struct store_writer *w, struct thaw_error *e);

/** store_writer_close() - release @w, and what it wrote unless it was committed. NULL is allowed.
 */
void store_writer_close(struct store_writer *w);

DEFINE_CLEANUP(struct store_writer, store_writer_close);
#define CLEANUP_STORE_WRITER CLEANUP(cleanup_store_writer_close)

/* --- what is there, and its end --- */

struct store_build {
    struct uuid id;
    bool has_manifest; /* without one it is not a build of thaw's, or not finished */
};

/* Zero-initialise; release with store_builds_finish(). In no particular order. */
struct store_builds {
    struct store_build *list; /* owned */
    size_t count;
};

struct store_entry {
    char name[STORE_NAME_MAX + 1];
    uint64_t size_bytes; /* as stored */
};

/* Zero-initialise; release with store_objects_finish(). In the order of their names. */
struct store_objects {
    struct store_entry *list; /* owned */
    size_t count;
};

/** store_list_builds() - every build there, also unfinished ones; reads no object */
[[gnu::warn_unused_result]] int store_list_builds(struct store *s, struct store_builds *ret,
                                                  struct thaw_error *e);
void store_builds_finish(struct store_builds *list);
#define CLEANUP_STORE_BUILDS CLEANUP(store_builds_finish)

/** store_list_objects() - the objects of @build; -ENOENT if nothing is there of it */
[[gnu::warn_unused_result]] int store_list_objects(struct store *s, const struct uuid *build,
                                                   struct store_objects *ret, struct thaw_error *e);
void store_objects_finish(struct store_objects *list);
#define CLEANUP_STORE_OBJECTS CLEANUP(store_objects_finish)

/** store_objects_find() - the entry of that name, or NULL */
const struct store_entry *store_objects_find(const struct store_objects *list, const char *name);

/** store_object_delete() - remove one object, durably; -ENOENT if it is not there */
[[gnu::warn_unused_result]] int store_object_delete(struct store *s, const struct uuid *build,
                                                    const char *name, struct thaw_error *e);

/**
 * store_build_delete() - remove @build and what was left of writers, durably
 *
 * The manifest goes first, then the headers, then the data, then the sums, each step on disk before
 * the next: wherever it is cut short, what is left neither is a build nor looks like one of E2B's.
 * Call it again for the rest. Does not ask whether other builds need this one.
 *
 * Returns: 0, -ENOENT, -EBUSY, -ENOTEMPTY (it holds a folder, which is not a store's: nothing was
 * removed), ...
 */
[[gnu::warn_unused_result]] int store_build_delete(struct store *s, const struct uuid *build,
                                                   struct thaw_error *e);

/**
 * store_build_discard() - remove what was left of @build by a creator that failed or was killed
 *
 * No writer of it may be open in this store. Returns as store_build_delete(), -EEXIST if the build
 * has a manifest, -EBUSY if another creator is still at work; nothing was removed then.
 */
[[gnu::warn_unused_result]] int store_build_discard(struct store *s, const struct uuid *build,
                                                    struct thaw_error *e);

#endif

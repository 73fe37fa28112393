/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_SINK_H
#define THAW_IMAGE_SINK_H

/*
 * Where the packed data of an image goes: into an object of the store, with its SHA-256 and its
 * granule sums. Bytes are put in order, into one of a few buffers; a full buffer is hashed by one
 * thread and written by another, at the same time, and is free again when both are done with it.
 * SHA-256 cannot be split, so it is what bounds the speed of a fast store.
 *
 * All functions: the thread that created the sink.
 */

#include <stddef.h>

#include "base/cleanup.h"
#include "base/uuid.h"

struct manifest_object;
struct sink;
struct store;
struct thaw_error;

/** sink_create() - begin object @name of @build */
[[gnu::warn_unused_result]] int sink_create(struct store *store, const struct uuid *build,
                                            const char *name, struct sink **ret,
                                            struct thaw_error *e);

/**
 * sink_put() - append bytes; waits for a free buffer
 *
 * Returns: 0, or the first failure of any of the sink's threads.
 */
[[gnu::warn_unused_result]] int sink_put(struct sink *s, const void *bytes, size_t len_bytes,
                                         struct thaw_error *e);

/**
 * sink_finish() - wait until all is written, name the object, then write the object of its sums
 * @ret_data, @ret_sums: what the manifest must say of the two
 */
[[gnu::warn_unused_result]] int sink_finish(struct sink *s, struct manifest_object *ret_data,
                                            struct manifest_object *ret_sums, struct thaw_error *e);

/** sink_destroy() - release @s; unless it was finished, its object never exists. NULL is allowed.
 */
void sink_destroy(struct sink *s);
DEFINE_CLEANUP(struct sink, sink_destroy);
#define CLEANUP_SINK CLEANUP(cleanup_sink_destroy)

#endif

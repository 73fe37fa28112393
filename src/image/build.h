/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_BUILD_H
#define THAW_IMAGE_BUILD_H

/*
 * The small objects of a build, each checked against the manifest before anyone believes it. A
 * build that E2B wrote has no manifest: one is made up from what the store has, with objects that
 * are not known (see build_object_known()). Control threads; blocks.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/uuid.h"
#include "format/codec.h"

struct buf;
struct header;
struct manifest;
struct manifest_object;
struct store;
struct thaw_error;

/* Images of a build; their data, headers and sums are objects named after them. */
#define IMAGE_MEMORY  "memfile"
#define IMAGE_ROOTFS  "rootfs.ext4"
#define HEADER_SUFFIX ".header"
#define SUMS_SUFFIX   ".sums"

/**
 * build_manifest_load() - read the manifest of @build and check that it is this build's
 *
 * Without a manifest, @build may be one of E2B's, which must then be complete; see
 * build_is_unverified().
 *
 * Returns: 0; -ENOENT when there is no such build, or it is not complete.
 */
[[gnu::warn_unused_result]] int build_manifest_load(struct store *s, const struct uuid *build,
                                                    struct manifest **ret, struct thaw_error *e);

/**
 * build_ancestor_load() - the same for a build that is only needed for its data
 *
 * One without manifest may then lack whatever is not mapped by others.
 */
[[gnu::warn_unused_result]] int build_ancestor_load(struct store *s, const struct uuid *build,
                                                    struct manifest **ret, struct thaw_error *e);

/** build_is_unverified() - whether @m was made up, and nobody knows what the objects hash to */
bool build_is_unverified(const struct manifest *m);

/** build_object_known() - whether the SHA-256 of @o is known; zeros say that it is not */
bool build_object_known(const struct manifest_object *o);

/** build_data_name() - "memfile", "memfile.zstd" or "memfile.lz4" into @ret[OBJECT_NAME_BYTES] */
const char *build_data_name(const char *image, enum codec codec, char *ret);

/** build_header_name() - "memfile.header" into @ret[OBJECT_NAME_BYTES] */
const char *build_header_name(const char *image, char *ret);

/** build_object_check() - whether @bytes are object @o: its size and, if it is known, SHA-256 */
[[gnu::warn_unused_result]] int build_object_check(const struct manifest_object *o,
                                                   const struct buf *bytes, struct thaw_error *e);

/**
 * build_object_read() - append object @o of @build to @ret, of the size and SHA-256 that @o has
 * @max_bytes: more than this is refused
 */
[[gnu::warn_unused_result]] int build_object_read(struct store *s, const struct uuid *build,
                                                  const struct manifest_object *o, size_t max_bytes,
                                                  struct buf *ret, struct thaw_error *e);

/**
 * build_object_load() - append a small object of a build to @ret, checked against its manifest
 * @max_bytes: more than this is refused
 */
[[gnu::warn_unused_result]] int build_object_load(struct store *s, const struct manifest *m,
                                                  const char *name, size_t max_bytes,
                                                  struct buf *ret, struct thaw_error *e);

/** build_header_load() - read the header of image @name ("memfile") of the build of @m */
[[gnu::warn_unused_result]] int build_header_load(struct store *s, const struct manifest *m,
                                                  const char *name, struct header **ret,
                                                  struct thaw_error *e);

#endif

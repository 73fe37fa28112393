/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_IMAGE_H
#define THAW_IMAGE_IMAGE_H

/*
 * A read-only image: the guest's memory (or disk) as a build's header lays it out over the objects
 * of that build and its ancestors. Looking something up is a binary search; it reads nothing and
 * takes no lock. Any thread; open and close on the control thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "base/uuid.h"

struct fetch;
struct fetch_object;
struct header;
struct image;
struct manifest;
struct store;
struct thaw_error;

#define IMAGE_MEMORY "memfile"

/**
 * build_manifest_load() - read the manifest of @build and check that it is this build's
 *
 * Returns: 0; -ENOENT when there is no such build (a build without a manifest does not exist).
 */
[[gnu::warn_unused_result]] int build_manifest_load(struct store *s, const struct uuid *build,
                                                    struct manifest **ret, struct thaw_error *e);

/**
 * build_object_load() - append a small object of a build to @ret, checked against its manifest
 * @max_bytes: more than this is refused
 */
struct buf;
[[gnu::warn_unused_result]] int build_object_load(struct store *s, const struct manifest *m,
                                                  const char *name, size_t max_bytes,
                                                  struct buf *ret, struct thaw_error *e);

/** build_header_load() - read the header of image @name ("memfile") of the build of @m */
[[gnu::warn_unused_result]] int build_header_load(struct store *s, const struct manifest *m,
                                                  const char *name, struct header **ret,
                                                  struct thaw_error *e);

/**
 * image_open() - open image @name of the build of @m, with the objects that its map refers to
 * @fetch, @store: must outlive the image
 *
 * Reads the header and the manifests of the ancestors; no data.
 */
[[gnu::warn_unused_result]] int image_open(struct fetch *fetch, struct store *store,
                                           const struct manifest *m, const char *name,
                                           struct image **ret, struct thaw_error *e);

/** image_close() - nothing may be pinned or wanted from it. NULL is allowed. */
void image_close(struct image *im);

DEFINE_CLEANUP(struct image, image_close);
#define CLEANUP_IMAGE CLEANUP(cleanup_image_close)

/** image_bytes() - the size of the image */
uint64_t image_bytes(const struct image *im);

/** image_allocated_bytes() - memory that the caches of its objects take now */
int64_t image_allocated_bytes(const struct image *im);

/**
 * struct image_extent - what is at an offset of the image
 * @object: where the bytes are kept; NULL: they are zeros
 * @granule, @offset: which granule of the object, and where in it
 * @len_bytes: how far this goes: to the end of the run and, unless zeros, of the granule
 */
struct image_extent {
    struct fetch_object *object;
    uint32_t granule;
    uint32_t offset;
    uint64_t len_bytes;
};

/** image_lookup() - find @off; 0, or -ERANGE beyond the end */
[[gnu::warn_unused_result]] int image_lookup(const struct image *im, struct image_off off,
                                             struct image_extent *ret);

/** image_describe() - "object memfile of build ..., granule 7" for messages, into @ret */
void image_describe(const struct image *im, struct image_off off, char *ret, size_t len_bytes);

#endif

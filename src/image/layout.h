/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_LAYOUT_H
#define THAW_IMAGE_LAYOUT_H

/*
 * Where the bytes of an image lie: its header, and for each build that the map refers to the object
 * with its data. What the header, the manifests and the store say of these must agree, and every
 * run of the map must lie within its object, before anyone reads one. Blocks.
 *
 * layout_load() finds every object at once. Whoever cannot wait for that takes layout_open() and
 * finds them one by one with layout_find(), in any order and from any thread, as long as each is
 * found once. Otherwise a layout is immutable.
 */

#include <stdbool.h>

#include "base/cleanup.h"
#include "format/header.h"
#include "format/manifest.h"

struct store;
struct thaw_error;

/**
 * struct layout_object - the data of one build of the header
 * @used: whether the map refers to it
 * @mapped_bytes: up to where it does; the object must be that long
 * @found: the rest is set
 * @data: its object; known or not: build_object_known()
 * @sums: the object with its granule sums; an empty name when there is none
 */
struct layout_object {
    bool used;
    bool found;
    uint64_t mapped_bytes;
    struct manifest_object data;
    struct manifest_object sums;
};

struct layout {
    char name[OBJECT_NAME_BYTES];  /* of the image: "memfile" */
    struct header *header;         /* owned */
    struct layout_object *objects; /* owned; one per build of the header */
};

/**
 * layout_load() - read the header of image @name of the build of @m, and find its objects
 *
 * Reads the manifests of ancestors, and where neither they nor the header say how data is stored,
 * their headers. Returns: 0; -ENOENT when an ancestor or an object is not there; -EBADMSG when
 * they do not fit together.
 */
[[gnu::warn_unused_result]] int layout_load(struct store *store, const struct manifest *m,
                                            const char *name, struct layout **ret,
                                            struct thaw_error *e);

/**
 * layout_open() - the same, but the header alone: every object is left to layout_find()
 *
 * Returns: as layout_load(); nothing is known of ancestors yet.
 */
[[gnu::warn_unused_result]] int layout_open(struct store *store, const struct manifest *m,
                                            const char *name, struct layout **ret,
                                            struct thaw_error *e);

/**
 * layout_find() - find the object of build @i of the header, which the map must refer to
 * @m: the manifest of the header's own build
 *
 * May be called again after it has failed. Returns as layout_load().
 */
[[gnu::warn_unused_result]] int layout_find(struct layout *l, size_t i, const struct manifest *m,
                                            struct store *store, struct thaw_error *e);

/** layout_check_object() - -ENOTSUP when object @i, which has been found, is compressed */
[[gnu::warn_unused_result]] int layout_check_object(const struct layout *l, size_t i,
                                                    struct thaw_error *e);

/** layout_check_readable() - -ENOTSUP when an object that the map refers to is compressed */
[[gnu::warn_unused_result]] int layout_check_readable(const struct layout *l, struct thaw_error *e);

/** layout_destroy() - NULL is allowed */
void layout_destroy(struct layout *l);

DEFINE_CLEANUP(struct layout, layout_destroy);
#define CLEANUP_LAYOUT CLEANUP(cleanup_layout_destroy)

#endif

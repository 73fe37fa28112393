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
#include "image/build.h"
#include "kernel/io.h"

struct cache_set;
struct fetch;
struct fetch_waiter;
struct image;
struct manifest;
struct store;
struct thaw_error;

/**
 * image_open() - open image @name of the build of @m
 * @fetch, @store: must outlive the image
 *
 * Reads the header and nothing else: ancestors are opened when the first of their bytes is wanted.
 */
[[gnu::warn_unused_result]] int image_open(struct fetch *fetch, struct store *store,
                                           const struct manifest *m, const char *name,
                                           struct image **ret, struct thaw_error *e);

/** image_close() - nothing may be pinned or wanted from it. NULL is allowed. */
void image_close(struct image *im);

DEFINE_CLEANUP(struct image, image_close);
#define CLEANUP_IMAGE CLEANUP(cleanup_image_close)

/** image_caches() - what the caches of its objects are made with */
struct cache_set *image_caches(const struct image *im);

/** image_fetch() - what brings its bytes */
struct fetch *image_fetch(const struct image *im);

/** image_bytes() - the size of the image */
uint64_t image_bytes(const struct image *im);

/** image_allocated_bytes() - memory that the caches of its objects take now */
int64_t image_allocated_bytes(const struct image *im);

/**
 * struct image_extent - what is at an offset of the image
 * @zero: zeros; @layer, @granule and @offset mean nothing then
 * @layer: which build of the header has the bytes
 * @granule, @offset: which granule of its object, and where in it
 * @len_bytes: how far this goes: to the end of the run and, unless zeros, of the granule
 */
struct image_extent {
    bool zero;
    uint16_t layer;
    uint32_t granule;
    uint32_t offset;
    uint64_t len_bytes;
};

/** image_lookup() - find @off; 0, or -ERANGE beyond the end */
[[gnu::warn_unused_result]] int image_lookup(const struct image *im, struct image_off off,
                                             struct image_extent *ret);

/** image_lookup_near() - the same for one who walks the image: see map_lookup_near() */
[[gnu::warn_unused_result]] int image_lookup_near(const struct image *im, struct image_off off,
                                                  size_t *near, struct image_extent *ret);

/**
 * image_pin() - the memory of the granule at @at (not zeros), to be unpinned soon; NULL when it is
 * not there
 */
const void *image_pin(const struct image *im, const struct image_extent *at);

void image_unpin(const struct image *im, const struct image_extent *at);

/** image_on_disk() - whether the disk tier has the granule at @at, if memory has not */
bool image_on_disk(const struct image *im, const struct image_extent *at);

/** image_ready() - whether the granule at @at could have been pinned a moment ago */
bool image_ready(const struct image *im, const struct image_extent *at);

/**
 * image_want() - ask for a granule that could not be pinned
 *
 * As fetch_want(); a message with -EAGAIN means: look again and, if need be, ask again. That is
 * also what comes when the layer had to be opened first.
 */
[[gnu::warn_unused_result]] int image_want(struct image *im, const struct image_extent *at,
                                           enum io_priority priority, struct fetch_waiter *w);

/** image_describe() - "object memfile of build ..., granule 7" for messages, into @ret */
void image_describe(struct image *im, struct image_off off, char *ret, size_t len_bytes);

#endif

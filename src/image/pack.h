/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_PACK_H
#define THAW_IMAGE_PACK_H

/*
 * Packing: the pages of a raw image that are not zeros, one after the other, become an object; its
 * granule sums become another. Control threads; blocks.
 */

#include <stdint.h>

#include "base/uuid.h"
#include "format/manifest.h"
#include "format/page_set.h"

struct store;
struct thaw_error;

/* Told now and then how far the work is. */
struct pack_progress {
    void (*report)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

/**
 * pack_image() - write objects @name and "@name.sums" of @build from the raw image @fd
 * @size_bytes: of the image; a multiple of PAGE_BYTES
 * @progress: NULL when nobody wants to know
 * @ret_dirty: the pages that were stored; an empty set on entry
 * @ret_data, @ret_sums: what the manifest must say of the two objects
 *
 * Holes of the file are not read.
 */
[[gnu::warn_unused_result]] int pack_image(struct store *store, const struct uuid *build,
                                           const char *name, int fd, uint64_t size_bytes,
                                           const struct pack_progress *progress,
                                           struct page_set *ret_dirty,
                                           struct manifest_object *ret_data,
                                           struct manifest_object *ret_sums, struct thaw_error *e);

/** pack_bytes() - write a small object as it is; *@ret is what the manifest must say of it */
[[gnu::warn_unused_result]] int pack_bytes(struct store *store, const struct uuid *build,
                                           const char *name, const void *bytes, size_t len_bytes,
                                           struct manifest_object *ret, struct thaw_error *e);

/** page_is_zero() - whether the PAGE_BYTES at @page are all zeros */
bool page_is_zero(const void *page);

#endif

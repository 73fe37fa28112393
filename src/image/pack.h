/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_PACK_H
#define THAW_IMAGE_PACK_H

/*
 * Packing: the blocks of a raw image that are neither zeros nor the base's, one after the other,
 * become an object; its granule sums become another. Control threads; blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/uuid.h"
#include "format/manifest.h"
#include "format/page_set.h"

struct base;
struct source;
struct store;
struct thaw_error;

/* Told now and then how far the work is, on the thread that called. */
struct pack_progress {
    void (*report)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *arg;
};

/**
 * struct pack_input - an image, and where to put it
 * @block_bytes: what is stored or not as a whole: a power of two, 4 KiB to 2 MiB; the size of
 *               @source is a multiple
 * @base: NULL: the image stands alone
 * @progress: NULL when nobody wants to know
 */
struct pack_input {
    struct store *store;
    const struct uuid *build;
    const char *name;
    const struct source *source;
    uint64_t block_bytes;
    const struct base *base;
    const struct pack_progress *progress;
};

/**
 * struct pack_result - what the new layer consists of; zero-initialise it
 * @dirty: pages that were stored
 * @empty: pages that are zeros and were not in the base (without one: not recorded)
 * @data, @sums: what the manifest must say of the two objects
 */
struct pack_result {
    struct page_set dirty;
    struct page_set empty;
    struct manifest_object data;
    struct manifest_object sums;
};

/**
 * pack_image() - write objects "NAME" and "NAME.sums"
 *
 * Returns: 0, or -errno with the first failure of any thread; -ESTALE when the image was cut or
 * written to meanwhile. *@ret is the caller's to finish in both cases.
 */
[[gnu::warn_unused_result]] int pack_image(const struct pack_input *in, struct pack_result *ret,
                                           struct thaw_error *e);

/** pack_result_finish() - release the sets */
void pack_result_finish(struct pack_result *r);
#define CLEANUP_PACK_RESULT CLEANUP(pack_result_finish)

/** pack_bytes() - write a small object as it is; *@ret is what the manifest must say of it */
[[gnu::warn_unused_result]] int pack_bytes(struct store *store, const struct uuid *build,
                                           const char *name, const void *bytes, size_t len_bytes,
                                           struct manifest_object *ret, struct thaw_error *e);

/** page_is_zero() - whether the PAGE_BYTES at @page are all zeros */
bool page_is_zero(const void *page);

#endif

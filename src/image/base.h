/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_BASE_H
#define THAW_IMAGE_BASE_H

/*
 * The image that a new layer is laid over, as far as making the layer needs it: where it is zeros,
 * and whether given bytes are the ones that it has. Nothing is cached: memory does not depend on
 * the size of the image, but for 8 bytes for every 64 KiB of data, its granule sums.
 *
 * The base is immutable and any thread may ask base_zero_extent(); each thread that compares has a
 * reader of its own.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"

struct base;
struct base_reader;
struct header;
struct manifest;
struct store;
struct thaw_error;

/** What becomes of a block in the new layer. */
enum block_fate {
    BLOCK_SAME,  /* as in the base */
    BLOCK_ZERO,  /* reads as zeros */
    BLOCK_DIRTY, /* stored */
};

/**
 * base_open() - image @name ("memfile") of the build of @m
 * @store: opened with an I/O engine; must outlive the base
 *
 * Reads the header, and manifest and sums of every build that the image has data of; no data.
 * Returns: 0; -ENOTSUP when some of the data is compressed.
 */
[[gnu::warn_unused_result]] int base_open(struct store *store, const struct manifest *m,
                                          const char *name, struct base **ret,
                                          struct thaw_error *e);

/** base_close() - every reader must be destroyed before. NULL is allowed. */
void base_close(struct base *b);

/** base_header() - its header, as long as the base is open */
const struct header *base_header(const struct base *b);

/**
 * base_extent_is_zero() - whether the image is mapped to zeros at @offset
 * @ret_len_bytes: how far that goes on in the same way; beyond its end the image is zeros for ever
 */
bool base_extent_is_zero(const struct base *b, uint64_t offset, uint64_t *ret_len_bytes);

/** base_reader_create() - what one thread needs to compare. The base must outlive it. */
[[gnu::warn_unused_result]] int base_reader_create(const struct base *b, struct base_reader **ret,
                                                   struct thaw_error *e);

/** base_reader_destroy() - NULL is allowed */
void base_reader_destroy(struct base_reader *r);

/**
 * base_compare() - find the blocks that differ from the base
 * @offset: of @data in the image, whole blocks
 * @len_bytes: of @data, whole blocks, at most BASE_COMPARE_MAX_BYTES
 * @fates: one for each block: those that are BLOCK_SAME become BLOCK_DIRTY where the base has other
 *         bytes; the others are not looked at
 *
 * Blocks; verifies all that it reads. Returns: 0, -EBADMSG when the base is damaged, or as the
 * store has it.
 */
#define BASE_COMPARE_MAX_BYTES (2 * MIB)
[[gnu::warn_unused_result]] int base_compare(struct base_reader *r, uint64_t offset,
                                             const void *data, size_t len_bytes,
                                             uint64_t block_bytes, enum block_fate *fates,
                                             struct thaw_error *e);

DEFINE_CLEANUP(struct base, base_close);
#define CLEANUP_BASE CLEANUP(cleanup_base_close)

#endif

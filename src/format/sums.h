/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_SUMS_H
#define THAW_FORMAT_SUMS_H

/*
 * Granule sums: one XXH3-64 per 64 KiB of U-space, stored beside the object as a sequence of
 * self-checking 4 KiB pages, so that a reader fetches the pages it needs. Any thread.
 *
 * A page: "THAWSUM1", page number u32, algorithm u32 (1 = XXH3-64), 509 sums of 8 bytes (unused
 * ones zero), XXH3-64 of the page before it. All little-endian. Page k covers the granules from
 * 509 k on. The last granule of an object may be short; its sum covers the bytes that exist.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/error.h"
#include "base/units.h"

#define SUMS_PAGE_BYTES 4096
#define SUMS_PER_PAGE   509

/** sums_of() - the sum of a granule, or of any @len bytes */
uint64_t sums_of(const void *granule, size_t len);

/** sums_granule_count() - granules in an object of @u_bytes */
static inline uint64_t sums_granule_count(uint64_t u_bytes)
{
    return div_round_up(u_bytes, GRANULE_BYTES);
}

/** sums_page_count() - pages that hold the sums of an object of @u_bytes */
static inline uint64_t sums_page_count(uint64_t u_bytes)
{
    return div_round_up(sums_granule_count(u_bytes), SUMS_PER_PAGE);
}

/** sums_object_bytes() - size of the sums object of an object of @u_bytes */
static inline uint64_t sums_object_bytes(uint64_t u_bytes)
{
    return sums_page_count(u_bytes) * SUMS_PAGE_BYTES;
}

/**
 * sums_page_encode() - write one page
 * @sums: @n <= SUMS_PER_PAGE sums, of granules SUMS_PER_PAGE * @page on; the rest becomes zero
 * @ret_page: SUMS_PAGE_BYTES bytes
 */
void sums_page_encode(uint32_t page, const uint64_t *sums, size_t n, void *ret_page);

/**
 * sums_page_decode() - check one page and take its sums
 * @page: SUMS_PAGE_BYTES bytes
 * @expect_page: the number that it must carry
 * @ret_sums: SUMS_PER_PAGE numbers; untouched on failure
 *
 * Returns: 0, or -EBADMSG naming what does not hold.
 */
[[gnu::warn_unused_result]] int sums_page_decode(const void *page, uint32_t expect_page,
                                                 uint64_t *ret_sums, struct thaw_error *e);

#endif

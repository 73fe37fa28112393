/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_TIER_H
#define THAW_FORMAT_TIER_H

/*
 * The page in front of a file of sums of the disk tier: whose sums they are. Any thread.
 *
 * "THAWTIER", version u32 (1), length of the name u32, build (16 bytes), size of the object u64,
 * origin u64, the name, zeros, XXH3-64 of the page before it. All little-endian, in 4 KiB. The
 * pages after it are those of format/sums.h, in which a sum of 0 stands for none.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "base/uuid.h"

#define TIER_PAGE_BYTES 4096
#define TIER_NAME_MAX   196 /* with all that is put around it, a file's name: NAME_MAX of Linux */

/**
 * struct tier_identity - which object of which store
 * @name: 1 to TIER_NAME_MAX bytes without a '/'
 * @origin: tells apart what different stores have under the same names
 */
struct tier_identity {
    struct uuid build;
    uint64_t size_bytes;
    uint64_t origin;
    char name[TIER_NAME_MAX + 1];
};

/**
 * tier_identity_init() - 0, or -EINVAL if an object cannot have that name
 * @name: any string
 */
[[gnu::warn_unused_result]] int tier_identity_init(struct tier_identity *id,
                                                   const struct uuid *build, const char *name,
                                                   uint64_t size_bytes, uint64_t origin);

/** tier_identity_same() - whether they are of the same object */
bool tier_identity_same(const struct tier_identity *a, const struct tier_identity *b);

/** tier_page_encode() - write the page of @id, TIER_PAGE_BYTES bytes */
void tier_page_encode(const struct tier_identity *id, void *ret_page);

/**
 * tier_page_decode() - check a page and take what it says
 * @ret: untouched on failure
 *
 * Returns: 0, or -EBADMSG naming what does not hold.
 */
[[gnu::warn_unused_result]] int tier_page_decode(const void *page, struct tier_identity *ret,
                                                 struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_REGIONS_H
#define THAW_MEMORY_REGIONS_H

/* Where the image lies in the VMM's address space, from the hand-over. Pager thread only. */

#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

struct handover;
struct thaw_error;

struct region {
    struct host_addr base;
    uint64_t size_bytes;
    struct image_off offset;
};

struct regions {
    struct region *list; /* owned; by host address */
    size_t count;
};

/**
 * regions_init() - take the regions of @h, which must be all of an image of @image_bytes, each
 * byte once
 *
 * Returns: 0, -ENOMEM, or -EPROTO with what is wrong in @e.
 */
[[gnu::warn_unused_result]] int regions_init(struct regions *r, const struct handover *h,
                                             uint64_t image_bytes, struct thaw_error *e);

void regions_finish(struct regions *r);

/** regions_find() - the region that holds @addr, or NULL. Binary search. */
const struct region *regions_find(const struct regions *r, struct host_addr addr);

#endif

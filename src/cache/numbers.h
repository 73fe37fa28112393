/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_NUMBERS_H
#define THAW_CACHE_NUMBERS_H

/*
 * Which granules of an overlay's file are free. They are given out by groups of NUMBERS_GROUP that
 * follow each other, so that what is written together is one write. A group is free again when all
 * of it is; only when there is no free one, and never was, are gaps in others used. Groups that
 * were used before go first, which keeps tables short. The owner of the overlay only.
 */

#include <stdint.h>

#include "cache/tier.h"

#define NUMBERS_GROUP TIER_WRITE_GRANULES

struct numbers {
    uint32_t groups;
    uint32_t fresh; /* from here on none was ever used */
    uint32_t free;  /* the first one of a list of groups; UINT32_MAX */
    uint16_t *used; /* owned: a bit for each granule of a group */
    uint32_t *next; /* owned: of free groups, in that list */
};

/** numbers_init() - @count of them, rounded up to groups; 0 or -ENOMEM. Safe to finish then. */
[[gnu::warn_unused_result]] int numbers_init(struct numbers *n, uint32_t count);

/** numbers_finish() - safe on a zeroed struct */
void numbers_finish(struct numbers *n);

/** numbers_take() - up to @want in a row, from *@ret on; returns how many, 0 if there is none */
uint32_t numbers_take(struct numbers *n, uint32_t want, uint32_t *ret);

/** numbers_put() - @number is free again */
void numbers_put(struct numbers *n, uint32_t number);

#endif

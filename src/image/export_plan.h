/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_EXPORT_PLAN_H
#define THAW_IMAGE_EXPORT_PLAN_H

/*
 * In what order to read the objects of an image so that each granule is read (and verified) once,
 * however the map scatters it: the runs of the map are cut at the borders of reads and sorted by
 * where their bytes are stored. One thread makes a plan; any number may read it.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct layout;
struct thaw_error;

/* A stretch of the image whose bytes are one stretch of an object. Counted in pages. */
struct export_piece {
    uint32_t image;
    uint32_t storage;
    uint16_t pages; /* within one read */
    uint16_t build; /* index in the header */
};

/* Pieces that one read brings. */
struct export_group {
    size_t first_piece;
    uint64_t offset; /* in the object: whole granules, but for the end of the object */
    uint32_t len_bytes;
    uint32_t piece_count;
};

struct export_plan {
    struct export_piece *pieces; /* owned */
    size_t piece_count;
    struct export_group *groups; /* owned */
    size_t group_count;
    uint64_t read_bytes; /* by all groups */
};

#define CLEANUP_EXPORT_PLAN CLEANUP(export_plan_finish)

/** export_plan_init() - plan the reading of all that @l maps; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int export_plan_init(struct export_plan *p, const struct layout *l,
                                                 struct thaw_error *e);

/** export_plan_finish() - a zeroed plan is allowed */
void export_plan_finish(struct export_plan *p);

#endif

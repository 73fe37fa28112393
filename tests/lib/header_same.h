/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_HEADER_SAME_H
#define THAW_TESTS_HEADER_SAME_H

/* Whether two headers mean the same, for tests that encode and decode again. */

#include <string.h>

#include "format/header.h"

static inline bool frames_same(const struct frame_table *a, const struct frame_table *b)
{
    if (a->codec != b->codec || a->count != b->count)
        return false;
    for (size_t i = 0; i < a->count; i++) {
        const struct frame *x = &a->frames[i], *y = &b->frames[i];

        if (x->u.v != y->u.v || x->c.v != y->c.v || x->u_bytes != y->u_bytes ||
            x->c_bytes != y->c_bytes)
            return false;
    }
    return true;
}

static inline bool builds_same(const struct header_build *a, const struct header_build *b)
{
    return uuid_compare(&a->id, &b->id) == 0 && a->known == b->known &&
           a->size_bytes == b->size_bytes && memcmp(a->sha256, b->sha256, sizeof(a->sha256)) == 0 &&
           frames_same(&a->frames, &b->frames);
}

/* Same runs, and the same build by id, whatever its index. */
static inline bool header_runs_same(const struct header *a, const struct header *b)
{
    if (map_page_count(a->map) != map_page_count(b->map) ||
        map_run_count(a->map) != map_run_count(b->map))
        return false;
    for (size_t i = 0; i < map_run_count(a->map); i++) {
        struct map_run x = map_run_at(a->map, i), y = map_run_at(b->map, i);

        if (x.start != y.start || x.storage != y.storage ||
            (x.build == MAP_ZERO) != (y.build == MAP_ZERO))
            return false;
        if (x.build != MAP_ZERO &&
            uuid_compare(&a->builds[x.build].id, &b->builds[y.build].id) != 0)
            return false;
    }
    return true;
}

static inline bool header_meta_same(const struct header *a, const struct header *b)
{
    return a->version == b->version && a->block_bytes == b->block_bytes &&
           a->size_bytes == b->size_bytes && a->generation == b->generation &&
           uuid_compare(&a->build, &b->build) == 0 && uuid_compare(&a->base, &b->base) == 0;
}

/* All of it: the same builds, in whatever order. */
static inline bool header_same(const struct header *a, const struct header *b)
{
    if (!header_meta_same(a, b) || !header_runs_same(a, b) || a->build_count != b->build_count)
        return false;
    for (size_t i = 0; i < a->build_count; i++) {
        const struct header_build *other = header_find_build(b, &a->builds[i].id);

        if (!other || !builds_same(&a->builds[i], other))
            return false;
    }
    return true;
}

#endif

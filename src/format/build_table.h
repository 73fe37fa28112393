/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_BUILD_TABLE_H
#define THAW_FORMAT_BUILD_TABLE_H

/*
 * Gives each build of a header its index: an append-only array of entries with a hash table beside
 * it. Ids come from outside; the seed, taken from the very bytes that hold them, keeps anybody from
 * choosing ids that collide. One thread.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/uuid.h"
#include "format/header.h"

/* Initialise with build_table_init(); release with build_table_finish(). */
struct build_table {
    struct header_build *builds; /* owned, and so are the frames of each */
    size_t count;
    size_t cap;
    uint16_t *slots;   /* owned; index + 1 of a build, 0 when free */
    size_t slot_count; /* a power of two, at least twice count; or 0 */
    uint64_t seed;
};

#define CLEANUP_BUILD_TABLE CLEANUP(build_table_finish)

static inline struct build_table build_table_init(uint64_t seed)
{
    return (struct build_table){.seed = seed};
}

/** build_table_find() - the entry of @id, or NULL; valid until the next addition */
struct header_build *build_table_find(const struct build_table *t, const struct uuid *id);

/**
 * build_table_add() - the index of @id, which gets an unknown entry when it has none
 *
 * Returns: 0, -ENOMEM, or -E2BIG beyond MAP_MAX_BUILDS.
 */
[[gnu::warn_unused_result]] int build_table_add(struct build_table *t, const struct uuid *id,
                                                uint16_t *ret);

/** build_table_finish() - release all */
void build_table_finish(struct build_table *t);

/** header_builds_destroy() - release @count entries at @builds, and the array */
void header_builds_destroy(struct header_build *builds, size_t count);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_MAP_H
#define THAW_FORMAT_MAP_H

/*
 * The map of a virtual image onto stored objects: which bytes of which build's packed data a page
 * of the image is, or that it reads as zeros.
 *
 * A map is a sequence of runs, in units of 4 KiB pages, that covers the image without gap or
 * overlap: a run ends where the next one starts, the last one at the end of the image. A run names
 * its build by an index into a table that the map does not know (struct header has it). It takes
 * 10 bytes a run (and 4 for every 64), in columns, so that the binary search walks one dense array.
 *
 * Every map is normal: neighbours that continue each other (the same build *and* contiguous
 * storage, or both zeros) are one run. Maps are immutable once built; any thread may read one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/units.h"

/* Limits of the build format, which counts pages in 32 bits: 16 TiB less a page. */
#define MAP_ZERO       UINT16_MAX /* build index of "reads as zeros" */
#define MAP_MAX_BUILDS UINT16_MAX /* indexes 0 to 65534 */
#define MAP_MAX_PAGES  UINT32_MAX

struct map;

struct map_run {
    uint32_t start;   /* first page in the image */
    uint32_t storage; /* first page in the packed data of the build; 0 in zero runs */
    uint16_t build;   /* or MAP_ZERO */
};

/* What follows an offset of the image, up to the end of its run. */
struct map_extent {
    bool zero;
    uint16_t build;       /* MAP_ZERO when zero */
    struct u_off storage; /* of exactly the offset asked for; 0 when zero */
    uint64_t len_bytes;   /* to the end of the run */
};

/**
 * map_lookup() - find what is at @off
 *
 * Returns: 0, or -ERANGE beyond the last page; *@ret is then untouched. Allocates nothing.
 */
[[gnu::warn_unused_result]] int map_lookup(const struct map *m, struct image_off off,
                                           struct map_extent *ret);

/**
 * map_lookup_near() - the same for one who walks the image
 * @near: the run of the last lookup, or anything; set to the run of @off. If that is the same run
 * or the next one, no search is needed.
 */
[[gnu::warn_unused_result]] int map_lookup_near(const struct map *m, struct image_off off,
                                                size_t *near, struct map_extent *ret);

uint32_t map_page_count(const struct map *m);
size_t map_run_count(const struct map *m);

/** map_run_at() - run @i < map_run_count() */
struct map_run map_run_at(const struct map *m, size_t i);

/** map_run_pages() - the length of run @i, in pages */
uint32_t map_run_pages(const struct map *m, size_t i);

/** map_equal() - whether every page of the image is the same in both (build indexes compared) */
bool map_equal(const struct map *a, const struct map *b);

/** map_destroy() - release @m; NULL is allowed */
void map_destroy(struct map *m);
DEFINE_CLEANUP(struct map, map_destroy);
#define CLEANUP_MAP CLEANUP(cleanup_map_destroy)

/* Builds a map front to back. Zero-initialise it, add runs, then finish or discard it. */
struct map_builder {
    struct map *map; /* owned; NULL before the first run */
    size_t cap;      /* runs that fit into its columns */
};

#define CLEANUP_MAP_BUILDER CLEANUP(map_builder_discard)

/**
 * map_builder_reserve() - make room for @run_count runs at once
 *
 * Returns: 0 or -ENOMEM. Not needed before map_builder_add(), which grows the columns itself.
 */
[[gnu::warn_unused_result]] int map_builder_reserve(struct map_builder *b, size_t run_count);

/**
 * map_builder_add() - append a run of @pages, which may be 0
 * @build: index, or MAP_ZERO
 * @storage: first page in the packed data of the build; ignored for MAP_ZERO
 *
 * Returns: 0, -ENOMEM, or -EOVERFLOW when the image or its storage passes MAP_MAX_PAGES; the
 * builder is unchanged then.
 */
[[gnu::warn_unused_result]] int map_builder_add(struct map_builder *b, uint32_t pages,
                                                uint16_t build, uint32_t storage);

/**
 * map_builder_finish() - hand over the map, without unused memory; the builder is empty again
 *
 * Returns: 0, or -ENOMEM with the builder unchanged. Without any run the map has no page.
 */
[[gnu::warn_unused_result]] int map_builder_finish(struct map_builder *b, struct map **ret);

/** map_builder_discard() - release what was built so far */
void map_builder_discard(struct map_builder *b);

#endif

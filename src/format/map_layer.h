/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_MAP_LAYER_H
#define THAW_FORMAT_MAP_LAYER_H

/*
 * Algebra of maps: a new layer over a parent, and an image that changes its size. All functions
 * leave their inputs alone and return a new map. Any thread.
 */

#include "format/map.h"
#include "format/page_set.h"

/** map_create_zero() - an image of @page_count pages of zeros; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int map_create_zero(uint32_t page_count, struct map **ret);

/**
 * map_merge() - put a layer over @parent
 * @dirty: pages that the layer stores, packed in ascending order from storage page 0 on; all of
 *         them take their place in the packed data, also those that are in @empty as well
 * @empty: pages that read as zeros; they win over @dirty
 * @build: index that the layer's own pages get
 *
 * Pages in neither set stay as in @parent. Returns: 0, -ENOMEM, -EINVAL when @build is MAP_ZERO,
 * or -ERANGE when a set reaches beyond @parent, which must cover the whole image.
 */
[[gnu::warn_unused_result]] int map_merge(const struct map *parent, const struct page_set *dirty,
                                          const struct page_set *empty, uint16_t build,
                                          struct map **ret);

/**
 * map_resize() - the image cut to @page_count pages, or extended by zeros
 *
 * Returns: 0 or -ENOMEM.
 */
[[gnu::warn_unused_result]] int map_resize(const struct map *m, uint32_t page_count,
                                           struct map **ret);

/**
 * map_renumber() - replace build index i by @indexes[i]
 * @count: size of @indexes; every build of @m is below it
 *
 * Returns: 0, -ENOMEM, or -ERANGE when a build is not.
 */
[[gnu::warn_unused_result]] int map_renumber(const struct map *m, const uint16_t *indexes,
                                             size_t count, struct map **ret);

#endif

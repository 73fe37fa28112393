/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/header_codec.h"
#include "format/map_layer.h"

/* New headers: of a build without parent, and of a layer over a parent. */

/* Checks the fields that a caller chose, and counts the image's pages. */
static int count_pages(const struct header *h, uint32_t *ret, struct thaw_error *e)
{
    int r = header_check_meta(h, -EINVAL, e);

    if (r < 0)
        return r;
    *ret = (uint32_t)div_round_up(h->size_bytes, PAGE_BYTES);
    return 0;
}

static struct header_build own_build(const struct uuid *id, const struct page_set *dirty)
{
    return (struct header_build){
        .id = *id,
        .known = true,
        .size_bytes = page_set_pages(dirty) * PAGE_BYTES,
    };
}

int header_create_base(const struct uuid *build, uint64_t block_bytes, uint64_t size_bytes,
                       const struct page_set *dirty, struct header **ret, struct thaw_error *e)
{
    static const struct page_set none;
    struct header *h CLEANUP_HEADER = calloc(1, sizeof(*h));
    struct map *zeros CLEANUP_MAP = NULL;
    uint32_t pages = 0;
    int r;

    if (!h)
        return err_set(e, -ENOMEM, "header: no memory");
    h->version = HEADER_V4;
    h->block_bytes = block_bytes;
    h->size_bytes = size_bytes;
    h->build = h->base = *build;
    r = count_pages(h, &pages, e);
    if (r < 0)
        return r;
    h->builds = calloc(1, sizeof(*h->builds));
    if (!h->builds)
        return err_set(e, -ENOMEM, "header: no memory");
    h->builds[0] = own_build(build, dirty);
    h->build_count = 1;
    r = map_create_zero(pages, &zeros);
    if (r == 0)
        r = map_merge(zeros, dirty, &none, 0, &h->map);
    if (r < 0)
        return err_errno(e, r, "header: mapping the image");
    *ret = TAKE_PTR(h);
    return 0;
}

/* Copies to @h the entries that its map, still numbered as in @parent, uses; and renumbers it. */
static int copy_builds(struct header *h, const struct header *parent, const struct map *merged,
                       const struct header_build *own)
{
    uint16_t *indexes CLEANUP_FREE = calloc(parent->build_count + 1, sizeof(*indexes));
    bool *used CLEANUP_FREE = calloc(parent->build_count + 1, sizeof(*used));

    h->builds = calloc(parent->build_count + 1, sizeof(*h->builds));
    if (!indexes || !used || !h->builds)
        return -ENOMEM;
    for (size_t i = 0; i < map_run_count(merged); i++) {
        uint16_t build = map_run_at(merged, i).build;

        if (build != MAP_ZERO)
            used[build] = true;
    }
    for (size_t i = 0; i < parent->build_count; i++) {
        const struct header_build *from = &parent->builds[i];
        struct header_build *to = &h->builds[h->build_count];

        if (!used[i])
            continue;
        *to = *from;
        to->frames = (struct frame_table){0};
        indexes[i] = (uint16_t)h->build_count++;
        if (frame_table_copy(&from->frames, &to->frames) < 0)
            return -ENOMEM;
    }
    if (h->build_count == MAP_MAX_BUILDS)
        return -E2BIG;
    indexes[parent->build_count] = (uint16_t)h->build_count;
    h->builds[h->build_count++] = *own;
    return map_renumber(merged, indexes, parent->build_count + 1, &h->map);
}

int header_create_child(const struct header *parent, const struct uuid *build, uint64_t size_bytes,
                        const struct page_set *dirty, const struct page_set *empty,
                        struct header **ret, struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = calloc(1, sizeof(*h));
    struct map *resized CLEANUP_MAP = NULL, *merged CLEANUP_MAP = NULL;
    struct header_build own = own_build(build, dirty);
    uint32_t pages = 0;
    int r;

    if (!h)
        return err_set(e, -ENOMEM, "header: no memory");
    if (header_find_build(parent, build) || uuid_compare(&parent->build, build) == 0)
        return err_set(e, -EINVAL, "header: the new build has the id of one of its ancestors");
    h->version = HEADER_V4;
    h->block_bytes = parent->block_bytes;
    h->size_bytes = size_bytes;
    h->generation = parent->generation + 1;
    h->build = *build;
    h->base = parent->base;
    r = count_pages(h, &pages, e);
    if (r < 0)
        return r;
    r = map_resize(parent->map, pages, &resized);
    if (r == 0) /* the index behind the parent's builds, of which there may be as many as fit */
        r = parent->build_count < MAP_MAX_BUILDS
                ? map_merge(resized, dirty, empty, (uint16_t)parent->build_count, &merged)
                : -E2BIG;
    if (r == 0)
        r = copy_builds(h, parent, merged, &own);
    if (r == -E2BIG)
        return err_set(e, -EINVAL, "header: the image has data of %zu builds: compact the build",
                       parent->build_count);
    if (r < 0)
        return err_errno(e, r, "header: mapping the image");
    *ret = TAKE_PTR(h);
    return 0;
}

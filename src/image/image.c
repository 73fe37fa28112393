/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "format/header.h"
#include "image/layer.h"
#include "image/layout.h"

struct image {
    char name[OBJECT_NAME_BYTES];
    struct layout *layout;       /* owned */
    const struct header *header; /* the layout's */
    struct layers layers;
};

int image_open(struct fetch *fetch, struct store *store, const struct manifest *m, const char *name,
               struct image **ret, struct thaw_error *e)
{
    struct image *im CLEANUP_IMAGE = calloc(1, sizeof(*im));
    char id[UUID_TEXT_BYTES];
    int r;

    if (!im)
        return err_set(e, -ENOMEM, "no memory for image %s", name);
    snprintf(im->name, sizeof(im->name), "%s", name);
    r = layout_open(store, m, name, &im->layout, e);
    if (r < 0)
        return r;
    im->header = im->layout->header;
    r = layers_init(&im->layers, im->layout, m, fetch, store, e);
    if (r < 0) {
        err_wrap(e, "build %s: %s" HEADER_SUFFIX, uuid_format(&m->build, id), name);
        return r;
    }
    *ret = TAKE_PTR(im);
    return 0;
}

void image_close(struct image *im)
{
    if (!im)
        return;
    layers_finish(&im->layers);
    layout_destroy(im->layout);
    free(im);
}

struct cache_set *image_caches(const struct image *im)
{
    return fetch_caches(im->layers.fetch);
}

struct fetch *image_fetch(const struct image *im)
{
    return im->layers.fetch;
}

uint64_t image_bytes(const struct image *im)
{
    return im->header->size_bytes;
}

int64_t image_allocated_bytes(const struct image *im)
{
    int64_t sum = 0;

    for (size_t i = 0; i < im->header->build_count; i++) {
        const struct fetch_object *o = layers_object(&im->layers, i);
        int64_t n = o ? fetch_allocated_bytes(o) : 0;

        if (n < 0)
            return n;
        sum += n;
    }
    return sum;
}

int image_lookup(const struct image *im, struct image_off off, struct image_extent *ret)
{
    size_t near = SIZE_MAX - 1;

    return image_lookup_near(im, off, &near, ret);
}

int image_lookup_near(const struct image *im, struct image_off off, size_t *near,
                      struct image_extent *ret)
{
    struct map_extent extent;
    int r = map_lookup_near(im->header->map, off, near, &extent);

    if (r < 0)
        return r;
    if (extent.zero) {
        *ret = (struct image_extent){.zero = true, .len_bytes = extent.len_bytes};
        return 0;
    }
    ret->zero = false;
    ret->layer = extent.build;
    ret->granule = (uint32_t)(extent.storage.v / GRANULE_BYTES);
    ret->offset = (uint32_t)(extent.storage.v % GRANULE_BYTES);
    ret->len_bytes = MIN(extent.len_bytes, GRANULE_BYTES - ret->offset);
    return 0;
}

const void *image_pin(const struct image *im, const struct image_extent *at)
{
    struct fetch_object *o = layers_object(&im->layers, at->layer);

    return o ? fetch_pin(o, at->granule) : NULL;
}

void image_unpin(const struct image *im, const struct image_extent *at)
{
    fetch_unpin(layers_object(&im->layers, at->layer), at->granule);
}

bool image_on_disk(const struct image *im, const struct image_extent *at)
{
    const struct fetch_object *o = layers_object(&im->layers, at->layer);

    return o && fetch_on_disk(o, at->granule);
}

bool image_ready(const struct image *im, const struct image_extent *at)
{
    const struct fetch_object *o = layers_object(&im->layers, at->layer);

    return o && fetch_ready(o, at->granule);
}

int image_want(struct image *im, const struct image_extent *at, enum io_priority priority,
               struct fetch_waiter *w)
{
    struct fetch_object *o = layers_object(&im->layers, at->layer);

    return o ? fetch_want(o, at->granule, priority, w) : layers_want(&im->layers, at->layer, w);
}

void image_describe(struct image *im, struct image_off off, char *ret, size_t len_bytes)
{
    char id[UUID_TEXT_BYTES], why[200];
    struct map_extent extent;

    if (map_lookup(im->header->map, off, &extent) < 0) {
        snprintf(ret, len_bytes, "beyond the end of %s", im->name);
        return;
    }
    if (extent.zero) {
        snprintf(ret, len_bytes, "zeros of %s", im->name);
        return;
    }
    layers_why(&im->layers, extent.build, why, sizeof(why));
    snprintf(ret, len_bytes, "object %s of build %s, granule %llu%s%s", im->name,
             uuid_format(&im->header->builds[extent.build].id, id),
             (unsigned long long)(extent.storage.v / GRANULE_BYTES), why[0] ? ": " : "", why);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "fetch/fetch.h"
#include "format/header.h"
#include "format/manifest.h"
#include "store/store.h"

struct image {
    char name[OBJECT_NAME_BYTES];
    struct header *header;         /* owned */
    struct fetch_object **objects; /* owned, and so is each: one per build of the header */
};

/* What the header says an object holds and what the store says must agree before it is used. */
static int object_open(struct image *im, size_t build, const struct manifest *m, const char *name,
                       struct fetch *fetch, struct store *store, struct thaw_error *e)
{
    const struct header_build *hb = &im->header->builds[build];
    const struct manifest_object *object = manifest_find(m, name);
    char id[UUID_TEXT_BYTES];

    if (!object)
        return err_set(e, -EBADMSG, "build %s has no object %s, which the map refers to",
                       uuid_format(&hb->id, id), name);
    if (object->codec != CODEC_NONE || hb->frames.codec != CODEC_NONE)
        return err_set(e, -ENOTSUP, "object %s of build %s is compressed, which cannot be read yet",
                       name, uuid_format(&hb->id, id));
    if (hb->known && hb->size_bytes != 0 && hb->size_bytes != object->uncompressed_bytes)
        return err_set(e, -EBADMSG, "object %s of build %s: %llu bytes by the header, %llu stored",
                       name, uuid_format(&hb->id, id), (unsigned long long)hb->size_bytes,
                       (unsigned long long)object->uncompressed_bytes);
    return fetch_object_open(fetch,
                             &(struct fetch_object_options){
                                 .store = store,
                                 .build = hb->id,
                                 .name = name,
                                 .sums_name = object->sums,
                                 .size_bytes = object->uncompressed_bytes,
                             },
                             &im->objects[build], e);
}

/* Every run must lie within the object that it names: checked once, so that lookups need not. */
static int check_runs(const struct image *im, const uint64_t *object_bytes, struct thaw_error *e)
{
    const struct map *map = im->header->map;

    for (size_t i = 0; i < map_run_count(map); i++) {
        struct map_run run = map_run_at(map, i);
        uint64_t end;

        if (run.build == MAP_ZERO)
            continue;
        end = ((uint64_t)run.storage + map_run_pages(map, i)) * PAGE_BYTES;
        if (end > round_up(object_bytes[run.build], PAGE_BYTES))
            return err_set(e, -EBADMSG,
                           "mapping %zu ends at byte %llu of an object that has only %llu", i,
                           (unsigned long long)end, (unsigned long long)object_bytes[run.build]);
    }
    return 0;
}

static int objects_open(struct image *im, const struct manifest *m, const char *name,
                        struct fetch *fetch, struct store *store, struct thaw_error *e)
{
    size_t count = im->header->build_count;
    uint64_t *object_bytes CLEANUP_FREE = calloc(count + 1, sizeof(*object_bytes));

    im->objects = calloc(count + 1, sizeof(struct fetch_object *));
    if (!object_bytes || !im->objects)
        return err_set(e, -ENOMEM, "no memory for the %zu objects of %s", count, name);
    for (size_t i = 0; i < count; i++) {
        struct manifest *loaded CLEANUP_MANIFEST = NULL;
        const struct manifest *of = m;
        const struct manifest_object *object;
        int r;

        if (uuid_compare(&im->header->builds[i].id, &m->build) != 0) {
            r = build_manifest_load(store, &im->header->builds[i].id, &loaded, e);
            if (r < 0)
                return err_wrap(e, "an ancestor that %s is layered on", name);
            of = loaded;
        }
        r = object_open(im, i, of, name, fetch, store, e);
        if (r < 0)
            return r;
        object = manifest_find(of, name);
        object_bytes[i] = object->uncompressed_bytes;
    }
    return check_runs(im, object_bytes, e);
}

int image_open(struct fetch *fetch, struct store *store, const struct manifest *m, const char *name,
               struct image **ret, struct thaw_error *e)
{
    struct image *im CLEANUP_IMAGE = calloc(1, sizeof(*im));
    int r;

    if (!im)
        return err_set(e, -ENOMEM, "no memory for image %s", name);
    snprintf(im->name, sizeof(im->name), "%s", name);
    r = build_header_load(store, m, name, &im->header, e);
    if (r == 0)
        r = objects_open(im, m, name, fetch, store, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(im);
    return 0;
}

void image_close(struct image *im)
{
    if (!im)
        return;
    for (size_t i = 0; im->objects && i < im->header->build_count; i++)
        fetch_object_close(im->objects[i]);
    free(im->objects);
    header_destroy(im->header);
    free(im);
}

uint64_t image_bytes(const struct image *im)
{
    return im->header->size_bytes;
}

int64_t image_allocated_bytes(const struct image *im)
{
    int64_t sum = 0;

    for (size_t i = 0; i < im->header->build_count; i++) {
        int64_t n = fetch_allocated_bytes(im->objects[i]);

        if (n < 0)
            return n;
        sum += n;
    }
    return sum;
}

int image_lookup(const struct image *im, struct image_off off, struct image_extent *ret)
{
    struct map_extent extent;
    int r = map_lookup(im->header->map, off, &extent);

    if (r < 0)
        return r;
    if (extent.zero) {
        *ret = (struct image_extent){.object = NULL, .len_bytes = extent.len_bytes};
        return 0;
    }
    ret->object = im->objects[extent.build];
    ret->granule = (uint32_t)(extent.storage.v / GRANULE_BYTES);
    ret->offset = (uint32_t)(extent.storage.v % GRANULE_BYTES);
    ret->len_bytes = MIN(extent.len_bytes, GRANULE_BYTES - ret->offset);
    return 0;
}

void image_describe(const struct image *im, struct image_off off, char *ret, size_t len_bytes)
{
    char id[UUID_TEXT_BYTES];
    struct map_extent extent;

    if (map_lookup(im->header->map, off, &extent) < 0)
        snprintf(ret, len_bytes, "beyond the end of %s", im->name);
    else if (extent.zero)
        snprintf(ret, len_bytes, "zeros of %s", im->name);
    else
        snprintf(ret, len_bytes, "object %s of build %s, granule %llu", im->name,
                 uuid_format(&im->header->builds[extent.build].id, id),
                 (unsigned long long)(extent.storage.v / GRANULE_BYTES));
}

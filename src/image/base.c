/* SPDX-License-Identifier: Apache-2.0 */
#include "image/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "format/header.h"
#include "image/base_internal.h"
#include "image/granules.h"
#include "store/store.h"

static int object_open(struct base_object *o, struct store *store, const struct uuid *build,
                       const struct layout_object *from, struct thaw_error *e)
{
    char id[UUID_TEXT_BYTES];
    int r;

    memcpy(o->name, from->data.name, sizeof(o->name));
    o->build = *build;
    o->size_bytes = from->data.uncompressed_bytes;
    r = store_object_open(store, build, o->name, &o->object);
    if (r < 0)
        return err_errno(e, r, "opening object %s of build %s", o->name, uuid_format(build, id));
    if (from->sums.name[0] == '\0')
        return 0; /* one of E2B's: nothing to verify it by */
    return granule_sums_load(store, build, &from->sums, o->size_bytes, &o->sums, e);
}

static int objects_open(struct base *b, struct store *store, struct thaw_error *e)
{
    const struct header *h = b->layout->header;
    int r = 0;

    b->objects = calloc(h->build_count + 1, sizeof(*b->objects));
    if (!b->objects)
        return err_set(e, -ENOMEM, "no memory for the %zu builds of %s", h->build_count,
                       b->layout->name);
    for (size_t i = 0; r == 0 && i < h->build_count; i++) {
        if (b->layout->objects[i].used)
            r = object_open(&b->objects[i], store, &h->builds[i].id, &b->layout->objects[i], e);
    }
    return r;
}

int base_open(struct store *store, const struct manifest *m, const char *name, struct base **ret,
              struct thaw_error *e)
{
    struct base *b CLEANUP_BASE = calloc(1, sizeof(*b));
    int r;

    if (!b)
        return err_set(e, -ENOMEM, "no memory for the base");
    r = layout_load(store, m, name, &b->layout, e);
    if (r == 0)
        r = layout_check_readable(b->layout, e);
    if (r == 0)
        r = objects_open(b, store, e);
    if (r == 0)
        *ret = TAKE_PTR(b);
    return r;
}

void base_close(struct base *b)
{
    if (!b)
        return;
    for (size_t i = 0; b->objects && i < b->layout->header->build_count; i++) {
        store_object_close(b->objects[i].object);
        free(b->objects[i].sums);
    }
    free(b->objects);
    layout_destroy(b->layout);
    free(b);
}

const struct header *base_header(const struct base *b)
{
    return b->layout->header;
}

bool base_extent_is_zero(const struct base *b, uint64_t offset, uint64_t *ret_len_bytes)
{
    struct map_extent extent;

    if (map_lookup(b->layout->header->map, (struct image_off){offset}, &extent) < 0) {
        *ret_len_bytes = UINT64_MAX - offset;
        return true;
    }
    *ret_len_bytes = extent.len_bytes;
    return extent.zero;
}

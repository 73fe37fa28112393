/* SPDX-License-Identifier: Apache-2.0 */
#include "image/e2b.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/header.h"
#include "format/metadata.h"
#include "image/create.h"
#include "image/image.h"
#include "store/store.h"

/* The build under inspection, and what it turned out to have. */
struct inventory {
    struct store *store;
    const struct uuid *build;
    enum e2b_use use;
    struct manifest *manifest; /* owned */
    struct buf missing;        /* owned: text, "a, b" */
};

static void inventory_finish(struct inventory *v)
{
    manifest_destroy(v->manifest);
    buf_finish(&v->missing);
}

static void note_missing(struct inventory *v, const char *name)
{
    if (v->missing.len > 0)
        buf_put(&v->missing, ", ", 2);
    buf_put(&v->missing, name, strlen(name));
}

/* 1 and its size when the build has the object, 0 when it does not. */
static int object_exists(const struct inventory *v, const char *name, uint64_t *ret_bytes,
                         struct thaw_error *e)
{
    int r = store_size(v->store, v->build, name, ret_bytes);

    if (r == -ENOENT || r == -ENOTDIR)
        return 0;
    return r < 0 ? err_errno(e, r, "looking for %s", name) : 1;
}

static int add(struct inventory *v, const char *name, enum codec codec, uint64_t size_bytes,
               uint64_t uncompressed_bytes, struct thaw_error *e)
{
    struct manifest_object o = {
        .size_bytes = size_bytes,
        .uncompressed_bytes = uncompressed_bytes,
        .codec = codec,
    };
    int r;

    snprintf(o.name, sizeof(o.name), "%s", name);
    r = manifest_add(v->manifest, &o);
    return r < 0 ? err_errno(e, r, "noting %s", name) : 0;
}

static int take_fixed(struct inventory *v, struct thaw_error *e)
{
    static const char *const names[] = {
        IMAGE_MEMORY HEADER_SUFFIX,
        IMAGE_ROOTFS HEADER_SUFFIX,
        SNAPFILE_NAME,
        METADATA_NAME,
    };

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        uint64_t size_bytes = 0;
        int r = object_exists(v, names[i], &size_bytes, e);

        if (r == 0)
            note_missing(v, names[i]);
        else if (r > 0)
            r = add(v, names[i], CODEC_NONE, size_bytes, size_bytes, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* Whether the map of @h has a run of the header's own build. */
static bool maps_itself(const struct header *h)
{
    const struct header_build *own = header_find_build(h, &h->build);

    for (size_t i = 0; own && i < map_run_count(h->map); i++) {
        uint16_t build = map_run_at(h->map, i).build;

        if (build != MAP_ZERO && &h->builds[build] == own)
            return true;
    }
    return false;
}

static uint64_t uncompressed_bytes(const struct header *h)
{
    const struct header_build *own = header_find_build(h, &h->build);
    const struct frame *last;

    if (!own || own->size_bytes > 0 || own->frames.count == 0)
        return own ? own->size_bytes : 0;
    last = &own->frames.frames[own->frames.count - 1];
    return last->u.v + last->u_bytes;
}

/*
 * The data of one image. Where it is stored as it is, its presence says all; what it decompresses
 * to, and whether a build without data needs any, are in the header, which is read only then.
 */
static int take_data(struct inventory *v, const char *image, struct thaw_error *e)
{
    char header_name[OBJECT_NAME_BYTES], name[OBJECT_NAME_BYTES];
    struct header *h CLEANUP_HEADER = NULL;
    uint64_t size_bytes = 0;
    enum codec codec;
    int header_r, r = 0;

    for (codec = CODEC_NONE; codec <= CODEC_LZ4 && r == 0; codec++) {
        build_data_name(image, codec, name);
        r = object_exists(v, name, &size_bytes, e);
        if (r > 0)
            break;
    }
    if (r < 0)
        return r;
    if (r > 0 && codec == CODEC_NONE)
        return add(v, name, codec, size_bytes, size_bytes, e);
    if (!manifest_find(v->manifest, build_header_name(image, header_name)) ||
        (r == 0 && v->use == E2B_ANCESTOR))
        return 0;
    header_r = build_header_load(v->store, v->manifest, image, &h, e);
    if (header_r < 0)
        return header_r;
    if (r > 0)
        return add(v, name, codec, size_bytes, uncompressed_bytes(h), e);
    if (maps_itself(h))
        note_missing(v, image);
    return 0;
}

/* Sums are thaw's, and so is the build: one that was not finished, or has lost its manifest. */
static int check_foreign(const struct inventory *v, const char *id, struct thaw_error *e)
{
    static const char *const names[] = {IMAGE_MEMORY SUMS_SUFFIX, IMAGE_ROOTFS SUMS_SUFFIX};
    uint64_t size_bytes;

    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        int r = object_exists(v, names[i], &size_bytes, e);

        if (r > 0)
            return err_set(e, -ENOENT,
                           "no build %s in this store: it has %s but no %s, so it was never "
                           "finished, or is being deleted",
                           id, names[i], MANIFEST_NAME);
        if (r < 0)
            return r;
    }
    return 0;
}

static int judge(const struct inventory *v, const char *id, struct thaw_error *e)
{
    if (v->missing.failed)
        return err_set(e, -ENOMEM, "no memory to look at build %s", id);
    if (v->manifest->object_count == 0)
        return err_set(e, -ENOENT, "no build %s in this store (it has no %s)", id, MANIFEST_NAME);
    if (v->use == E2B_WHOLE && v->missing.len > 0)
        return err_set(e, -ENOENT,
                       "no build %s in this store: it has no %s, and to be a build of E2B's it "
                       "lacks %.*s",
                       id, MANIFEST_NAME, (int)v->missing.len, (const char *)v->missing.data);
    return 0;
}

int e2b_manifest_make(struct store *s, const struct uuid *build, enum e2b_use use,
                      struct manifest **ret, struct thaw_error *e)
{
    struct inventory v CLEANUP(inventory_finish) = {.store = s, .build = build, .use = use};
    char id[UUID_TEXT_BYTES];
    int r;

    uuid_format(build, id);
    v.manifest = calloc(1, sizeof(*v.manifest));
    if (!v.manifest)
        return err_set(e, -ENOMEM, "no memory to look at build %s", id);
    v.manifest->build = *build;
    r = check_foreign(&v, id, e);
    if (r == 0)
        r = take_fixed(&v, e);
    if (r == 0)
        r = take_data(&v, IMAGE_MEMORY, e);
    if (r == 0)
        r = take_data(&v, IMAGE_ROOTFS, e);
    if (r == 0)
        r = judge(&v, id, e);
    if (r == 0)
        *ret = TAKE_PTR(v.manifest);
    return r;
}

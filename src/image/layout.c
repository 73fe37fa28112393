/* SPDX-License-Identifier: Apache-2.0 */
#include "image/layout.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "image/build.h"

static uint64_t run_end(const struct map *map, size_t i)
{
    return (map_run_at(map, i).storage + (uint64_t)map_run_pages(map, i)) * PAGE_BYTES;
}

static void mark_used(struct layout *l)
{
    const struct map *map = l->header->map;

    for (size_t i = 0; i < map_run_count(map); i++) {
        uint16_t build = map_run_at(map, i).build;

        if (build == MAP_ZERO)
            continue;
        l->objects[build].used = true;
        l->objects[build].mapped_bytes = MAX(l->objects[build].mapped_bytes, run_end(map, i));
    }
}

/*
 * What the header leaves open of an ancestor. Up to V3, and for the header's own build, that means
 * uncompressed; later it means unknown, and the ancestor's own header has to be asked (taking it
 * for uncompressed is a mistake that E2B has made more than once).
 */
static int complete_build(struct store *store, const struct header *h, struct header_build *b,
                          const struct manifest *of, const char *name, struct thaw_error *e)
{
    char header_name[OBJECT_NAME_BYTES];
    struct header *theirs CLEANUP_HEADER = NULL;
    struct header_build *own;
    int r;

    if (b->known || header_format(h) < HEADER_V4 || uuid_compare(&b->id, &h->build) == 0 ||
        !build_is_unverified(of) || !manifest_find(of, build_header_name(name, header_name)))
        return 0;
    r = build_header_load(store, of, name, &theirs, e);
    if (r < 0)
        return r;
    b->known = true;
    own = header_find_build(theirs, &b->id);
    if (!own)
        return 0;
    b->size_bytes = own->size_bytes;
    memcpy(b->sha256, own->sha256, sizeof(b->sha256));
    b->frames = own->frames;
    own->frames = (struct frame_table){0}; /* they belong to @b now */
    return 0;
}

/* The object with the data: under the name that its codec gives it, when the codec is known. */
static const struct manifest_object *find_data(const struct header_build *b,
                                               const struct manifest *of, const char *name)
{
    char object[OBJECT_NAME_BYTES];

    for (enum codec codec = CODEC_NONE; codec <= CODEC_LZ4; codec++) {
        const struct manifest_object *o =
            b->known && b->frames.codec != codec
                ? NULL
                : manifest_find(of, build_data_name(name, codec, object));

        if (o)
            return o;
    }
    return NULL;
}

static bool sha256_is_set(const uint8_t *sha256)
{
    static const uint8_t zeros[HEADER_SHA256_BYTES];

    return memcmp(sha256, zeros, sizeof(zeros)) != 0;
}

/* The header and the manifest, or the store, must tell the same story. */
static int check_agreement(const struct header_build *b, const struct manifest_object *o,
                           const char *id, struct thaw_error *e)
{
    if (b->known && b->frames.codec != o->codec)
        return err_set(e, -EBADMSG, "object %s of build %s: codec %s by the header, %s as stored",
                       o->name, id, codec_name(b->frames.codec), codec_name(o->codec));
    if (b->known && b->size_bytes != 0 && b->size_bytes != o->uncompressed_bytes)
        return err_set(e, -EBADMSG, "object %s of build %s: %llu bytes by the header, %llu stored",
                       o->name, id, (unsigned long long)b->size_bytes,
                       (unsigned long long)o->uncompressed_bytes);
    if (b->known && o->codec == CODEC_NONE && build_object_known(o) && sha256_is_set(b->sha256) &&
        memcmp(b->sha256, o->sha256, sizeof(b->sha256)) != 0)
        return err_set(e, -EBADMSG,
                       "object %s of build %s: the header and the manifest give it different "
                       "SHA-256 sums",
                       o->name, id);
    if (b->frames.count > 0) {
        const struct frame *last = &b->frames.frames[b->frames.count - 1];

        if (last->c.v + last->c_bytes > o->size_bytes)
            return err_set(e, -EBADMSG,
                           "object %s of build %s: its last frame ends at byte %" PRIu64
                           ", it has only %" PRIu64,
                           o->name, id, last->c.v + last->c_bytes, o->size_bytes);
    }
    return 0;
}

static int find_sums(struct layout_object *object, const struct manifest *of, const char *id,
                     struct thaw_error *e)
{
    const struct manifest_object *sums;

    if (object->data.sums[0] == '\0')
        return 0;
    sums = manifest_find(of, object->data.sums);
    if (!sums)
        return err_set(e, -EBADMSG, "build %s: its manifest has no object %s, the sums of %s", id,
                       object->data.sums, object->data.name);
    object->sums = *sums;
    return 0;
}

/* Every run must lie within its object: checked once, so that lookups need not. */
static int check_runs(const struct layout *l, size_t build, struct thaw_error *e)
{
    const struct manifest_object *o = &l->objects[build].data;
    const struct map *map = l->header->map;
    uint64_t limit = round_up(o->uncompressed_bytes, PAGE_BYTES);
    char id[UUID_TEXT_BYTES];
    size_t i = 0;

    if (l->objects[build].mapped_bytes <= limit)
        return 0;
    while (map_run_at(map, i).build != build || run_end(map, i) <= limit)
        i++;
    return err_set(e, -EBADMSG,
                   "mapping %zu, of image offset %llu, ends at byte %llu of object %s of build %s, "
                   "which has only %llu",
                   i, (unsigned long long)(map_run_at(map, i).start * PAGE_BYTES),
                   (unsigned long long)run_end(map, i), o->name,
                   uuid_format(&l->header->builds[build].id, id),
                   (unsigned long long)o->uncompressed_bytes);
}

int layout_find(struct layout *l, size_t i, const struct manifest *m, struct store *store,
                struct thaw_error *e)
{
    struct header_build *b = &l->header->builds[i];
    struct manifest *loaded CLEANUP_MANIFEST = NULL;
    const struct manifest *of = m;
    const struct manifest_object *data;
    char id[UUID_TEXT_BYTES];
    int r = 0;

    uuid_format(&b->id, id);
    if (uuid_compare(&b->id, &m->build) != 0) {
        r = build_ancestor_load(store, &b->id, &loaded, e);
        if (r < 0) {
            err_wrap(e, "an ancestor that %s is layered on", l->name);
            return r;
        }
        of = loaded;
    }
    r = complete_build(store, l->header, b, of, l->name, e);
    if (r < 0)
        return r;
    data = find_data(b, of, l->name);
    if (!data)
        return err_set(e, -ENOENT, "build %s has no object %s, which the map of %s refers to", id,
                       l->name, l->name);
    l->objects[i].data = *data;
    r = check_agreement(b, data, id, e);
    if (r == 0)
        r = find_sums(&l->objects[i], of, id, e);
    if (r == 0)
        r = check_runs(l, i, e);
    l->objects[i].found = r == 0;
    return r;
}

int layout_open(struct store *store, const struct manifest *m, const char *name,
                struct layout **ret, struct thaw_error *e)
{
    struct layout *l CLEANUP_LAYOUT = calloc(1, sizeof(*l));
    int r;

    if (!l)
        return err_set(e, -ENOMEM, "no memory for image %s", name);
    snprintf(l->name, sizeof(l->name), "%s", name);
    r = build_header_load(store, m, name, &l->header, e);
    if (r < 0)
        return r;
    l->objects = calloc(l->header->build_count + 1, sizeof(*l->objects));
    if (!l->objects)
        return err_set(e, -ENOMEM, "no memory for the objects of %s", name);
    mark_used(l);
    *ret = TAKE_PTR(l);
    return 0;
}

int layout_load(struct store *store, const struct manifest *m, const char *name,
                struct layout **ret, struct thaw_error *e)
{
    struct layout *l CLEANUP_LAYOUT = NULL;
    char id[UUID_TEXT_BYTES];
    int r = layout_open(store, m, name, &l, e);

    if (r < 0)
        return r;
    for (size_t i = 0; i < l->header->build_count && r == 0; i++) {
        if (l->objects[i].used)
            r = layout_find(l, i, m, store, e);
    }
    if (r < 0) {
        err_wrap(e, "build %s: %s" HEADER_SUFFIX, uuid_format(&m->build, id), name);
        return r;
    }
    *ret = TAKE_PTR(l);
    return 0;
}

int layout_check_object(const struct layout *l, size_t i, struct thaw_error *e)
{
    const struct layout_object *o = &l->objects[i];
    char id[UUID_TEXT_BYTES];

    if (o->data.codec == CODEC_NONE)
        return 0;
    return err_set(e, -ENOTSUP,
                   "object %s of build %s is compressed, which this thaw cannot read: store the "
                   "build without compression",
                   o->data.name, uuid_format(&l->header->builds[i].id, id));
}

int layout_check_readable(const struct layout *l, struct thaw_error *e)
{
    int r = 0;

    for (size_t i = 0; i < l->header->build_count && r == 0; i++) {
        if (l->objects[i].used)
            r = layout_check_object(l, i, e);
    }
    return r;
}

void layout_destroy(struct layout *l)
{
    if (!l)
        return;
    header_destroy(l->header);
    free(l->objects);
    free(l);
}

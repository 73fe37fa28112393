/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/build.h"

#include <errno.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "format/header.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/build.h"
#include "lib/options.h"
#include "store/store.h"

/* An image's part of the public struct, and what its pointers point into. */
struct image_part {
    struct thaw_image_info info;
    struct header *header; /* owned; NULL: the build has no such image */
    char base[UUID_TEXT_BYTES];
    struct thaw_mapping_info *mappings;
    struct thaw_layer_info *layers;
    char (*build_ids)[UUID_TEXT_BYTES]; /* of the header's builds */
};

/* The public struct, and what its pointers point into. */
struct inspection {
    struct thaw_build_info info;
    struct manifest *manifest;
    struct metadata *metadata;
    struct image_part memory;
    struct image_part rootfs;
    char parent[UUID_TEXT_BYTES];
    struct thaw_object_info *objects;
};

static void image_part_finish(struct image_part *p)
{
    header_destroy(p->header);
    free(p->mappings);
    free(p->layers);
    free(p->build_ids);
}

void thaw_build_info_free(struct thaw_build_info *info)
{
    struct inspection *in = container_of(info, struct inspection, info);

    if (!info)
        return;
    manifest_destroy(in->manifest);
    metadata_destroy(in->metadata);
    image_part_finish(&in->memory);
    image_part_finish(&in->rootfs);
    free(in->objects);
    free(in);
}

/* --- reading --- */

static int load_metadata(struct inspection *in, struct store *store, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES];
    int r = build_object_load(store, in->manifest, METADATA_NAME, METADATA_MAX_BYTES, &text, e);

    if (r < 0)
        return r;
    r = metadata_decode(text.data, text.len, &in->metadata, e);
    if (r < 0)
        err_wrap(e, "build %s", uuid_format(&in->manifest->build, id));
    return r;
}

static int load_header(struct inspection *in, struct store *store, const char *name,
                       struct image_part *p, struct thaw_error *e)
{
    char object[OBJECT_NAME_BYTES];

    if (!manifest_find(in->manifest, build_header_name(name, object)))
        return 0;
    p->info.name = name;
    return build_header_load(store, in->manifest, name, &p->header, e);
}

static int load(struct inspection *in, struct store *store, const struct uuid *build,
                struct thaw_error *e)
{
    int r = build_manifest_load(store, build, &in->manifest, e);

    if (r == 0)
        r = load_metadata(in, store, e);
    if (r == 0)
        r = load_header(in, store, IMAGE_MEMORY, &in->memory, e);
    if (r == 0)
        r = load_header(in, store, IMAGE_ROOTFS, &in->rootfs, e);
    return r;
}

/* --- telling --- */

static void format_sha256(const uint8_t *sha256, char ret[65])
{
    static const uint8_t unknown[MANIFEST_SHA256_BYTES];

    ret[0] = '\0';
    for (size_t k = 0; k < sizeof(unknown) && memcmp(sha256, unknown, sizeof(unknown)) != 0; k++)
        snprintf(ret + 2 * k, 3, "%02x", sha256[k]);
}

static int fill_objects(struct inspection *in)
{
    const struct manifest *m = in->manifest;

    in->objects = calloc(m->object_count + 1, sizeof(*in->objects));
    if (!in->objects)
        return -ENOMEM;
    for (size_t i = 0; i < m->object_count; i++) {
        const struct manifest_object *from = &m->objects[i];
        struct thaw_object_info *to = &in->objects[i];

        to->name = from->name;
        to->size_bytes = from->size_bytes;
        to->uncompressed_bytes = from->uncompressed_bytes;
        to->codec = codec_name(from->codec);
        to->sums = from->sums[0] != '\0' ? from->sums : NULL;
        format_sha256(from->sha256, to->sha256);
    }
    in->info.objects = in->objects;
    in->info.object_count = m->object_count;
    return 0;
}

static void fill_layer(const struct header *h, size_t i, const char *id, struct thaw_layer_info *to)
{
    const struct header_build *from = &h->builds[i];

    to->build = id;
    if (from->known) {
        to->codec = codec_name(from->frames.codec);
        to->data_bytes = from->size_bytes;
        format_sha256(from->sha256, to->sha256);
    }
    to->frame_count = from->frames.count;
    for (size_t k = 0; k < from->frames.count; k++) {
        to->frames_uncompressed_bytes += from->frames.frames[k].u_bytes;
        to->frames_stored_bytes += from->frames.frames[k].c_bytes;
    }
}

static void fill_mappings(struct image_part *p, uint16_t own)
{
    const struct map *map = p->header->map;

    for (size_t i = 0; i < map_run_count(map); i++) {
        struct map_run run = map_run_at(map, i);
        struct thaw_mapping_info *to = &p->mappings[i];

        to->offset_bytes = run.start * PAGE_BYTES;
        to->len_bytes = map_run_pages(map, i) * PAGE_BYTES;
        if (run.build == MAP_ZERO) {
            p->info.zero_bytes += to->len_bytes;
            continue;
        }
        to->build = p->build_ids[run.build];
        to->storage_bytes = run.storage * PAGE_BYTES;
        p->layers[run.build].mapped_bytes += to->len_bytes;
        p->layers[run.build].mapping_count++;
        if (run.build == own)
            p->info.own_bytes += to->len_bytes;
        else
            p->info.inherited_bytes += to->len_bytes;
    }
    p->info.mappings = p->mappings;
    p->info.mapping_count = map_run_count(map);
}

static int compare_layers(const void *a, const void *b, void *own)
{
    const struct thaw_layer_info *x = a, *y = b;

    if ((x->build == own) != (y->build == own))
        return x->build == own ? -1 : 1;
    if (x->mapped_bytes != y->mapped_bytes)
        return x->mapped_bytes > y->mapped_bytes ? -1 : 1;
    return strcmp(x->build, y->build);
}

static int fill_image(struct image_part *p)
{
    const struct header *h = p->header;
    const struct header_build *self = header_find_build(h, &h->build);
    uint16_t own = self ? (uint16_t)(self - h->builds) : MAP_ZERO;

    p->mappings = calloc(map_run_count(h->map) + 1, sizeof(*p->mappings));
    p->layers = calloc(h->build_count + 1, sizeof(*p->layers));
    p->build_ids = calloc(h->build_count + 1, sizeof(*p->build_ids));
    if (!p->mappings || !p->layers || !p->build_ids)
        return -ENOMEM;
    p->info.base = uuid_format(&h->base, p->base);
    p->info.header_version = header_format(h);
    p->info.generation = h->generation;
    p->info.block_bytes = h->block_bytes;
    p->info.size_bytes = h->size_bytes;
    for (size_t i = 0; i < h->build_count; i++) {
        uuid_format(&h->builds[i].id, p->build_ids[i]);
        fill_layer(h, i, p->build_ids[i], &p->layers[i]);
    }
    fill_mappings(p, own);
    qsort_r(p->layers, h->build_count, sizeof(*p->layers), compare_layers,
            self ? p->build_ids[own] : NULL);
    p->info.layers = p->layers;
    p->info.layer_count = h->build_count;
    return 0;
}

static void fill_metadata(struct inspection *in)
{
    const struct metadata *m = in->metadata;
    struct thaw_build_info *info = &in->info;

    info->vmm = vmm_kind_name(m->vmm.kind);
    info->vmm_version = m->vmm.version;
    info->vmm_args = (const char *const *)m->vmm.args;
    info->vmm_arg_count = m->vmm.arg_count;
    if (info->unverified && m->vmm.kind == VMM_NONE) { /* E2B's, which is Firecracker's */
        const json_t *template = json_object_get(m->foreign, "template");

        info->vmm = vmm_kind_name(VMM_FIRECRACKER);
        info->vmm_version = json_string_value(json_object_get(template, "firecracker_version"));
    }
    info->working_set_count = m->prefetch.count;
    info->working_set_block_bytes = m->prefetch.count > 0 ? m->prefetch.block_bytes : 0;
}

static int fill(struct inspection *in, struct thaw_error *e)
{
    struct thaw_build_info *info = &in->info;
    int r;

    uuid_format(&in->manifest->build, info->build);
    if (in->manifest->has_parent)
        info->parent = uuid_format(&in->manifest->parent, in->parent);
    info->unverified = build_is_unverified(in->manifest);
    info->created_s = in->manifest->created_s;
    fill_metadata(in);
    r = fill_objects(in);
    if (r == 0 && in->memory.header) {
        info->memory = &in->memory.info;
        r = fill_image(&in->memory);
    }
    if (r == 0 && in->rootfs.header) {
        info->rootfs = &in->rootfs.info;
        r = fill_image(&in->rootfs);
    }
    return r < 0 ? err_set(e, r, "no memory to describe the build") : 0;
}

int thaw_inspect(const char *store_url, const char *build, struct thaw_build_info **ret,
                 struct thaw_error *e)
{
    struct store *store CLEANUP_STORE = NULL;
    struct inspection *in;
    struct uuid id;
    int r = build_id_parse(build, &id, e);

    if (r == 0)
        r = store_open(store_url, NULL, false, &store, e);
    if (r < 0)
        return r;
    in = calloc(1, sizeof(*in));
    if (!in)
        return err_set(e, -ENOMEM, "no memory to describe the build");
    r = load(in, store, &id, e);
    if (r == 0)
        r = fill(in, e);
    if (r < 0) {
        thaw_build_info_free(&in->info);
        return r;
    }
    *ret = &in->info;
    return 0;
}

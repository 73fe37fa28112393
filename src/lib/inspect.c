/* SPDX-License-Identifier: Apache-2.0 */
#include "thaw/build.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "format/header.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/image.h"
#include "lib/options.h"
#include "store/store.h"

/* The public struct, and what its pointers point into. */
struct inspection {
    struct thaw_build_info info;
    struct manifest *manifest;
    struct metadata *metadata;
    struct header *header;
    char parent[UUID_TEXT_BYTES];
    struct thaw_object_info *objects;
    struct thaw_mapping_info *mappings;
    char (*build_ids)[UUID_TEXT_BYTES]; /* of the header's builds */
};

void thaw_build_info_free(struct thaw_build_info *info)
{
    struct inspection *in = container_of(info, struct inspection, info);

    if (!info)
        return;
    manifest_destroy(in->manifest);
    metadata_destroy(in->metadata);
    header_destroy(in->header);
    free(in->objects);
    free(in->mappings);
    free(in->build_ids);
    free(in);
}

static int load(struct inspection *in, struct store *store, const struct uuid *build,
                struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r = build_manifest_load(store, build, &in->manifest, e);

    if (r == 0)
        r = build_object_load(store, in->manifest, METADATA_NAME, METADATA_MAX_BYTES, &text, e);
    if (r == 0) {
        r = metadata_decode(text.data, text.len, &in->metadata, e);
        if (r < 0)
            err_wrap(e, "%s", METADATA_NAME);
    }
    if (r == 0)
        r = build_header_load(store, in->manifest, IMAGE_MEMORY, &in->header, e);
    return r;
}

static void fill_objects(struct inspection *in)
{
    for (size_t i = 0; i < in->manifest->object_count; i++) {
        const struct manifest_object *from = &in->manifest->objects[i];
        struct thaw_object_info *to = &in->objects[i];

        to->name = from->name;
        to->size_bytes = from->size_bytes;
        to->uncompressed_bytes = from->uncompressed_bytes;
        to->codec = codec_name(from->codec);
        for (size_t k = 0; k < sizeof(from->sha256); k++)
            snprintf(to->sha256 + 2 * k, 3, "%02x", from->sha256[k]);
    }
    in->info.objects = in->objects;
    in->info.object_count = in->manifest->object_count;
}

static void fill_mappings(struct inspection *in)
{
    const struct map *map = in->header->map;

    for (size_t i = 0; i < in->header->build_count; i++)
        uuid_format(&in->header->builds[i].id, in->build_ids[i]);
    for (size_t i = 0; i < map_run_count(map); i++) {
        struct map_run run = map_run_at(map, i);
        struct thaw_mapping_info *to = &in->mappings[i];

        to->offset_bytes = run.start * PAGE_BYTES;
        to->len_bytes = map_run_pages(map, i) * PAGE_BYTES;
        to->build = run.build == MAP_ZERO ? NULL : in->build_ids[run.build];
        to->storage_bytes = run.storage * PAGE_BYTES;
        if (to->build)
            in->info.memory_stored_bytes += to->len_bytes;
        else
            in->info.memory_zero_bytes += to->len_bytes;
    }
    in->info.mappings = in->mappings;
    in->info.mapping_count = map_run_count(map);
}

static int fill(struct inspection *in, struct thaw_error *e)
{
    const struct header *h = in->header;
    struct thaw_build_info *info = &in->info;

    in->objects = calloc(in->manifest->object_count + 1, sizeof(*in->objects));
    in->mappings = calloc(map_run_count(h->map) + 1, sizeof(*in->mappings));
    in->build_ids = calloc(h->build_count + 1, sizeof(*in->build_ids));
    if (!in->objects || !in->mappings || !in->build_ids)
        return err_set(e, -ENOMEM, "no memory to describe the build");
    uuid_format(&h->build, info->build);
    uuid_format(&h->base, info->base);
    if (in->manifest->has_parent)
        info->parent = uuid_format(&in->manifest->parent, in->parent);
    info->created_s = in->manifest->created_s;
    info->header_version = header_format(h);
    info->generation = h->generation;
    info->block_bytes = h->block_bytes;
    info->memory_bytes = h->size_bytes;
    info->vmm = vmm_kind_name(in->metadata->vmm.kind);
    info->vmm_version = in->metadata->vmm.version;
    info->vmm_args = (const char *const *)in->metadata->vmm.args;
    info->vmm_arg_count = in->metadata->vmm.arg_count;
    fill_objects(in);
    fill_mappings(in);
    return 0;
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

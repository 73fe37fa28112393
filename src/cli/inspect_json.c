/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/inspect_report.h"

#include <jansson.h>

#include "base/units.h"
#include "cli/cli.h"

/* An empty text says that nobody knows: null. */
static json_t *text_or_null(const char *text)
{
    return text[0] != '\0' ? json_string(text) : json_null();
}

static json_t *objects_json(const struct thaw_build_info *info)
{
    json_t *list = json_array();

    for (size_t i = 0; i < info->object_count; i++) {
        const struct thaw_object_info *o = &info->objects[i];

        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:I, s:s, s:o, s:s?}", "name", o->name, "size",
                                        (json_int_t)o->size_bytes, "uncompressed_size",
                                        (json_int_t)o->uncompressed_bytes, "codec", o->codec,
                                        "sha256", text_or_null(o->sha256), "sums", o->sums));
    }
    return list;
}

static json_t *mappings_json(const struct thaw_image_info *image)
{
    json_t *list = json_array();

    for (size_t i = 0; i < image->mapping_count; i++) {
        const struct thaw_mapping_info *m = &image->mappings[i];

        json_array_append_new(list, json_pack("{s:I, s:I, s:s?, s:I}", "offset",
                                              (json_int_t)m->offset_bytes, "length",
                                              (json_int_t)m->len_bytes, "build", m->build,
                                              "storage_offset", (json_int_t)m->storage_bytes));
    }
    return list;
}

static json_t *frames_json(const struct thaw_layer_info *l)
{
    if (l->frame_count == 0)
        return json_null();
    return json_pack("{s:I, s:I, s:I, s:f}", "count", (json_int_t)l->frame_count,
                     "uncompressed_bytes", (json_int_t)l->frames_uncompressed_bytes, "stored_bytes",
                     (json_int_t)l->frames_stored_bytes, "ratio",
                     (double)l->frames_uncompressed_bytes / (double)l->frames_stored_bytes);
}

static json_t *layers_json(const struct thaw_image_info *image)
{
    json_t *list = json_array();

    for (size_t i = 0; i < image->layer_count; i++) {
        const struct thaw_layer_info *l = &image->layers[i];

        json_array_append_new(list,
                              json_pack("{s:s, s:I, s:I, s:s?, s:I, s:o, s:o}", "build", l->build,
                                        "bytes", (json_int_t)l->mapped_bytes, "mapping_count",
                                        (json_int_t)l->mapping_count, "codec", l->codec,
                                        "data_size", (json_int_t)l->data_bytes, "sha256",
                                        text_or_null(l->sha256), "frames", frames_json(l)));
    }
    return list;
}

static json_t *image_json(const struct thaw_image_info *image, bool mappings)
{
    json_t *json;

    if (!image)
        return json_null();
    json =
        json_pack("{s:s, s:I, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:o}", "name", image->name,
                  "header_version", (json_int_t)image->header_version, "generation",
                  (json_int_t)image->generation, "base", image->base, "block_size",
                  (json_int_t)image->block_bytes, "size", (json_int_t)image->size_bytes, "stored",
                  (json_int_t)image->own_bytes, "inherited", (json_int_t)image->inherited_bytes,
                  "zero", (json_int_t)image->zero_bytes, "mapping_count",
                  (json_int_t)image->mapping_count, "builds", layers_json(image));
    if (mappings)
        json_object_set_new(json, "mappings", mappings_json(image));
    return json;
}

static json_t *vmm_json(const struct thaw_build_info *info)
{
    json_t *args = json_array();

    for (size_t i = 0; i < info->vmm_arg_count; i++)
        json_array_append_new(args, json_string(info->vmm_args[i]));
    return json_pack("{s:s, s:s?, s:o}", "kind", info->vmm, "version", info->vmm_version, "args",
                     args);
}

json_t *inspect_build_json(const struct thaw_build_info *info, bool mappings)
{
    char created[TIME_TEXT_BYTES];

    return json_pack(
        "{s:s, s:s?, s:b, s:o, s:o, s:{s:I, s:I}, s:o, s:o, s:o}", "build", info->build, "parent",
        info->parent, "unverified", (int)info->unverified, "created",
        info->created_s > 0 ? json_string(time_format(info->created_s, created)) : json_null(),
        "vmm", vmm_json(info), "working_set", "count", (json_int_t)info->working_set_count,
        "block_size", (json_int_t)info->working_set_block_bytes, "memory",
        image_json(info->memory, mappings), "rootfs", image_json(info->rootfs, mappings), "objects",
        objects_json(info));
}

json_t *inspect_validation_json(const struct thaw_validation *v)
{
    static const char *const kinds[] = {
        [THAW_VERDICT_OK] = "ok",
        [THAW_VERDICT_UNVERIFIED] = "unverified",
        [THAW_VERDICT_BAD] = "bad",
    };
    json_t *list = json_array();

    for (size_t i = 0; i < v->verdict_count; i++) {
        const struct thaw_verdict *o = &v->verdicts[i];

        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:I, s:o}", "build", o->build,
                                              "object", o->object, "verdict", kinds[o->kind],
                                              "read_bytes", (json_int_t)o->read_bytes, "reason",
                                              text_or_null(o->text)));
    }
    return json_pack("{s:o, s:I, s:I, s:I, s:I}", "objects", list, "build_count",
                     (json_int_t)v->build_count, "bad_count", (json_int_t)v->bad_count,
                     "unverified_count", (json_int_t)v->unverified_count, "read_bytes",
                     (json_int_t)v->read_bytes);
}

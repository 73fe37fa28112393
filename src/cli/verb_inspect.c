/* SPDX-License-Identifier: Apache-2.0 */
#include <inttypes.h>
#include <jansson.h>
#include <stdio.h>
#include <time.h>

#include "base/size.h"
#include "cli/cli.h"

enum key { STORE, MAPPINGS, JSON };

static const struct option_spec options[] = {
    {"store", "STORE", "where the build is: DIR or file:///DIR", STORE},
    {"mappings", NULL, "list every mapping, not just how many there are", MAPPINGS},
    {"json", NULL, "print a JSON object", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "inspect BUILD --store STORE [OPTIONS]",
    .about = "Shows what a build consists of: its objects, and how its memory maps onto them.",
    .options = options,
};

struct arguments {
    const char *store;
    bool mappings;
    bool json;
};

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case STORE:
        a->store = value;
        break;
    case MAPPINGS:
        a->mappings = true;
        break;
    case JSON:
        a->json = true;
        break;
    }
    return 0;
}

static const char *created_text(int64_t seconds, char *buf, size_t len)
{
    time_t t = (time_t)seconds;
    struct tm tm;

    if (!gmtime_r(&t, &tm) || strftime(buf, len, "%Y-%m-%dT%H:%M:%SZ", &tm) == 0)
        return "unknown";
    return buf;
}

static json_t *objects_json(const struct thaw_build_info *info)
{
    json_t *list = json_array();

    for (size_t i = 0; i < info->object_count; i++) {
        const struct thaw_object_info *o = &info->objects[i];

        json_array_append_new(list, json_pack("{s:s, s:I, s:I, s:s, s:s}", "name", o->name, "size",
                                              (json_int_t)o->size_bytes, "uncompressed_size",
                                              (json_int_t)o->uncompressed_bytes, "codec", o->codec,
                                              "sha256", o->sha256));
    }
    return list;
}

static json_t *mappings_json(const struct thaw_build_info *info)
{
    json_t *list = json_array();

    for (size_t i = 0; i < info->mapping_count; i++) {
        const struct thaw_mapping_info *m = &info->mappings[i];

        json_array_append_new(list, json_pack("{s:I, s:I, s:s?, s:I}", "offset",
                                              (json_int_t)m->offset_bytes, "length",
                                              (json_int_t)m->len_bytes, "build", m->build,
                                              "storage_offset", (json_int_t)m->storage_bytes));
    }
    return list;
}

static json_t *vmm_json(const struct thaw_build_info *info)
{
    json_t *args = json_array();

    for (size_t i = 0; i < info->vmm_arg_count; i++)
        json_array_append_new(args, json_string(info->vmm_args[i]));
    return json_pack("{s:s, s:s?, s:o}", "kind", info->vmm, "version", info->vmm_version, "args",
                     args);
}

static int show_json(const struct thaw_build_info *info, bool mappings)
{
    char created[32];
    json_t *memory = json_pack("{s:I, s:I, s:I, s:I}", "size", (json_int_t)info->memory_bytes,
                               "stored", (json_int_t)info->memory_stored_bytes, "zero",
                               (json_int_t)info->memory_zero_bytes, "mapping_count",
                               (json_int_t)info->mapping_count);

    if (mappings)
        json_object_set_new(memory, "mappings", mappings_json(info));
    return print_json(json_pack("{s:s, s:s?, s:s, s:s, s:I, s:I, s:I, s:o, s:o, s:o}", "build",
                                info->build, "parent", info->parent, "base", info->base, "created",
                                created_text(info->created_s, created, sizeof(created)),
                                "header_version", (json_int_t)info->header_version, "generation",
                                (json_int_t)info->generation, "block_size",
                                (json_int_t)info->block_bytes, "vmm", vmm_json(info), "memory",
                                memory, "objects", objects_json(info)));
}

static void show_memory(const struct thaw_build_info *info, bool mappings)
{
    char size[SIZE_TEXT_BYTES], stored[SIZE_TEXT_BYTES], zero[SIZE_TEXT_BYTES];

    printf("\nMEMORY\n  size      %s in blocks of %" PRIu64 " bytes\n",
           size_format(info->memory_bytes, size), info->block_bytes);
    printf("  stored    %s (%.1f %%)\n", size_format(info->memory_stored_bytes, stored),
           100.0 * (double)info->memory_stored_bytes / (double)info->memory_bytes);
    printf("  zero      %s\n", size_format(info->memory_zero_bytes, zero));
    printf("  mappings  %zu\n", info->mapping_count);
    for (size_t i = 0; mappings && i < info->mapping_count; i++) {
        const struct thaw_mapping_info *m = &info->mappings[i];

        if (m->build)
            printf("    %#14" PRIx64 " + %#12" PRIx64 "  %.8s at %#" PRIx64 "\n", m->offset_bytes,
                   m->len_bytes, m->build, m->storage_bytes);
        else
            printf("    %#14" PRIx64 " + %#12" PRIx64 "  zeros\n", m->offset_bytes, m->len_bytes);
    }
}

static void show(const struct thaw_build_info *info, bool mappings)
{
    char created[32], size[SIZE_TEXT_BYTES];

    printf("BUILD     %s\n", info->build);
    printf("  created   %s\n", created_text(info->created_s, created, sizeof(created)));
    printf("  parent    %s\n", info->parent ? info->parent : "none");
    printf("  header    V%u, generation %" PRIu64 "\n", info->header_version, info->generation);
    printf("  vmm       %s%s%s\n", info->vmm, info->vmm_version ? " " : "",
           info->vmm_version ? info->vmm_version : "");
    show_memory(info, mappings);
    printf("\nOBJECTS\n");
    for (size_t i = 0; i < info->object_count; i++) {
        const struct thaw_object_info *o = &info->objects[i];

        printf("  %-18s %12s  %-5s sha256 %.16s...\n", o->name, size_format(o->size_bytes, size),
               o->codec, o->sha256);
    }
}

static int inspect(const struct arguments *a, const char *build)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_build_info *info;
    int status = EXIT_OK;

    if (thaw_inspect(a->store, build, &info, &e) < 0)
        return fail(&e);
    if (a->json)
        status = show_json(info, a->mappings);
    else
        show(info, a->mappings);
    thaw_build_info_free(info);
    return status;
}

int verb_inspect(int argc, char **argv)
{
    struct arguments a = {0};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status >= 0)
        return status;
    if (first + 1 != argc)
        return usage_error(&spec, first == argc ? "which build?" : "one build at a time");
    if (!a.store)
        return usage_error(&spec, "--store is needed");
    return inspect(&a, argv[first]);
}

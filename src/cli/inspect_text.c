/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/inspect_report.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "base/units.h"
#include "cli/cli.h"

/* What a build says of itself may be anything, and must not reach a terminal as it is. */
static void put_text(const char *text)
{
    for (; *text; text++)
        putchar((unsigned char)*text < ' ' || *text == 0x7f ? '?' : *text);
}

static double percent(uint64_t part, uint64_t whole)
{
    return whole > 0 ? 100.0 * (double)part / (double)whole : 0;
}

static void show_share(const char *what, uint64_t bytes, uint64_t whole)
{
    char size[SIZE_TEXT_BYTES];

    printf("  %-11s %10s  %5.1f %%\n", what, size_format(bytes, size), percent(bytes, whole));
}

static void show_layers(const struct thaw_image_info *image, const char *self)
{
    if (image->layer_count == 0)
        return;
    printf("  from builds\n");
    for (size_t i = 0; i < image->layer_count; i++) {
        const struct thaw_layer_info *l = &image->layers[i];
        char size[SIZE_TEXT_BYTES];

        printf("    %s  %10s  %7zu mappings%s\n", l->build, size_format(l->mapped_bytes, size),
               l->mapping_count, strcmp(l->build, self) == 0 ? "  (this build)" : "");
    }
}

static void show_mappings(const struct thaw_image_info *image)
{
    printf("  %14s   %12s  build at storage offset\n", "image offset", "length");
    for (size_t i = 0; i < image->mapping_count; i++) {
        const struct thaw_mapping_info *m = &image->mappings[i];

        printf("  %#14" PRIx64 " + %#12" PRIx64 "  ", m->offset_bytes, m->len_bytes);
        if (m->build)
            printf("%s at %#" PRIx64 "\n", m->build, m->storage_bytes);
        else
            printf("zeros\n");
    }
}

static void show_frames(const struct thaw_image_info *image)
{
    bool titled = false;

    for (size_t i = 0; i < image->layer_count; i++) {
        const struct thaw_layer_info *l = &image->layers[i];
        char plain[SIZE_TEXT_BYTES], stored[SIZE_TEXT_BYTES];

        if (l->frame_count == 0)
            continue;
        if (!titled)
            printf("\nFRAMES of %s\n", image->name);
        titled = true;
        printf("  %s  %s  %zu frames  %s as %s, ratio %.2f\n", l->build, l->codec, l->frame_count,
               size_format(l->frames_uncompressed_bytes, plain),
               size_format(l->frames_stored_bytes, stored),
               (double)l->frames_uncompressed_bytes / (double)l->frames_stored_bytes);
    }
}

static void show_image(const char *title, const struct thaw_image_info *image, const char *self,
                       bool mappings)
{
    char size[SIZE_TEXT_BYTES], block[SIZE_TEXT_BYTES];

    if (!image)
        return;
    printf("\n%s (%s)\n", title, image->name);
    printf("  %-11s V%u, generation %" PRIu64 ", base %s\n", "header", image->header_version,
           image->generation, image->base);
    printf("  %-11s %10s  in blocks of %s\n", "size", size_format(image->size_bytes, size),
           size_format(image->block_bytes, block));
    show_share("stored", image->own_bytes, image->size_bytes);
    show_share("inherited", image->inherited_bytes, image->size_bytes);
    show_share("zero", image->zero_bytes, image->size_bytes);
    printf("  %-11s %10zu\n", "mappings", image->mapping_count);
    show_layers(image, self);
    if (mappings)
        show_mappings(image);
    show_frames(image);
}

static void show_objects(const struct thaw_build_info *info)
{
    printf("\nOBJECTS\n");
    for (size_t i = 0; i < info->object_count; i++) {
        const struct thaw_object_info *o = &info->objects[i];
        char size[SIZE_TEXT_BYTES];

        printf("  %-20s %10s  %-4s  ", o->name, size_format(o->size_bytes, size), o->codec);
        if (o->sha256[0] == '\0')
            printf("no checksum\n");
        else
            printf("sha256 %.16s...%s\n", o->sha256, o->sums ? ", sums" : "");
    }
}

static void show_vmm(const struct thaw_build_info *info)
{
    printf("  %-11s %s", "vmm", info->vmm);
    if (info->vmm_version) {
        putchar(' ');
        put_text(info->vmm_version);
    }
    putchar('\n');
    if (info->vmm_arg_count > 0) {
        printf("  %-11s", "arguments");
        for (size_t i = 0; i < info->vmm_arg_count; i++) {
            putchar(' ');
            put_text(info->vmm_args[i]);
        }
        putchar('\n');
    }
    if (info->working_set_count > 0)
        printf("  %-11s %zu blocks of %" PRIu64 " bytes\n", "working set", info->working_set_count,
               info->working_set_block_bytes);
}

void inspect_show_build(const struct thaw_build_info *info, bool mappings)
{
    char created[TIME_TEXT_BYTES];

    printf("BUILD %s\n", info->build);
    if (info->unverified)
        printf("  %-11s unverified: it has no manifest, as E2B writes builds\n", "state");
    else
        printf("  %-11s %s\n", "created", time_format(info->created_s, created));
    printf("  %-11s %s\n", "parent",
           info->parent ? info->parent : (info->unverified ? "not recorded" : "none"));
    show_vmm(info);
    show_image("MEMORY", info->memory, info->build, mappings);
    show_image("ROOTFS", info->rootfs, info->build, mappings);
    show_objects(info);
}

static void show_verdict(const struct thaw_verdict *v)
{
    static const char *const kinds[] = {
        [THAW_VERDICT_OK] = "ok",
        [THAW_VERDICT_UNVERIFIED] = "unverified: ",
        [THAW_VERDICT_BAD] = "BAD: ",
    };

    printf("  %-20s %s", v->object, kinds[v->kind]);
    put_text(v->text);
    putchar('\n');
}

void inspect_show_validation(const struct thaw_validation *v)
{
    const char *build = "";
    char size[SIZE_TEXT_BYTES];

    printf("\nVALIDATION\n");
    for (size_t i = 0; i < v->verdict_count; i++) {
        if (v->build_count > 1 && strcmp(build, v->verdicts[i].build) != 0)
            printf(" %s\n", v->verdicts[i].build);
        build = v->verdicts[i].build;
        show_verdict(&v->verdicts[i]);
    }
    printf("  %zu build%s, %s read: %zu bad, %zu unverified\n", v->build_count,
           v->build_count == 1 ? "" : "s", size_format(v->read_bytes, size), v->bad_count,
           v->unverified_count);
}

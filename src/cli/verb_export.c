/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdio.h>

#include "base/size.h"
#include "cli/cli.h"

enum key { STORE, JSON };

static const struct option_spec options[] = {
    {"store", "STORE", "where the build is: DIR or file:///DIR", STORE},
    {"json", NULL, "print a JSON object", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "export BUILD DIR --store STORE [OPTIONS]",
    .about =
        "Writes a build as raw files into DIR: memfile, rootfs.ext4, snapfile, metadata.json,\n"
        "those that it has. Images are whole, with the bytes of the builds that this one is\n"
        "layered on, and sparse. Every byte is verified. Nothing is ever overwritten, and\n"
        "all files appear or none.",
    .options = options,
};

struct arguments {
    const char *store;
    bool json;
};

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case STORE:
        a->store = value;
        break;
    case JSON:
        a->json = true;
        break;
    }
    return 0;
}

static int show_json(const struct thaw_export_info *info, const char *build, const char *dir)
{
    json_t *files = json_array();

    for (size_t i = 0; i < info->file_count; i++) {
        const struct thaw_export_file *f = &info->files[i];

        json_array_append_new(files, json_pack("{s:s, s:I, s:I}", "name", f->name, "size",
                                               (json_int_t)f->size_bytes, "written_bytes",
                                               (json_int_t)f->written_bytes));
    }
    return print_json(json_pack("{s:s, s:s, s:o, s:I, s:I}", "build", build, "dir", dir, "files",
                                files, "read_bytes", (json_int_t)info->read_bytes,
                                "unverified_bytes", (json_int_t)info->unverified_bytes));
}

static int show(const struct thaw_export_info *info)
{
    char size[SIZE_TEXT_BYTES], written[SIZE_TEXT_BYTES];

    for (size_t i = 0; i < info->file_count; i++)
        printf("%-14s %10s, %s of it data\n", info->files[i].name,
               size_format(info->files[i].size_bytes, size),
               size_format(info->files[i].written_bytes, written));
    if (info->unverified_bytes > 0)
        printf("%s had no sums to verify them by\n", size_format(info->unverified_bytes, size));
    return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
}

static int export(const struct arguments *a, const char *build, const char *dir)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_export_info info;
    struct progress bar;
    int r;

    progress_start(&bar, "exporting");
    r = thaw_export(
        &(struct thaw_export_options){
            .opts_size = sizeof(struct thaw_export_options),
            .store = a->store,
            .build = build,
            .dir = dir,
            .progress = progress_report,
            .progress_arg = &bar,
        },
        &info, &e);
    progress_end(&bar);
    if (r < 0)
        return fail(&e);
    return a->json ? show_json(&info, build, dir) : show(&info);
}

int verb_export(int argc, char **argv)
{
    struct arguments a = {0};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status >= 0)
        return status;
    if (first + 2 != argc)
        return usage_error(&spec, first == argc       ? "which build, and where to?"
                                  : first + 1 == argc ? "where to?"
                                                      : "one build and one folder at a time");
    if (!a.store)
        return usage_error(&spec, "--store is needed");
    return export(&a, argv[first], argv[first + 1]);
}

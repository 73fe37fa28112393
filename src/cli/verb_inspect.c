/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdio.h>

#include "cli/cli.h"
#include "cli/inspect_report.h"

enum key { STORE, VALIDATE, RECURSIVE, MAPPINGS, JSON };

static const struct option_spec options[] = {
    {"store", "STORE", "where the build is: DIR or file:///DIR", STORE},
    {"validate", NULL, "read and check every byte; exit 1 if anything is wrong", VALIDATE},
    {"recursive", NULL, "with --validate: the builds that it is layered on, too", RECURSIVE},
    {"mappings", NULL, "list every mapping, not just how many there are", MAPPINGS},
    {"json", NULL, "print a JSON object", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "inspect BUILD --store STORE [OPTIONS]",
    .about = "Shows what a build consists of: its objects, and how its memory and its disk map\n"
             "onto them and onto those of other builds.",
    .options = options,
};

struct arguments {
    const char *store;
    bool validate;
    bool recursive;
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
    case VALIDATE:
        a->validate = true;
        break;
    case RECURSIVE:
        a->recursive = true;
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

static int validate(const struct arguments *a, const char *build, struct thaw_validation **ret,
                    struct thaw_error *e)
{
    struct progress bar;
    int r;

    progress_start(&bar, "checking");
    r = thaw_validate(
        &(struct thaw_validate_options){
            .opts_size = sizeof(struct thaw_validate_options),
            .store = a->store,
            .build = build,
            .recursive = a->recursive,
            .progress = progress_report,
            .progress_arg = &bar,
        },
        ret, e);
    progress_end(&bar);
    return r;
}

/* What is damaged may be shown in parts only: @info or @v may be NULL, not both. */
static int show(const struct arguments *a, const struct thaw_build_info *info,
                const struct thaw_validation *v)
{
    json_t *json;

    if (!a->json) {
        if (info)
            inspect_show_build(info, a->mappings);
        if (v)
            inspect_show_validation(v);
        return fflush(stdout) == EOF ? EXIT_FAILED : EXIT_OK;
    }
    json = info ? inspect_build_json(info, a->mappings) : json_object();
    if (v)
        json_object_set_new(json, "validation", inspect_validation_json(v));
    return print_json(json);
}

static int inspect(const struct arguments *a, const char *build)
{
    struct thaw_error inspect_error = THAW_ERROR_INIT, validate_error = THAW_ERROR_INIT;
    struct thaw_build_info *info = NULL;
    struct thaw_validation *v = NULL;
    int status = EXIT_OK;

    if (thaw_inspect(a->store, build, &info, &inspect_error) < 0)
        status = fail(&inspect_error);
    /* A build that cannot be shown can be checked all the same, unless it is not there at all. */
    if (a->validate && validate(a, build, &v, &validate_error) < 0) {
        if (status == EXIT_OK)
            fail(&validate_error);
        status = EXIT_FAILED;
    }
    if ((info || v) && show(a, info, v) != EXIT_OK)
        status = EXIT_FAILED;
    if (v && v->bad_count > 0)
        status = EXIT_FAILED;
    thaw_validation_free(v);
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
    if (a.recursive && !a.validate)
        return usage_error(&spec, "--recursive goes with --validate");
    return inspect(&a, argv[first]);
}

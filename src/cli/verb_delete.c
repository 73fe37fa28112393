/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdio.h>

#include "base/size.h"
#include "cli/cli.h"

enum key { STORE, FORCE, JSON };

static const struct option_spec options[] = {
    {"store", "STORE", "which store: DIR or file:///DIR", STORE},
    {"force", NULL, "also what is damaged or unfinished, never what others need", FORCE},
    {"json", NULL, "print what was removed as a JSON object", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "delete BUILD --store STORE [OPTIONS]",
    .about =
        "Removes a build from a store. It stays, and those are named, while other builds need it:\n"
        "its children, and all whose memory or disk has bytes in it.",
    .options = options,
};

struct arguments {
    struct thaw_delete_options what;
    bool json;
};

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case STORE:
        a->what.store = value;
        break;
    case FORCE:
        a->what.force = true;
        break;
    case JSON:
        a->json = true;
        break;
    }
    return 0;
}

static int show_json(const struct thaw_deleted *deleted)
{
    json_t *objects = json_array();

    for (size_t i = 0; i < deleted->object_count; i++)
        json_array_append_new(objects,
                              json_pack("{s:s, s:I}", "name", deleted->objects[i].name, "size",
                                        (json_int_t)deleted->objects[i].size_bytes));
    return print_json(json_pack("{s:s, s:o, s:I}", "build", deleted->build, "objects", objects,
                                "bytes", (json_int_t)deleted->bytes));
}

static int delete_build(const struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_deleted *deleted;
    char bytes[SIZE_TEXT_BYTES];
    int status = EXIT_OK;

    if (thaw_delete(&a->what, &deleted, &e) < 0)
        return fail(&e);
    if (a->json)
        status = show_json(deleted);
    else
        printf("deleted build %s: %zu objects, %s\n", deleted->build, deleted->object_count,
               size_format(deleted->bytes, bytes));
    thaw_deleted_free(deleted);
    return status;
}

int verb_delete(int argc, char **argv)
{
    struct arguments a = {.what.opts_size = sizeof(a.what)};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status >= 0)
        return status;
    if (first + 1 != argc)
        return usage_error(&spec, first == argc ? "which build?" : "one build at a time");
    if (!a.what.store)
        return usage_error(&spec, "--store is needed");
    a.what.build = argv[first];
    return delete_build(&a);
}

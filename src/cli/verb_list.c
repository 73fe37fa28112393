/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdio.h>
#include <string.h>

#include "base/size.h"
#include "base/units.h"
#include "cli/cli.h"

#define INDENT_MAX 40u /* columns; deeper chains are not moved further to the right */

enum key { STORE, TREE, JSON };

static const struct option_spec options[] = {
    {"store", "STORE", "which store: DIR or file:///DIR", STORE},
    {"tree", NULL, "put children below their parent, indented", TREE},
    {"json", NULL, "print a JSON object", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "list --store STORE [OPTIONS]",
    .about =
        "Lists the builds of a store, the newest first. A build that is damaged is listed with\n"
        "what is wrong with it. What was never finished is no build.",
    .options = options,
};

struct arguments {
    struct thaw_list_options list;
    bool json;
};

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case STORE:
        a->list.store = value;
        break;
    case TREE:
        a->list.tree = true;
        break;
    case JSON:
        a->json = true;
        break;
    }
    return 0;
}

static const char *state_name(enum thaw_build_state state)
{
    static const char *const names[] = {
        [THAW_BUILD_OK] = "ok",
        [THAW_BUILD_UNVERIFIED] = "unverified",
        [THAW_BUILD_DAMAGED] = "damaged",
    };

    return names[state];
}

static json_t *entry_json(const struct thaw_build_entry *b)
{
    char created[TIME_TEXT_BYTES];

    time_format(b->created_s, created);
    return json_pack("{s:s, s:s, s:s?, s:s?, s:s?, s:b, s:s?, s:I, s:I, s:i}", "build", b->build,
                     "state", state_name(b->state), "reason", b->reason, "created",
                     strcmp(created, "-") != 0 ? created : NULL, "parent",
                     b->parent[0] ? b->parent : NULL, "parent_missing", b->parent_is_missing, "vmm",
                     b->vmm, "memory_size", (json_int_t)b->memory_bytes, "stored_size",
                     (json_int_t)b->stored_bytes, "depth", (int)b->depth);
}

static int show_json(const struct arguments *a, const struct thaw_build_list *list)
{
    json_t *builds = json_array();

    for (size_t i = 0; i < list->count; i++)
        json_array_append_new(builds, entry_json(&list->builds[i]));
    return print_json(json_pack("{s:s, s:o}", "store", a->list.store, "builds", builds));
}

static void show_entry(const struct thaw_build_entry *b, int id_columns)
{
    unsigned indent = MIN(2 * b->depth, INDENT_MAX);
    char created[TIME_TEXT_BYTES], memory[SIZE_TEXT_BYTES], stored[SIZE_TEXT_BYTES];
    char parent[10] = "-";

    if (b->parent[0])
        snprintf(parent, sizeof(parent), "%.8s%s", b->parent, b->parent_is_missing ? "?" : "");
    printf("%*s%-*s  %-10s  %-20s  %-9s  %-11s  %10s  %10s\n", (int)indent, "",
           id_columns - (int)indent, b->build, state_name(b->state),
           time_format(b->created_s, created), parent, b->vmm ? b->vmm : "-",
           b->memory_bytes ? size_format(b->memory_bytes, memory) : "-",
           size_format(b->stored_bytes, stored));
    if (b->reason)
        printf("%*s  ! %s\n", (int)indent, "", b->reason);
}

static void show(const struct thaw_build_list *list)
{
    unsigned deepest = 0;
    int id_columns;

    if (list->count == 0)
        return; /* nothing is easier to use in a pipe than a sentence */
    for (size_t i = 0; i < list->count; i++)
        deepest = MAX(deepest, list->builds[i].depth);
    id_columns = THAW_BUILD_ID_BYTES - 1 + (int)MIN(2 * deepest, INDENT_MAX);
    printf("%-*s  %-10s  %-20s  %-9s  %-11s  %10s  %10s\n", id_columns, "BUILD", "STATE", "CREATED",
           "PARENT", "VMM", "MEMORY", "STORED");
    for (size_t i = 0; i < list->count; i++)
        show_entry(&list->builds[i], id_columns);
}

static int list(const struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_build_list *builds;
    int status = EXIT_OK;

    if (thaw_list(&a->list, &builds, &e) < 0)
        return fail(&e);
    if (a->json)
        status = show_json(a, builds);
    else
        show(builds);
    thaw_build_list_free(builds);
    return status;
}

int verb_list(int argc, char **argv)
{
    struct arguments a = {.list.opts_size = sizeof(a.list)};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status >= 0)
        return status;
    if (first < argc)
        return usage_error(&spec, "'%s' is not expected here", argv[first]);
    if (!a.list.store)
        return usage_error(&spec, "--store is needed");
    return list(&a);
}

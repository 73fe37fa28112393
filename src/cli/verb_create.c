/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

#include "cli/cli.h"

enum key { MEMORY, SNAPFILE, STORE, VMM, VMM_VERSION, VMM_ARG, JSON };

static const struct option_spec options[] = {
    {"memory", "FILE", "raw guest memory (a multiple of 4096 bytes)", MEMORY},
    {"snapfile", "FILE", "the VMM's own state, kept as it is", SNAPFILE},
    {"store", "STORE", "where to put the build: DIR or file:///DIR", STORE},
    {"vmm", "KIND", "what the snapshot is of: qemu, firecracker, none (default)", VMM},
    {"vmm-version", "TEXT", "version of that VMM, for the record", VMM_VERSION},
    {"vmm-arg", "ARG", "one argument to start the VMM with again; repeatable", VMM_ARG},
    {"json", NULL, "print a JSON object instead of the id alone", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "create --memory FILE [--snapfile FILE] --store STORE [OPTIONS]",
    .about =
        "Makes a build from raw files and prints its id. Zero pages are not stored. The build\n"
        "exists, durably, from the moment its id is printed; until then nobody sees it.",
    .options = options,
};

struct arguments {
    struct thaw_create_options create;
    struct strings vmm_args;
    bool json;
};

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case MEMORY:
        a->create.memory_path = value;
        break;
    case SNAPFILE:
        a->create.snapfile_path = value;
        break;
    case STORE:
        a->create.store = value;
        break;
    case VMM:
        a->create.vmm = value;
        break;
    case VMM_VERSION:
        a->create.vmm_version = value;
        break;
    case VMM_ARG:
        return strings_add(&a->vmm_args, value);
    case JSON:
        a->json = true;
        break;
    }
    return 0;
}

static int create(struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char id[THAW_BUILD_ID_BYTES];
    struct progress bar;
    int r;

    progress_start(&bar, "storing memory");
    a->create.vmm_args = a->vmm_args.list;
    a->create.progress = progress_report;
    a->create.progress_arg = &bar;
    r = thaw_create(&a->create, id, &e);
    progress_end(&bar);
    if (r < 0)
        return fail(&e);
    if (a->json)
        return print_json(json_pack("{s:s, s:s}", "build", id, "store", a->create.store));
    puts(id);
    return EXIT_OK;
}

int verb_create(int argc, char **argv)
{
    struct arguments a = {.create.opts_size = sizeof(a.create)};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status < 0 && first < argc)
        status = usage_error(&spec, "'%s' is not expected here", argv[first]);
    if (status < 0 && (!a.create.memory_path || !a.create.store))
        status = usage_error(&spec, "--memory and --store are needed");
    if (status < 0)
        status = create(&a);
    free(a.vmm_args.list);
    return status;
}

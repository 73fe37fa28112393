/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/units.h"
#include "cli/cli.h"

enum key {
    MEMORY,
    ROOTFS,
    SNAPFILE,
    BASE,
    BLOCK_SIZE,
    HEADER,
    CODEC,
    STORE,
    VMM,
    VMM_VERSION,
    VMM_ARG,
    JSON,
};

static const struct option_spec options[] = {
    {"memory", "FILE", "raw guest memory (a multiple of the block size)", MEMORY},
    {"rootfs", "FILE", "raw guest disk (a multiple of 4096 bytes)", ROOTFS},
    {"snapfile", "FILE", "the VMM's own state, kept as it is", SNAPFILE},
    {"base", "BUILD", "store only what differs from this build", BASE},
    {"block-size", "SIZE", "of memory: 4K or 2M (default: the base's, or 4K)", BLOCK_SIZE},
    {"header", "VERSION", "v4 (default), or v3 for readers that know no other", HEADER},
    {"codec", "NAME", "how data is stored: none (default)", CODEC},
    {"store", "STORE", "where to put the build: DIR or file:///DIR", STORE},
    {"vmm", "KIND", "what the snapshot is of: qemu, firecracker, none (default)", VMM},
    {"vmm-version", "TEXT", "version of that VMM, for the record", VMM_VERSION},
    {"vmm-arg", "ARG", "one argument to start the VMM with again; repeatable", VMM_ARG},
    {"json", NULL, "print a JSON object instead of the id alone", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage =
        "create [--memory FILE] [--rootfs FILE] [--snapfile FILE] [--base BUILD] --store STORE "
        "[OPTIONS]",
    .about =
        "Makes a build from raw files and prints its id. Blocks of zeros are not stored, nor with\n"
        "--base what is as in that build. The build exists, durably, from the moment its id is\n"
        "printed; until then nobody sees it. The files must not be written to meanwhile.",
    .options = options,
};

struct arguments {
    struct thaw_create_options create;
    struct strings vmm_args;
    bool json;
};

static int take_block_size(struct arguments *a, const char *value)
{
    if (size_parse(value, &a->create.block_bytes) == 0 &&
        (a->create.block_bytes == 4 * KIB || a->create.block_bytes == 2 * MIB))
        return 0;
    usage_error(&spec, "--block-size is 4K or 2M, not '%s'", value);
    return -1;
}

static int take_header(struct arguments *a, const char *value)
{
    if (strcmp(value, "v3") == 0 || strcmp(value, "v4") == 0) {
        a->create.header_version = value[1] == '3' ? 3 : 4;
        return 0;
    }
    usage_error(&spec, "--header is v3 or v4, not '%s'", value);
    return -1;
}

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case MEMORY:
        a->create.memory_path = value;
        break;
    case ROOTFS:
        a->create.rootfs_path = value;
        break;
    case BASE:
        a->create.base = value;
        break;
    case BLOCK_SIZE:
        return take_block_size(a, value);
    case HEADER:
        return take_header(a, value);
    case CODEC:
        a->create.codec = value;
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

    progress_start(&bar, "storing");
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
    if (status < 0 && !a.create.store)
        status = usage_error(&spec, "--store is needed");
    if (status < 0 && !a.create.memory_path && !a.create.rootfs_path)
        status = usage_error(&spec, "--memory or --rootfs is needed, or both");
    if (status < 0)
        status = create(&a);
    free(a.vmm_args.list);
    return status;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "base/size.h"
#include "base/units.h"
#include "cli/cli.h"

enum key {
    MEMORY,
    ROOTFS,
    SNAPFILE,
    FROM_QMP,
    CONTINUE,
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
    {"rootfs", "FILE", "raw guest disk (a multiple of 4096 bytes), or an NBD URI", ROOTFS},
    {"snapfile", "FILE", "the VMM's own state, kept as it is", SNAPFILE},
    {"from-qmp", "SOCKET", "make it of the guest of a running QEMU, by its monitor", FROM_QMP},
    {"continue", NULL, "with --from-qmp: let the guest run on when the build exists", CONTINUE},
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
    .usage = "create [--memory FILE] [--rootfs FILE] [--snapfile FILE] [--from-qmp SOCKET] "
             "[--base BUILD] --store STORE [OPTIONS]",
    .about =
        "Makes a build from raw files, or of a running QEMU's guest, and prints its id. Blocks of\n"
        "zeros are not stored, nor with --base what is as in that build. The build exists, "
        "durably,\n"
        "from the moment its id is printed; until then nobody sees it. The files must not be\n"
        "written to meanwhile; a running guest is stopped.",
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
    case FROM_QMP:
        a->create.from_qmp = value;
        break;
    case CONTINUE:
        a->create.go_on = true;
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

/* While a guest stands still for us, a signal must not end us before it runs again. */
static int catch_signals(void)
{
    sigset_t set;
    int fd;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGHUP);
    signal(SIGPIPE, SIG_IGN);
    fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (fd < 0) {
        perror("thaw: waiting for signals");
        return -1;
    }
    sigprocmask(SIG_BLOCK, &set, NULL);
    return fd;
}

static int report(const struct arguments *a, const char *id)
{
    if (a->json)
        return print_json(json_pack("{s:s, s:s}", "build", id, "store", a->create.store));
    puts(id);
    return EXIT_OK;
}

static int create(struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char id[THAW_BUILD_ID_BYTES];
    struct progress bar;
    int r, status;

    if (a->create.from_qmp) {
        a->create.cancel_fd = catch_signals();
        if (a->create.cancel_fd < 0)
            return EXIT_FAILED;
    }
    progress_start(&bar, "storing");
    a->create.vmm_args = a->vmm_args.list;
    a->create.progress = progress_report;
    a->create.progress_arg = &bar;
    r = thaw_create(&a->create, id, &e);
    progress_end(&bar);
    if (a->create.from_qmp)
        close(a->create.cancel_fd);
    if (r < 0)
        return fail(&e);
    status = report(a, id);
    return r == 0 ? status : fail(&e);
}

/* -1, or the status to exit with */
static int check_parts(const struct arguments *a)
{
    const struct thaw_create_options *c = &a->create;
    bool images = c->memory_path || c->rootfs_path;

    if (!c->from_qmp && !images)
        return usage_error(&spec, "--memory or --rootfs is needed, or both, or --from-qmp");
    if (!c->from_qmp && c->go_on)
        return usage_error(&spec, "--continue goes with --from-qmp");
    if (c->from_qmp &&
        (images || c->snapfile_path || c->vmm || c->vmm_version || a->vmm_args.count))
        return usage_error(&spec, "--from-qmp takes memory, disk, state and the VMM's arguments "
                                  "from the guest: no option can give them");
    return -1;
}

int verb_create(int argc, char **argv)
{
    struct arguments a = {.create.opts_size = sizeof(a.create)};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status < 0 && first < argc)
        status = usage_error(&spec, "'%s' is not expected here", argv[first]);
    if (status < 0 && !a.create.store)
        status = usage_error(&spec, "--store is needed");
    if (status < 0)
        status = check_parts(&a);
    if (status < 0)
        status = create(&a);
    free(a.vmm_args.list);
    return status;
}

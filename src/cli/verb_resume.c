/* SPDX-License-Identifier: Apache-2.0 */
#include <assert.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "base/size.h"
#include "cli/cli.h"
#include "cli/resume_iterate.h"
#include "cli/resume_serve.h"

enum key {
    STORE,
    VMM,
    VMM_PROGRAM,
    VMM_OPTION,
    RUN_DIR,
    JAIL,
    ACCEPT,
    POPULATE,
    CACHE,
    CACHE_BACKING,
    CACHE_HUGE_PAGES,
    DISK_BUDGET,
    MEMORY_BUDGET,
    FLAG,
    FLAGS,
    METRICS,
    ITERATIONS,
    COLD,
    CMD,
    ON_RESUMED,
    JSON
};

static const struct option_spec options[] = {
    {"store", "STORE", "where the build is: DIR or file:///DIR", STORE},
    {"vmm", "DRIVER", "qemu, firecracker, or none: serve one that you start (default: as recorded)",
     VMM},
    {"vmm-program", "FILE", "the VMM to run instead of the usual one", VMM_PROGRAM},
    {"vmm-option", "ARG", "one more option for the VMM, \"-opt value\"; repeatable", VMM_OPTION},
    {"run-dir", "DIR", "where to make the folder of sockets (default: /run/thaw)", RUN_DIR},
    {"jail", "UID:GID:ROOT", "put the sockets into ROOT, for a VMM jailed there", JAIL},
    {"accept", "N", "serve N VMs of this build, one after the other or at once", ACCEPT},
    {"populate", NULL, "install all memory in the background", POPULATE},
    {"cache", "DIR", "folder for what caches keep on disk", CACHE},
    {"cache-backing", "BACKING", "how caches keep bytes: tiered (default), memfd, file",
     CACHE_BACKING},
    {"cache-huge-pages", "KIND",
     "memory of backing tiered in huge pages: thp (default), off, hugetlb", CACHE_HUGE_PAGES},
    {"disk-budget", "SIZE", "disk that backing tiered may take, or none (default: a quarter)",
     DISK_BUDGET},
    {"memory-budget", "SIZE", "memory that caches may take (default: a quarter of what is free)",
     MEMORY_BUDGET},
    {"flag", "NAME=VALUE", "set a feature flag; repeatable", FLAG},
    {"flags", "FILE", "feature flags in flagd's format, read again when it changes", FLAGS},
    {"metrics", "ADDRESS", "serve metrics over HTTP on HOST:PORT or unix:PATH", METRICS},
    {"iterations", "N", "resume N times, ending each when --cmd ends, and tell what they took",
     ITERATIONS},
    {"cold", NULL, "with --iterations: begin each with an empty cache", COLD},
    {"cmd", "CMD", "run CMD in a shell when the VM runs, and end the VM when CMD ends", CMD},
    {"on-resumed", "CMD", "run CMD in a shell when the VM runs", ON_RESUMED},
    {"json", NULL, "print one JSON line when ready and one at the end", JSON},
    {0},
};

static const struct verb_spec spec = {
    .usage = "resume BUILD --store STORE [OPTIONS]",
    .about = "Brings a build back to life. Its memory arrives page by page, as the guest touches\n"
             "it. Serves until the VM ends or thaw gets SIGTERM or SIGINT, which end the VM too\n"
             "if thaw started it.",
    .options = options,
};

struct arguments {
    struct thaw_resume_options resume;
    struct thaw_jail jail;
    struct strings vmm_options;
    struct thaw_host_options host;
    struct strings flags;
    struct serve_options serve;
    unsigned iterations; /* 0: once, and serve until the end */
    bool cold;
};

static int take_jail(struct arguments *a, const char *value)
{
    int used = 0;

    if (sscanf(value, "%u:%u:%n", &a->jail.uid, &a->jail.gid, &used) != 2 || used == 0 ||
        value[used] != '/') {
        usage_error(&spec, "--jail takes UID:GID:ROOT, as in 1000:1000:/srv/jail, not '%s'", value);
        return -1;
    }
    a->jail.root = value + used;
    a->resume.jail = &a->jail;
    return 0;
}

static int take_count(const char *option, const char *value, unsigned max, unsigned *ret)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);

    if (*end != '\0' || n < 1 || n > max || value[0] < '0' || value[0] > '9') {
        usage_error(&spec, "--%s takes a number from 1 to %u, not '%s'", option, max, value);
        return -1;
    }
    *ret = (unsigned)n;
    return 0;
}

static int take_budget(const char *option, const char *value, uint64_t *ret)
{
    if (size_parse(value, ret) == 0 && *ret > 0)
        return 0;
    usage_error(&spec, "--%s takes a size, as in 512M, not '%s'", option, value);
    return -1;
}

static int take_disk_budget(struct arguments *a, const char *value)
{
    a->host.no_disk = strcmp(value, "none") == 0;
    return a->host.no_disk ? 0 : take_budget("disk-budget", value, &a->host.disk_budget);
}

/* Where the value of an option goes that is taken as it is; NULL for the others. */
static const char **value_of(struct arguments *a, enum key key)
{
    switch (key) {
    case STORE:
        return &a->resume.store;
    case VMM:
        return &a->resume.vmm;
    case VMM_PROGRAM:
        return &a->resume.vmm_program;
    case RUN_DIR:
        return &a->resume.run_dir;
    case CACHE:
        return &a->host.cache_dir;
    case CACHE_BACKING:
        return &a->host.cache_backing;
    case CACHE_HUGE_PAGES:
        return &a->host.cache_huge_pages;
    case FLAGS:
        return &a->host.flags_file;
    case METRICS:
        return &a->host.metrics;
    case CMD:
        return &a->serve.cmd;
    case ON_RESUMED:
        return &a->serve.on_resumed;
    default:
        return NULL;
    }
}

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;
    const char **plain = value_of(a, (enum key)key);

    if (plain) {
        *plain = value;
        return 0;
    }
    switch ((enum key)key) {
    case VMM_OPTION:
        return strings_add(&a->vmm_options, value);
    case FLAG:
        return strings_add(&a->flags, value);
    case JAIL:
        return take_jail(a, value);
    case ACCEPT:
        return take_count("accept", value, 1024, &a->resume.accept);
    case ITERATIONS:
        return take_count("iterations", value, ITERATIONS_MAX, &a->iterations);
    case DISK_BUDGET:
        return take_disk_budget(a, value);
    case MEMORY_BUDGET:
        return take_budget("memory-budget", value, &a->host.memory_budget);
    case POPULATE:
        a->resume.populate = 1;
        return 0;
    case COLD:
        a->cold = true;
        return 0;
    case JSON:
        a->serve.json = true;
        return 0;
    default:
        assert(!"an option of the table is not taken");
        return -1;
    }
}

/* VMs and layers take descriptors; the soft limit is for programs that use select(2). */
static void raise_descriptor_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == limit.rlim_max)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
        perror("thaw: raising the limit of open files");
}

static int resume_on(struct thaw_host *host, struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_sandbox *s;
    int status;

    a->resume.host = host;
    if (a->iterations)
        return resume_iterate(host, &a->resume, &a->serve, a->iterations, a->cold);
    if (thaw_resume(&a->resume, &s, &e) < 0)
        return fail(&e);
    status = serve(host, s, &a->serve, NULL);
    thaw_sandbox_destroy(s);
    return status;
}

static int resume(struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_host *host;
    int status;

    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    a->resume.vmm_options = a->vmm_options.list;
    a->host.flags = a->flags.list;
    a->host.warn = warn;
    a->host.no_disk |= a->cold; /* it would still have what the iteration before has left */
    if (thaw_host_open(&a->host, &host, &e) < 0)
        return fail(&e);
    status = resume_on(host, a);
    thaw_host_close(host);
    return status;
}

int verb_resume(int argc, char **argv)
{
    struct arguments a = {.resume.opts_size = sizeof(a.resume), .host.opts_size = sizeof(a.host)};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status < 0 && first + 1 != argc)
        status = usage_error(&spec, first == argc ? "which build?" : "one build at a time");
    if (status < 0 && a.cold && !a.iterations)
        status = usage_error(&spec, "--cold goes with --iterations");
    if (status < 0 && !a.resume.store)
        status = usage_error(&spec, "--store is needed");
    if (status < 0) {
        a.resume.build = argv[first];
        status = resume(&a);
    }
    free(a.vmm_options.list);
    free(a.flags.list);
    return status;
}

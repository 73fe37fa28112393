/* SPDX-License-Identifier: Apache-2.0 */
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include "cli/cli.h"
#include "cli/resume_report.h"

enum key { STORE, VMM, VMM_PROGRAM, VMM_OPTION, RUN_DIR, JAIL, ACCEPT, POPULATE, JSON };

static const struct option_spec options[] = {
    {"store", "STORE", "where the build is: DIR or file:///DIR", STORE},
    {"vmm", "DRIVER", "qemu, or none: serve a VMM that you start (default: as recorded)", VMM},
    {"vmm-program", "FILE", "the VMM to run instead of the usual one", VMM_PROGRAM},
    {"vmm-option", "ARG", "one more option for the VMM, \"-opt value\"; repeatable", VMM_OPTION},
    {"run-dir", "DIR", "where to make the folder of sockets (default: /run/thaw)", RUN_DIR},
    {"jail", "UID:GID:ROOT", "put the sockets into ROOT, for a VMM jailed there", JAIL},
    {"accept", "N", "serve N VMs of this build, one after the other or at once", ACCEPT},
    {"populate", NULL, "install all memory in the background", POPULATE},
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
    bool json;
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

static int take_accept(struct arguments *a, const char *value)
{
    char *end;
    unsigned long n = strtoul(value, &end, 10);

    if (*end != '\0' || n < 1 || n > 1024 || value[0] < '0' || value[0] > '9') {
        usage_error(&spec, "--accept takes a number from 1 to 1024, not '%s'", value);
        return -1;
    }
    a->resume.accept = (unsigned)n;
    return 0;
}

static int take(void *arg, int key, const char *value)
{
    struct arguments *a = arg;

    switch ((enum key)key) {
    case STORE:
        a->resume.store = value;
        break;
    case VMM:
        a->resume.vmm = value;
        break;
    case VMM_PROGRAM:
        a->resume.vmm_program = value;
        break;
    case VMM_OPTION:
        return strings_add(&a->vmm_options, value);
    case RUN_DIR:
        a->resume.run_dir = value;
        break;
    case JAIL:
        return take_jail(a, value);
    case ACCEPT:
        return take_accept(a, value);
    case POPULATE:
        a->resume.populate = 1;
        break;
    case JSON:
        a->json = true;
        break;
    }
    return 0;
}

static void stop_signals(sigset_t *ret)
{
    sigemptyset(ret);
    sigaddset(ret, SIGTERM);
    sigaddset(ret, SIGINT);
    sigaddset(ret, SIGHUP);
}

/*
 * While the sandbox runs, signals are something to poll for. Before and after, when a store that
 * does not answer may be waited for, they end the process, and the janitor cleans up.
 */
static int open_stop_fd(void)
{
    sigset_t set;

    stop_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

/* The signals that stopped us are taken; the next one ends us. */
static void close_stop_fd(int fd)
{
    struct signalfd_siginfo taken;
    sigset_t set;

    while (read(fd, &taken, sizeof(taken)) > 0)
        ;
    close(fd);
    stop_signals(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void warn(void *arg, const char *text)
{
    (void)arg;
    fprintf(stderr, "thaw: %s\n", text);
}

static int serve(struct thaw_sandbox *s, const struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    int stop_fd = open_stop_fd(), status, r;

    if (stop_fd < 0) {
        perror("thaw: signalfd");
        return EXIT_FAILED;
    }
    status = report_ready(s, a->json);
    r = status == EXIT_OK ? thaw_sandbox_wait(s, stop_fd, warn, NULL, &e) : 0;
    close_stop_fd(stop_fd);
    if (status != EXIT_OK)
        return status;
    thaw_sandbox_stop(s);
    status = report_end(s, a->json);
    return r < 0 ? fail(&e) : status;
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

static int resume(struct arguments *a)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct thaw_sandbox *s;
    int status;

    signal(SIGPIPE, SIG_IGN);
    raise_descriptor_limit();
    a->resume.vmm_options = a->vmm_options.list;
    if (thaw_resume(&a->resume, &s, &e) < 0)
        return fail(&e);
    status = serve(s, a);
    thaw_sandbox_destroy(s);
    return status;
}

int verb_resume(int argc, char **argv)
{
    struct arguments a = {.resume.opts_size = sizeof(a.resume)};
    int first, status = parse_options(&spec, argc, argv, take, &a, &first);

    if (status < 0 && first + 1 != argc)
        status = usage_error(&spec, first == argc ? "which build?" : "one build at a time");
    if (status < 0 && !a.resume.store)
        status = usage_error(&spec, "--store is needed");
    if (status < 0) {
        a.resume.build = argv[first];
        status = resume(&a);
    }
    free(a.vmm_options.list);
    return status;
}

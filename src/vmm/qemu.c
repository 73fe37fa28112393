/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver of QEMU.
 *
 * Device state is a QEMU migration stream with the capability x-ignore-shared: everything but guest
 * memory. QEMU reads it from the snapfile's descriptor, which it inherits. (7.2 and later; newer
 * ones say that "fd:" is for sockets and warn, but still read.) A QEMU that cannot load the stream
 * says why on stderr and exits, so the end of the process and its log are the error.
 *
 * Guest memory comes over the memory socket: the preloaded shim hands it over while QEMU sets up
 * its machine, and then writes a byte into the ready pipe. Without that byte the memory is plain
 * zeros, and the state must not be loaded over it.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "base/clock.h"
#include "base/units.h"
#include "vmm/driver.h"
#include "vmm/process.h"
#include "vmm/qemu_command.h"
#include "vmm/qemu_news.h"
#include "vmm/qmp.h"

#define UP_WAIT_NS (30 * NS_PER_SEC) /* exec and machine set-up; no guest memory is touched */
#define LOAD_WAIT_NS                                                                               \
    (120 * NS_PER_SEC) /* loading and running may wait for pages of a far store                    \
                        */
#define RUN_WAIT_NS  (60 * NS_PER_SEC)
#define QUIT_WAIT_NS (3 * NS_PER_SEC)

struct qemu {
    struct vmm base;
    struct qmp *qmp; /* owned */
    int ready_fd;    /* owned; read end of the pipe in which the shim reports */
    int snapfile_fd; /* owned duplicate; shares its position with QEMU's */
    uint64_t memory_bytes;
    char *version;    /* owned; recorded, NULL: not known */
    bool negotiated;  /* the monitor takes commands */
    bool monitor_bad; /* it said what cannot be understood, or nothing any more */
};

static struct qemu *qemu_of(struct vmm *v)
{
    return container_of(v, struct qemu, base);
}

static void qemu_stop(struct vmm *v)
{
    struct qemu *q = qemu_of(v);
    uint64_t deadline_ns = clock_now_ns() + QUIT_WAIT_NS;

    if (!v->process || process_wait(v->process, 0))
        return;
    /* Its answer, or the lack of one, changes nothing: the end of the process is what counts. */
    if (q->negotiated && qmp_execute(q->qmp, "quit", NULL, deadline_ns, NULL, NULL) != -ETIMEDOUT)
        process_wait(v->process, deadline_ns);
    process_kill(v->process);
}

static void qemu_release(struct vmm *v)
{
    struct qemu *q = qemu_of(v);

    qemu_stop(v);
    process_destroy(v->process);
    qmp_destroy(q->qmp);
    close_fd(&q->ready_fd);
    close_fd(&q->snapfile_fd);
    free(q->version);
    free(q);
}

/* The guest's memory, which nobody but QEMU keeps. Nobody can cut it, either: QEMU and the pager
 * would be killed by what is no longer there. */
static int make_memory(uint64_t bytes, int *ret, struct thaw_error *e)
{
    int fd CLEANUP_FD = memfd_create("thaw:guest-memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);

    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) < 0)
        return err_errno(e, -errno, "making %" PRIu64 " bytes of memory for the guest", bytes);
    *ret = TAKE_FD(fd);
    return 0;
}

/* Start the process and keep our ends of its socket and of its pipe. */
static int launch(struct qemu *q, const struct vmm_options *o, struct thaw_error *e)
{
    struct qemu_command *command CLEANUP_QEMU_COMMAND = NULL;
    int our_qmp CLEANUP_FD = -1, their_qmp CLEANUP_FD = -1, their_ready CLEANUP_FD = -1;
    int memory CLEANUP_FD = -1;
    int pair[2];
    int r = qemu_command_build(o, &command, e);

    if (r == 0)
        r = make_memory(o->memory_bytes, &memory, e);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, -errno, "making a socket for QEMU's monitor");
    our_qmp = pair[0];
    their_qmp = pair[1];
    if (pipe2(pair, O_CLOEXEC | O_NONBLOCK) < 0)
        return err_errno(e, -errno, "making a pipe for QEMU's memory hand-over");
    q->ready_fd = pair[0];
    their_ready = pair[1];

    int fds[] = {their_qmp, q->snapfile_fd, their_ready, memory};
    static_assert(PROCESS_FIRST_FD + ARRAY_SIZE(fds) == QEMU_FDS_END, "in the order of the enum");
    struct process_options po = {
        .argv = (const char *const *)command->argv,
        .environment = (const char *const *)command->environment,
        .fds = fds,
        .fd_count = ARRAY_SIZE(fds),
        .log_path = o->log_path,
    };
    r = process_start(&po, &q->base.process, e);
    if (r < 0)
        return r;
    r = qmp_create(our_qmp, process_pidfd(q->base.process), &q->qmp);
    if (r < 0)
        return err_set(e, r, "no memory for the client of QEMU's monitor");
    TAKE_FD(our_qmp);
    return 0;
}

static int qemu_start(const struct vmm_options *o, struct vmm **ret, struct thaw_error *e)
{
    struct qemu *q = calloc(1, sizeof(*q));
    int r;

    if (!q)
        return err_set(e, -ENOMEM, "no memory for the VMM's driver");
    if (o->snapfile_fd < 0) {
        free(q);
        return err_set(e, -EINVAL, "driver qemu needs a snapfile, and the build has none");
    }
    q->base.driver = &vmm_qemu;
    q->ready_fd = -1;
    q->memory_bytes = o->memory_bytes;
    q->version = o->version ? strdup(o->version) : NULL;
    q->snapfile_fd = fcntl(o->snapfile_fd, F_DUPFD_CLOEXEC, 0);
    if (o->version && !q->version)
        r = err_set(e, -ENOMEM, "no memory for the VMM's driver");
    else if (q->snapfile_fd < 0)
        r = err_errno(e, -errno, "duplicating the descriptor of the snapfile");
    else
        r = launch(q, o, e);
    if (r < 0) {
        qemu_release(&q->base);
        return r;
    }
    *ret = &q->base;
    return 0;
}

/*
 * Device state is not promised to load into another QEMU: a newer one mostly takes it, an older one
 * never does, and what goes wrong is seen in the guest, later. Releases of one major version
 * are kept compatible.
 */
static int check_version(const struct qemu *q, struct thaw_error *e)
{
    struct qmp_version v = qmp_version(q->qmp);
    unsigned long major;
    char *end;

    if (!q->version || v.major == 0)
        return 0;
    major = strtoul(q->version, &end, 10);
    if (end == q->version || (*end != '.' && *end != '\0'))
        return 0; /* recorded by hand, in words of its own */
    if (major == v.major)
        return 0;
    return err_set(e, -EINVAL,
                   "the snapshot is of QEMU %s and this is QEMU %u.%u.%u: name a QEMU %lu with "
                   "--vmm-program",
                   q->version, v.major, v.minor, v.micro, major);
}

/* Whether the guest's memory is being served. Asked when the machine is set up: it was handed over
 * before, or never will be. */
static int check_hand_over(struct qemu *q, struct thaw_error *e)
{
    char byte;

    if (read(q->ready_fd, &byte, 1) == 1)
        return 0;
    return err_set(e, -EPROTO,
                   "QEMU handed over no memory: it mapped no block of exactly %" PRIu64
                   " bytes, or did not load libthaw-shim.so",
                   q->memory_bytes);
}

static int set_capabilities(struct qemu *q, uint64_t deadline_ns, struct thaw_error *e)
{
    json_t *arguments =
        json_pack("{s:[{s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability", "x-ignore-shared",
                  "state", 1, "capability", "events", "state", 1);

    return qmp_execute(q->qmp, "migrate-set-capabilities", arguments, deadline_ns, NULL, e);
}

/* QEMU 7.2 ends after this, and its log says why; newer ones may stay and can be asked. */
static int load_failed(struct qemu *q, uint64_t deadline_ns, struct thaw_error *e)
{
    json_t *info CLEANUP_JSON = NULL;
    const char *why = NULL;

    if (qmp_execute(q->qmp, "query-migrate", NULL, deadline_ns, &info, NULL) == 0)
        why = json_string_value(json_object_get(info, "error-desc"));
    return err_set(e, -EBADMSG, "QEMU cannot load the snapfile%s%s", why ? ": " : "",
                   why ? why : "");
}

static int wait_loaded(struct qemu *q, uint64_t deadline_ns, struct thaw_error *e)
{
    for (;;) {
        json_t *data CLEANUP_JSON = NULL;
        const char *status;
        int r = qmp_wait_event(q->qmp, "MIGRATION", deadline_ns, &data, e);

        if (r == -ECONNRESET)
            return err_set(e, r, "QEMU ended while it loaded the snapfile");
        if (r < 0)
            return r;
        status = json_string_value(json_object_get(data, "status"));
        if (status && strcmp(status, "completed") == 0)
            return 0;
        if (status && strcmp(status, "failed") == 0)
            return load_failed(q, deadline_ns, e);
    }
}

static int load(struct qemu *q, struct thaw_error *e)
{
    uint64_t deadline_ns = clock_now_ns() + UP_WAIT_NS;
    char uri[32];
    int r = qmp_negotiate(q->qmp, deadline_ns, e);

    if (r < 0)
        return r;
    q->negotiated = true;
    r = check_version(q, e);
    if (r == 0)
        r = check_hand_over(q, e);
    if (r == 0)
        r = set_capabilities(q, deadline_ns, e);
    if (r < 0)
        return r;
    if (lseek(q->snapfile_fd, 0, SEEK_SET) < 0)
        return err_errno(e, -errno, "going to the start of the snapfile");
    snprintf(uri, sizeof(uri), "fd:%d", QEMU_SNAPFILE_FD);
    deadline_ns = clock_now_ns() + LOAD_WAIT_NS;
    r = qmp_execute(q->qmp, "migrate-incoming", json_pack("{s:s}", "uri", uri), deadline_ns, NULL,
                    e);
    if (r == 0)
        r = wait_loaded(q, deadline_ns, e);
    return r;
}

static int qemu_load(struct vmm *v, struct thaw_error *e)
{
    int r = load(qemu_of(v), e);

    if (r < 0)
        vmm_explain(v, e);
    return r;
}

static int qemu_run(struct vmm *v, struct thaw_error *e)
{
    struct qemu *q = qemu_of(v);
    uint64_t deadline_ns = clock_now_ns() + RUN_WAIT_NS;
    int r;

    qmp_forget_events(q->qmp); /* an earlier RESUME is not the one to wait for */
    r = qmp_execute(q->qmp, "cont", NULL, deadline_ns, NULL, e);
    if (r == 0)
        r = qmp_wait_event(q->qmp, "RESUME", deadline_ns, NULL, e);
    if (r < 0)
        vmm_explain(v, e);
    return r;
}

static int qemu_event_fd(struct vmm *v)
{
    const struct qemu *q = qemu_of(v);

    return q->monitor_bad ? -1 : qmp_fd(q->qmp);
}

static bool qemu_news(struct vmm *v, char ret[VMM_NEWS_BYTES])
{
    struct qemu *q = qemu_of(v);

    while (!q->monitor_bad) {
        json_t *event CLEANUP_JSON = NULL;
        int r = qmp_next_event(q->qmp, &event, NULL);

        if (r == 0)
            return false;
        q->monitor_bad = r < 0; /* its end is the process's, mostly, and is told as that */
        if (r > 0 && qemu_news_text(event, ret))
            return true;
    }
    return false;
}

const struct vmm_driver vmm_qemu = {
    .name = "qemu",
    .start = qemu_start,
    .load = qemu_load,
    .run = qemu_run,
    .stop = qemu_stop,
    .event_fd = qemu_event_fd,
    .news = qemu_news,
    .release = qemu_release,
};

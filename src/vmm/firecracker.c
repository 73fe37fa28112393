/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Driver of Firecracker.
 *
 *     start   firecracker --api-sock DIR/api.sock --id NAME-OF-DIR ...
 *     load    the socket appears  (inotify on the folder)
 *             GET /version        does it read the snapshots of the version that made ours?
 *             PUT /snapshot/load  it maps guest memory, hands it over, touches it: faults are
 *                                 served before the answer comes
 *     run     PATCH /vm
 *     stop    SIGTERM, which it does not catch
 *
 * A Firecracker that cannot load a snapshot answers why and exits. One whose memory the memory
 * server did not take would wait for its first page for ever; so the driver looks at the memory
 * server while it waits for the answer. And one that says it has loaded, without having handed over
 * memory, must not run: its guest would find zeros.
 *
 * It opens drives, taps and the vsock's path by the names that its state records; they are not the
 * driver's.
 */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/units.h"
#include "format/firecracker.h"
#include "kernel/pidfd.h"
#include "memory/server.h"
#include "vmm/arg_list.h"
#include "vmm/driver.h"
#include "vmm/firecracker_command.h"
#include "vmm/http.h"
#include "vmm/process.h"

#define UP_WAIT_NS   (30 * NS_PER_SEC)  /* exec and a socket; no guest memory is touched */
#define LOAD_WAIT_NS (120 * NS_PER_SEC) /* may wait for pages of a far store */
#define RUN_WAIT_NS  (60 * NS_PER_SEC)
#define STOP_WAIT_NS (3 * NS_PER_SEC)

/* What Firecracker sent before it answered has arrived, but may not have been looked at yet. */
#define HAND_OVER_WAIT_NS (10 * NS_PER_SEC)

/* Between bind(2), which makes the file, and listen(2), which tells nobody. */
#define LISTEN_RETRY_MS 1

#define STATUS_OK         200
#define STATUS_NO_CONTENT 204

struct firecracker {
    struct vmm base;
    char *api_socket; /* owned, as the strings below */
    char *memory_socket;
    char *snapfile;
    char *recorded;               /* version that made the snapshot; NULL: not known */
    struct memory_server *memory; /* borrowed */
    int inotify_fd;               /* owned; events of the socket's folder */
    uint64_t wait_ns;             /* for each step; 0: as long as each usually gets */
    char running[FIRECRACKER_VERSION_BYTES];
    enum firecracker_reads reads;
    bool memory_served;
};

static struct firecracker *firecracker_of(struct vmm *v)
{
    return container_of(v, struct firecracker, base);
}

static void firecracker_stop(struct vmm *v)
{
    if (!v->process || process_wait(v->process, 0))
        return;
    pidfd_kill(process_pidfd(v->process), SIGTERM);
    if (!process_wait(v->process, clock_now_ns() + STOP_WAIT_NS))
        process_kill(v->process);
}

static void firecracker_release(struct vmm *v)
{
    struct firecracker *f = firecracker_of(v);

    firecracker_stop(v);
    process_destroy(v->process);
    close_fd(&f->inotify_fd);
    free(f->api_socket);
    free(f->memory_socket);
    free(f->snapfile);
    free(f->recorded);
    free(f);
}

/* --- start --- */

/* THAW_VMM_TIMEOUT: seconds, for a store so far, or a host so slow, that the usual does not do. */
static int read_timeout(uint64_t *ret_ns, struct thaw_error *e)
{
    const char *text = getenv("THAW_VMM_TIMEOUT");
    unsigned long seconds;
    char *end;

    if (!text || !*text)
        return 0;
    errno = 0;
    seconds = strtoul(text, &end, 10);
    if (*text < '0' || *text > '9' || *end || errno || seconds < 1 || seconds > 86400)
        return err_set(e, -EINVAL,
                       "THAW_VMM_TIMEOUT is '%s', not a number of seconds from 1 to "
                       "86400",
                       text);
    *ret_ns = seconds * NS_PER_SEC;
    return 0;
}

static int check_options(const struct vmm_options *o, struct thaw_error *e)
{
    if (!o->snapfile)
        return err_set(e, -EINVAL, "driver firecracker needs a snapfile, and the build has none");
    if (!o->memory)
        return err_set(e, -EINVAL, "driver firecracker needs to know the memory server");
    return 0;
}

static int set_up(struct firecracker *f, const struct vmm_options *o, struct thaw_error *e)
{
    const char *slash = strrchr(o->memory_socket, '/');
    int folder_len = slash ? (int)(slash - o->memory_socket) : 0;

    if (folder_len == 0)
        return err_set(e, -EINVAL, "the path of the memory socket names no folder: %s",
                       o->memory_socket);
    if (asprintf(&f->api_socket, "%.*s/api.sock", folder_len, o->memory_socket) < 0)
        f->api_socket = NULL;
    f->memory_socket = strdup(o->memory_socket);
    f->snapfile = strdup(o->snapfile);
    f->recorded = o->version ? strdup(o->version) : NULL;
    f->memory = o->memory;
    if (!f->api_socket || !f->memory_socket || !f->snapfile || (o->version && !f->recorded))
        return err_set(e, -ENOMEM, "no memory for the VMM's driver");
    if (strlen(f->api_socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
        return err_set(e, -ENAMETOOLONG,
                       "%s: a socket's path has at most %zu characters; choose a shorter --run-dir",
                       f->api_socket, sizeof(((struct sockaddr_un *)NULL)->sun_path) - 1);
    return 0;
}

/* Before the process starts: the socket's appearance must not be missed. */
static int watch_folder(struct firecracker *f, struct thaw_error *e)
{
    char *folder CLEANUP_FREE = strdup(f->api_socket);

    if (!folder)
        return err_set(e, -ENOMEM, "no memory for a path");
    *strrchr(folder, '/') = '\0';
    f->inotify_fd = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
    if (f->inotify_fd < 0 || inotify_add_watch(f->inotify_fd, folder, IN_CREATE | IN_MOVED_TO) < 0)
        return err_errno(e, -errno, "watching %s (see fs.inotify.max_user_instances in sysctl(8))",
                         folder);
    return 0;
}

static int launch(struct firecracker *f, const struct vmm_options *o, struct thaw_error *e)
{
    struct arg_list argv CLEANUP_ARG_LIST = {0};
    int r = firecracker_command_build(o, f->api_socket, &argv, e);

    if (r < 0)
        return r;
    return process_start(
        &(struct process_options){
            .argv = (const char *const *)argv.v,
            .log_path = o->log_path,
        },
        &f->base.process, e);
}

static int firecracker_start(const struct vmm_options *o, struct vmm **ret, struct thaw_error *e)
{
    struct firecracker *f = calloc(1, sizeof(*f));
    int r;

    if (!f)
        return err_set(e, -ENOMEM, "no memory for the VMM's driver");
    f->base.driver = &vmm_firecracker;
    f->inotify_fd = -1;
    r = check_options(o, e);
    if (r == 0)
        r = read_timeout(&f->wait_ns, e);
    if (r == 0)
        r = set_up(f, o, e);
    if (r == 0)
        r = watch_folder(f, e);
    if (r == 0)
        r = launch(f, o, e);
    if (r < 0) {
        firecracker_release(&f->base);
        return r;
    }
    *ret = &f->base;
    return 0;
}

/* --- its API --- */

static uint64_t deadline_in(const struct firecracker *f, uint64_t usual_ns)
{
    return clock_now_ns() + (f->wait_ns ? f->wait_ns : usual_ns);
}

/* Of http_watch: news of the memory server. The folder of the socket is ours alone, so that what
 * the server has dropped was Firecracker's. */
static int look_at_memory(void *arg, struct thaw_error *e)
{
    struct firecracker *f = arg;
    struct memory_status st;

    memory_server_status(f->memory, &st);
    if (st.connected > 0) {
        f->memory_served = true;
        return 1;
    }
    if (st.rejected > 0)
        return err_set(e, -EPROTO, "its memory cannot be served: %s", st.rejection);
    return 0;
}

/* One request, begun with everything but what is the same for all. */
static int call(struct firecracker *f, struct http_request *q, struct http_response *ret,
                struct thaw_error *e)
{
    int r;

    q->socket_path = f->api_socket;
    q->pidfd = process_pidfd(f->base.process);
    r = http_call(q, ret, e);
    if (r < 0)
        err_wrap(e, "Firecracker, %s %s", q->method, q->target);
    return r;
}

/* Turn an answer that is not the one expected into an error. */
static int refusal(const struct firecracker *f, const char *what, const struct http_response *a,
                   struct thaw_error *e)
{
    char fault[FIRECRACKER_FAULT_BYTES];

    firecracker_decode_fault(a->body.data, a->body.len, fault);
    if (f->reads == FIRECRACKER_READS_MAYBE && f->recorded)
        return err_set(e, -EBADMSG,
                       "Firecracker %s refuses to %s (HTTP status %u; the snapshot was made by "
                       "version %s): %s",
                       f->running, what, a->status, f->recorded, fault);
    return err_set(e, -EBADMSG, "Firecracker %s refuses to %s (HTTP status %u): %s", f->running,
                   what, a->status, fault);
}

/* --- load --- */

/* Wait until it may be worth trying to connect again. */
static int wait_for_socket(struct firecracker *f, uint64_t deadline_ns, struct thaw_error *e)
{
    struct pollfd fds[] = {
        {.fd = process_pidfd(f->base.process), .events = POLLIN},
        {.fd = f->inotify_fd, .events = POLLIN},
    };
    char events[4096];
    uint64_t now_ns = clock_now_ns(), left_ms;

    if (now_ns >= deadline_ns)
        return err_set(e, -ETIMEDOUT, "Firecracker did not open its API socket in time: %s",
                       f->api_socket);
    while (read(f->inotify_fd, events, sizeof(events)) > 0)
        ;
    /* Looked at after the events are gone: if it comes later, there is an event again. */
    left_ms = (deadline_ns - now_ns) / NS_PER_MS + 1;
    if (access(f->api_socket, F_OK) == 0)
        left_ms = LISTEN_RETRY_MS;
    if (poll(fds, ARRAY_SIZE(fds), (int)MIN(left_ms, 60000)) < 0 && errno != EINTR)
        return err_errno(e, -errno, "waiting for Firecracker's API socket");
    if (fds[0].revents)
        return err_set(e, -ECONNRESET, "Firecracker ended before its API could be reached");
    return 0;
}

static int get_version(struct firecracker *f, struct thaw_error *e)
{
    struct http_response answer CLEANUP_HTTP_RESPONSE = {0};
    uint64_t deadline_ns = deadline_in(f, UP_WAIT_NS);
    int r;

    for (;;) {
        struct http_request q = {
            .method = "GET", .target = "/version", .deadline_ns = deadline_ns, .watch.fd = -1};

        r = call(f, &q, &answer, e);
        if (r != -ENOENT && r != -ECONNREFUSED)
            break;
        r = wait_for_socket(f, deadline_ns, e);
        if (r < 0)
            break;
    }
    if (r < 0)
        return r;
    if (answer.status != STATUS_OK)
        return refusal(f, "tell its version", &answer, e);
    r = firecracker_decode_version(answer.body.data, answer.body.len, f->running, e);
    return r < 0 ? err_wrap(e, "Firecracker's answer") : 0;
}

static int check_version(struct firecracker *f, struct thaw_error *e)
{
    if (!f->recorded)
        f->reads = FIRECRACKER_READS_MAYBE;
    else
        f->reads = firecracker_reads(f->running, f->recorded);
    if (f->reads != FIRECRACKER_READS_NOT)
        return 0;
    return err_set(e, -EINVAL,
                   "the build is a snapshot of Firecracker %s, and this is %s, which has another "
                   "snapshot format: run the version that made it (--vmm-program), or make the "
                   "snapshot again with this one",
                   f->recorded, f->running);
}

static int load_snapshot(struct firecracker *f, uint64_t deadline_ns, struct thaw_error *e)
{
    struct http_response answer CLEANUP_HTTP_RESPONSE = {0};
    struct buf body CLEANUP_BUF = {0};
    int r = firecracker_encode_load(f->snapfile, f->memory_socket, &body, e);

    if (r < 0)
        return r;
    struct http_request q = {
        .method = "PUT",
        .target = "/snapshot/load",
        .body = (const char *)body.data,
        .body_bytes = body.len,
        .deadline_ns = deadline_ns,
        .watch = {.fd = memory_server_event_fd(f->memory), .look = look_at_memory, .arg = f},
    };
    r = call(f, &q, &answer, e);
    if (r < 0)
        return r;
    return answer.status == STATUS_NO_CONTENT ? 0 : refusal(f, "load the snapshot", &answer, e);
}

static int check_hand_over(struct firecracker *f, uint64_t deadline_ns, struct thaw_error *e)
{
    uint64_t soon_ns = clock_now_ns() + HAND_OVER_WAIT_NS;
    struct pollfd fds[] = {
        {.fd = process_pidfd(f->base.process), .events = POLLIN},
        {.fd = memory_server_event_fd(f->memory), .events = POLLIN},
    };

    deadline_ns = MIN(deadline_ns, soon_ns);
    for (;;) {
        uint64_t now_ns = clock_now_ns();
        int r = look_at_memory(f, e);

        if (r < 0)
            return err_wrap(e, "Firecracker");
        if (f->memory_served)
            return 0;
        if (fds[0].revents)
            return err_set(e, -ECONNRESET, "Firecracker ended");
        if (now_ns >= deadline_ns)
            return err_set(e, -EPROTO,
                           "Firecracker says that the snapshot is loaded, and has handed over no "
                           "memory: its guest would run on zeros");
        if (poll(fds, ARRAY_SIZE(fds), (int)((deadline_ns - now_ns) / NS_PER_MS) + 1) < 0)
            fds[0].revents = 0;
    }
}

static int load(struct firecracker *f, struct thaw_error *e)
{
    uint64_t deadline_ns;
    int r = get_version(f, e);

    if (r == 0)
        r = check_version(f, e);
    if (r < 0)
        return r;
    deadline_ns = deadline_in(f, LOAD_WAIT_NS);
    r = load_snapshot(f, deadline_ns, e);
    return r < 0 ? r : check_hand_over(f, deadline_ns, e);
}

static int firecracker_load(struct vmm *v, struct thaw_error *e)
{
    int r = load(firecracker_of(v), e);

    if (r < 0)
        vmm_explain(v, e);
    return r;
}

/* --- run --- */

static int run(struct firecracker *f, struct thaw_error *e)
{
    struct http_response answer CLEANUP_HTTP_RESPONSE = {0};
    struct http_request q = {
        .method = "PATCH",
        .target = "/vm",
        .body = FIRECRACKER_RESUME_BODY,
        .body_bytes = strlen(FIRECRACKER_RESUME_BODY),
        .deadline_ns = deadline_in(f, RUN_WAIT_NS),
        .watch.fd = -1,
    };
    int r = call(f, &q, &answer, e);

    if (r < 0)
        return r;
    return answer.status == STATUS_NO_CONTENT ? 0 : refusal(f, "run the vCPUs", &answer, e);
}

static int firecracker_run(struct vmm *v, struct thaw_error *e)
{
    int r = run(firecracker_of(v), e);

    if (r < 0)
        vmm_explain(v, e);
    return r;
}

const struct vmm_driver vmm_firecracker = {
    .name = "firecracker",
    .start = firecracker_start,
    .load = firecracker_load,
    .run = firecracker_run,
    .stop = firecracker_stop,
    .release = firecracker_release,
};

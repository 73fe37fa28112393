/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qemu_capture.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/units.h"
#include "image/create.h"
#include "vmm/guest_memory.h"
#include "vmm/qemu_args.h"
#include "vmm/qemu_disk.h"
#include "vmm/qemu_guardian.h"
#include "vmm/qemu_inspect.h"
#include "vmm/qmp.h"

#define GREETING_WAIT_NS (5 * NS_PER_SEC)
#define COMMAND_WAIT_NS  (30 * NS_PER_SEC) /* one that lets disks come to rest may take its time */
#define SAVE_WAIT_NS     (120 * NS_PER_SEC)
#define CMDLINE_MAX      (4 * MIB) /* above the kernel's limit of all arguments together */
#define READ_BYTES       (64 * KIB)
#define PIPE_NAME        "thaw-state"

/* Settings of QEMU's migration that are changed for the save. */
static const char *const capabilities[] = {"x-ignore-shared", "events"};

struct qemu_capture {
    struct qmp *qmp; /* owned */
    pid_t pid;
    int pidfd;     /* owned */
    int cancel_fd; /* borrowed; 0: none */
    struct qemu_guest guest;
    struct guest_mapping mapping;
    struct qemu_snapshot snapshot;
    struct qemu_guardian guardian;
    bool old_capabilities[ARRAY_SIZE(capabilities)];
    /* What has to be put back. */
    bool stopped; /* it ran, and does not any more */
    bool saving;  /* the state is on its way */
    bool capabilities_changed;
    bool disk_open;
};

static uint64_t soon(void)
{
    return clock_now_ns() + COMMAND_WAIT_NS;
}

/* --- looking --- */

static int greet(struct qemu_capture *c, const char *path, struct thaw_error *e)
{
    int r = qmp_negotiate(c->qmp, clock_now_ns() + GREETING_WAIT_NS, e);
    struct qmp_version v;

    if (r == -ETIMEDOUT)
        return err_set(e, r,
                       "nobody greets at %s: a monitor serves one client at a time, so another one "
                       "may have it; give QEMU one more with -qmp unix:PATH,server=on,wait=off",
                       path);
    if (r < 0)
        return err_wrap(e, "%s", path);
    v = qmp_version(c->qmp);
    snprintf(c->snapshot.version, sizeof(c->snapshot.version), "%u.%u.%u", v.major, v.minor,
             v.micro);
    return 0;
}

static int record_args(struct qemu_capture *c, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    char path[64];
    int fd CLEANUP_FD = -1;
    ssize_t n;
    int r;

    snprintf(path, sizeof(path), "/proc/%d/cmdline", (int)c->pid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    do {
        uint8_t *space = buf_extend(&text, READ_BYTES);

        if (!space)
            return err_set(e, -ENOMEM, "no memory for QEMU's command line");
        n = fd < 0 ? -1 : read(fd, space, READ_BYTES);
        text.len -= READ_BYTES - (n > 0 ? (size_t)n : 0);
        if (n < 0)
            return err_errno(e, -errno, "reading %s", path);
    } while (n > 0 && text.len < CMDLINE_MAX);
    r = qemu_args_record(text.data, text.len, c->guest.machine, &c->snapshot.args, e);
    if (r == 0 && c->snapshot.args.n == 0)
        r = err_set(e, -EBADMSG, "the command line of process %d says nothing of a guest",
                    (int)c->pid);
    return r;
}

/* A device that was plugged in later is in the state, and in no command line. */
static int check_disk_device(const struct qemu_capture *c, struct thaw_error *e)
{
    bool named = qemu_args_name_disk((const char *const *)c->snapshot.args.v);

    if (named == (c->guest.disk_node != NULL))
        return 0;
    return err_set(e, -ENOTSUP,
                   "the disk '" QEMU_DISK_ID "' is not on QEMU's command line as it is in the "
                   "machine: start the guest with -device virtio-blk-pci,drive=" QEMU_DISK_ID
                   ", and with -blockdev ...,node-name=" QEMU_DISK_ID);
}

static int remember_capabilities(struct qemu_capture *c, struct thaw_error *e)
{
    json_t *all CLEANUP_JSON = NULL, *entry;
    size_t k;
    int r = qmp_execute(c->qmp, "query-migrate-capabilities", NULL, soon(), &all, e);

    json_array_foreach(all, k, entry)
    {
        const char *name = json_string_value(json_object_get(entry, "capability"));

        for (size_t i = 0; name && i < ARRAY_SIZE(capabilities); i++) {
            if (strcmp(name, capabilities[i]) == 0)
                c->old_capabilities[i] = json_is_true(json_object_get(entry, "state"));
        }
    }
    return r;
}

static int look(struct qemu_capture *c, const char *path, struct thaw_error *e)
{
    int r = qmp_connect(path, &c->qmp, &c->pid, &c->pidfd, e);

    if (r == 0)
        r = greet(c, path, e);
    if (r == 0)
        r = qemu_inspect(c->qmp, soon(), &c->guest, e);
    if (r == 0)
        r = guest_mapping_find(c->pid, c->guest.memory_bytes, &c->mapping, e);
    if (r == 0)
        r = record_args(c, e);
    if (r == 0)
        r = check_disk_device(c, e);
    if (r == 0)
        r = remember_capabilities(c, e);
    return r;
}

int qemu_capture_create(const char *path, int cancel_fd, struct qemu_capture **ret,
                        struct thaw_error *e)
{
    struct qemu_capture *c CLEANUP_QEMU_CAPTURE = calloc(1, sizeof(*c));
    int r;

    if (!c)
        return err_set(e, -ENOMEM, "no memory for a capture");
    c->pidfd = -1;
    c->cancel_fd = cancel_fd;
    c->guardian = (struct qemu_guardian)QEMU_GUARDIAN_INIT;
    r = look(c, path, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(c);
    return 0;
}

/* --- stopping --- */

static json_t *capability_arguments(const bool states[ARRAY_SIZE(capabilities)])
{
    return json_pack("{s:[{s:s, s:b}, {s:s, s:b}]}", "capabilities", "capability", capabilities[0],
                     "state", states[0], "capability", capabilities[1], "state", states[1]);
}

static int set_capabilities(struct qemu_capture *c, const bool states[ARRAY_SIZE(capabilities)],
                            struct thaw_error *e)
{
    return qmp_execute(c->qmp, "migrate-set-capabilities", capability_arguments(states), soon(),
                       NULL, e);
}

/* What the guardian would say: what qemu_capture_destroy() would, as far as it cannot hurt. */
static int start_guardian(struct qemu_capture *c, struct thaw_error *e)
{
    json_t *arguments CLEANUP_JSON = capability_arguments(c->old_capabilities);
    char *states CLEANUP_FREE = arguments ? json_dumps(arguments, JSON_COMPACT) : NULL;
    char *words CLEANUP_FREE = NULL;

    if (!states || asprintf(&words,
                            "\n{\"execute\": \"nbd-server-stop\"}\n"
                            "{\"execute\": \"migrate-set-capabilities\", \"arguments\": %s}\n%s",
                            states, c->guest.running ? "{\"execute\": \"cont\"}\n" : "") < 0) {
        words = NULL;
        return err_set(e, -ENOMEM, "no memory for the guardian");
    }
    return qemu_guardian_start(&c->guardian, qmp_fd(c->qmp), words, e);
}

/* Wait until the pipe has something: bytes, or its end. */
static int wait_for_state(const struct qemu_capture *c, int pipe_fd, uint64_t deadline_ns,
                          struct thaw_error *e)
{
    struct pollfd fds[] = {{.fd = pipe_fd, .events = POLLIN},
                           {.fd = c->pidfd, .events = POLLIN},
                           {.fd = c->cancel_fd > 0 ? c->cancel_fd : -1, .events = POLLIN}};

    for (;;) {
        uint64_t now_ns = clock_now_ns();

        if (now_ns >= deadline_ns)
            return err_set(e, -ETIMEDOUT, "QEMU does not get done with saving its state");
        if (poll(fds, ARRAY_SIZE(fds), (int)((deadline_ns - now_ns) / NS_PER_MS) + 1) <= 0)
            continue; /* EINTR, or the deadline */
        if (fds[2].revents)
            return err_set(e, -ECANCELED, "given up, as asked for by a signal");
        if (fds[0].revents)
            return 0;
        return err_set(e, -ECONNRESET, "QEMU ended while it saved its state");
    }
}

/* Take what QEMU writes until it closes its end. */
static int drain(struct qemu_capture *c, int pipe_fd, uint64_t deadline_ns, struct thaw_error *e)
{
    struct buf *state = &c->snapshot.state;

    while (state->len <= SNAPFILE_MAX_BYTES) {
        int r = wait_for_state(c, pipe_fd, deadline_ns, e);
        uint8_t *space;
        ssize_t n;

        if (r < 0)
            return r;
        space = buf_extend(state, READ_BYTES);
        if (!space)
            return err_set(e, -ENOMEM, "no memory for the state that QEMU saves");
        n = read(pipe_fd, space, READ_BYTES);
        state->len -= READ_BYTES - (n > 0 ? (size_t)n : 0);
        if (n == 0)
            return 0;
        if (n < 0 && errno != EINTR)
            return err_errno(e, -errno, "reading the state that QEMU saves");
    }
    return err_set(e, -EFBIG, "QEMU saves more than the %llu bytes that a state may have",
                   (unsigned long long)SNAPFILE_MAX_BYTES);
}

/* QEMU tells that it is done a moment before it is, and ignores a "cont" in that moment. No event
 * tells of its end; it takes a few answers. */
static int wait_settled(struct qemu_capture *c, uint64_t deadline_ns, struct thaw_error *e)
{
    bool settling = true;

    while (settling) {
        json_t *info CLEANUP_JSON = NULL;
        int r = qmp_execute(c->qmp, "query-status", NULL, deadline_ns, &info, e);
        const char *status = json_string_value(json_object_get(info, "status"));

        if (r < 0)
            return r;
        if (clock_now_ns() > deadline_ns)
            return err_set(e, -ETIMEDOUT, "QEMU does not get done with saving its state");
        settling = status && strcmp(status, "finish-migrate") == 0;
    }
    return 0;
}

/* Wait for the end of a save, good or bad. */
static int wait_saved(struct qemu_capture *c, uint64_t deadline_ns, struct thaw_error *e)
{
    for (;;) {
        json_t *data CLEANUP_JSON = NULL, *info CLEANUP_JSON = NULL;
        int r = qmp_wait_event(c->qmp, "MIGRATION", deadline_ns, &data, e);
        const char *status, *why;

        if (r < 0)
            return r;
        status = json_string_value(json_object_get(data, "status"));
        if (status && strcmp(status, "completed") == 0)
            return wait_settled(c, deadline_ns, e);
        if (!status || (strcmp(status, "failed") != 0 && strcmp(status, "cancelled") != 0))
            continue;
        r = wait_settled(c, deadline_ns, e);
        if (r == 0)
            r = qmp_execute(c->qmp, "query-migrate", NULL, deadline_ns, &info, e);
        if (r < 0)
            return r;
        why = json_string_value(json_object_get(info, "error-desc"));
        return err_set(e, -EIO, "QEMU failed to save its state: %s", why ? why : "no reason given");
    }
}

static int save_state(struct qemu_capture *c, struct thaw_error *e)
{
    uint64_t deadline_ns = clock_now_ns() + SAVE_WAIT_NS;
    int ours CLEANUP_FD = -1, theirs CLEANUP_FD = -1;
    int pair[2];
    int r;

    if (pipe2(pair, O_CLOEXEC) < 0)
        return err_errno(e, -errno, "making a pipe for QEMU's state");
    ours = pair[0];
    theirs = pair[1];
    r = qmp_pass_fd(c->qmp, PIPE_NAME, theirs, soon(), e);
    if (r < 0)
        return r;
    close_fd(&theirs); /* QEMU's copy alone keeps it open */
    qmp_forget_events(c->qmp);
    r = qmp_execute(c->qmp, "migrate", json_pack("{s:s}", "uri", "fd:" PIPE_NAME), soon(), NULL, e);
    if (r < 0)
        return r;
    c->saving = true;
    r = drain(c, ours, deadline_ns, e);
    if (r < 0)
        return r;
    c->saving = false;
    return wait_saved(c, deadline_ns, e);
}

static int stop_and_save(struct qemu_capture *c, struct thaw_error *e)
{
    static const bool wanted[] = {true, true};
    int r = start_guardian(c, e);

    static_assert(ARRAY_SIZE(wanted) == ARRAY_SIZE(capabilities), "one for each");
    if (r == 0 && c->guest.running) {
        c->stopped = true;
        r = qmp_execute(c->qmp, "stop", NULL, soon(), NULL, e);
    }
    if (r < 0)
        return r;
    c->capabilities_changed = true;
    r = set_capabilities(c, wanted, e);
    if (r == 0)
        r = save_state(c, e);
    return r;
}

int qemu_capture_stop(struct qemu_capture *c, struct qemu_snapshot **ret, struct thaw_error *e)
{
    struct qemu_snapshot *s = &c->snapshot;
    int r = stop_and_save(c, e);

    if (r == 0)
        r = guest_memory_open(c->pid, &c->mapping, &s->memory, e);
    if (r == 0 && c->guest.disk_node) {
        r = qemu_disk_open(c->qmp, c->guest.disk_node, soon(), &s->disk, e);
        c->disk_open = r == 0;
    }
    if (r < 0)
        return r;
    s->memory.cancel_fd = c->cancel_fd;
    s->disk.cancel_fd = c->cancel_fd;
    *ret = s;
    return 0;
}

/* --- putting back --- */

/* A save that was given up has to end before anything else can be asked of QEMU. */
static int cancel_save(struct qemu_capture *c, struct thaw_error *e)
{
    int r;

    if (!c->saving)
        return 0;
    c->saving = false;
    r = qmp_execute(c->qmp, "migrate_cancel", NULL, soon(), NULL, e);
    if (r == 0)
        r = wait_saved(c, soon(), e);
    return r == -EIO ? 0 : r; /* that it failed is what was wanted */
}

/* The first failure is told; the rest is tried all the same. */
static void keep_first(int *r, int next, struct thaw_error *first, const struct thaw_error *e)
{
    if (*r == 0 && next < 0) {
        *r = next;
        *first = *e;
    }
}

int qemu_capture_finish(struct qemu_capture *c, bool go_on, struct thaw_error *e)
{
    struct thaw_error first = THAW_ERROR_INIT, why = THAW_ERROR_INIT;
    int r = 0;

    source_close(&c->snapshot.memory);
    source_close(&c->snapshot.disk);
    keep_first(&r, cancel_save(c, &why), &first, &why);
    if (c->disk_open)
        keep_first(&r, qemu_disk_close(c->qmp, soon(), &why), &first, &why);
    c->disk_open = false;
    if (c->capabilities_changed)
        keep_first(&r, set_capabilities(c, c->old_capabilities, &why), &first, &why);
    c->capabilities_changed = false;
    if (go_on)
        keep_first(&r, qmp_execute(c->qmp, "cont", NULL, soon(), NULL, &why), &first, &why);
    c->stopped = false;
    qemu_guardian_end(&c->guardian);
    return r < 0 ? err_set(e, r, "%s", first.text) : 0;
}

void qemu_capture_destroy(struct qemu_capture *c)
{
    if (!c)
        return;
    /* What goes wrong now was preceded by a failure that is told. */
    if (c->qmp && qemu_capture_finish(c, c->stopped, NULL) < 0)
        c->stopped = false;
    qemu_guardian_end(&c->guardian);
    arg_list_finish(&c->snapshot.args);
    buf_finish(&c->snapshot.state);
    qemu_guest_finish(&c->guest);
    qmp_destroy(c->qmp);
    close_fd(&c->pidfd);
    free(c);
}

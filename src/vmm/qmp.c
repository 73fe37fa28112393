/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/qmp.h"

#include <errno.h>
#include <poll.h>
#include <stdbool.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/units.h"
#include "kernel/pidfd.h"

#define READ_BYTES 4096

struct qmp {
    int fd;         /* owned */
    int pidfd;      /* borrowed, or -1 */
    json_int_t id;  /* of the last command sent */
    struct buf in;  /* received, not yet taken apart; at most a line and READ_BYTES */
    size_t scanned; /* so many bytes of it are known to hold no newline */
    json_t *events[QMP_EVENTS_MAX]; /* owned; oldest first */
    size_t event_count;
    struct qmp_version version;
};

int qmp_create(int fd, int pidfd, struct qmp **ret)
{
    struct qmp *q = calloc(1, sizeof(*q));

    if (!q)
        return -ENOMEM;
    q->fd = fd;
    q->pidfd = pidfd;
    *ret = q;
    return 0;
}

static int connect_to(const char *path, struct thaw_error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    int fd CLEANUP_FD = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

    if (strlen(path) >= sizeof(address.sun_path))
        return err_set(e, -ENAMETOOLONG, "the path of QEMU's monitor is too long: %s", path);
    memcpy(address.sun_path, path, strlen(path) + 1);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return err_errno(e, -errno, "connecting to QEMU's monitor at %s", path);
    return TAKE_FD(fd);
}

int qmp_connect(const char *path, struct qmp **ret, pid_t *ret_pid, int *ret_pidfd,
                struct thaw_error *e)
{
    int fd CLEANUP_FD = connect_to(path, e);
    int pidfd CLEANUP_FD = -1;
    pid_t pid;
    int r;

    if (fd < 0)
        return fd;
    pidfd = pidfd_of_peer(fd, &pid);
    if (pidfd < 0 || pid == 0)
        return err_errno(e, pidfd < 0 ? pidfd : -ESRCH, "looking for the process that made %s",
                         path);
    r = qmp_create(fd, pidfd, ret);
    if (r < 0)
        return err_set(e, r, "no memory for the client of QEMU's monitor");
    TAKE_FD(fd);
    *ret_pid = pid;
    *ret_pidfd = TAKE_FD(pidfd);
    return 0;
}

int qmp_fd(const struct qmp *q)
{
    return q->fd;
}

struct qmp_version qmp_version(const struct qmp *q)
{
    return q->version;
}

void qmp_forget_events(struct qmp *q)
{
    for (size_t i = 0; i < q->event_count; i++)
        json_decref(q->events[i]);
    q->event_count = 0;
}

void qmp_destroy(struct qmp *q)
{
    if (!q)
        return;
    qmp_forget_events(q);
    buf_finish(&q->in);
    close_fd(&q->fd);
    free(q);
}

/* Wait until the socket can do @events. What QEMU said before it ended is still to be read, so the
 * end of the process counts only when the socket has nothing. The deadline counts in any case: a
 * QEMU that never stops talking gets no more of our time than a silent one. */
static int wait_ready(struct qmp *q, short events, uint64_t deadline_ns, struct thaw_error *e)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = q->fd, .events = events}, {.fd = q->pidfd, .events = POLLIN}};
        uint64_t now_ns = clock_now_ns();
        uint64_t left_ms = deadline_ns > now_ns ? (deadline_ns - now_ns) / NS_PER_MS + 1 : 0;
        int n = poll(fds, ARRAY_SIZE(fds), (int)MIN(left_ms, 60000));

        if (n < 0 && errno != EINTR)
            return err_errno(e, -errno, "waiting for QEMU's monitor");
        if (n > 0 && !fds[0].revents)
            return err_set(e, -ECONNRESET, "QEMU ended");
        if (left_ms == 0)
            return err_set(e, -ETIMEDOUT, "QEMU's monitor did not answer in time");
        if (n > 0)
            return 0;
    }
}

/* Like send(2), and with the first byte goes a duplicate of @pass_fd, if there is one. */
static ssize_t send_some(const struct qmp *q, const char *text, size_t len, int pass_fd)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (char *)(uintptr_t)text, .iov_len = len};
    struct msghdr message = {.msg_iov = &iov, .msg_iovlen = 1};

    if (pass_fd >= 0) {
        message.msg_control = control.bytes;
        message.msg_controllen = sizeof(control.bytes);
        control.align.cmsg_level = SOL_SOCKET;
        control.align.cmsg_type = SCM_RIGHTS;
        control.align.cmsg_len = CMSG_LEN(sizeof(pass_fd));
        memcpy(CMSG_DATA(&control.align), &pass_fd, sizeof(pass_fd));
    }
    return sendmsg(q->fd, &message, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int send_all(struct qmp *q, const char *text, size_t len, int pass_fd, uint64_t deadline_ns,
                    struct thaw_error *e)
{
    while (len > 0) {
        ssize_t n = send_some(q, text, len, pass_fd);
        int r;

        if (n >= 0) {
            text += n;
            len -= (size_t)n;
            pass_fd = -1;
            continue;
        }
        if (errno == EINTR)
            continue;
        if (errno != EAGAIN)
            return err_errno(e, -ECONNRESET, "writing to QEMU's monitor");
        r = wait_ready(q, POLLOUT, deadline_ns, e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* 1 when the buffer holds a line, whose length without the newline goes to @ret_len; or 0. */
static int find_line(struct qmp *q, size_t *ret_len, struct thaw_error *e)
{
    uint8_t *newline = NULL;

    if (q->in.len > q->scanned)
        newline = memchr(q->in.data + q->scanned, '\n', q->in.len - q->scanned);
    q->scanned = q->in.len;
    if (newline) {
        *ret_len = (size_t)(newline - q->in.data);
        return 1;
    }
    if (q->in.len > QMP_LINE_MAX_BYTES)
        return err_set(e, -EPROTO, "QEMU's monitor sent a line of more than %u bytes",
                       QMP_LINE_MAX_BYTES);
    return 0;
}

/* Take what the socket has; 1, or 0 when it has nothing. */
static int receive(struct qmp *q, struct thaw_error *e)
{
    uint8_t *space = buf_extend(&q->in, READ_BYTES);
    ssize_t n;

    if (!space)
        return err_set(e, -ENOMEM, "no memory for the answer of QEMU's monitor");
    n = recv(q->fd, space, READ_BYTES, MSG_DONTWAIT);
    q->in.len -= READ_BYTES - (n > 0 ? (size_t)n : 0);
    if (n == 0 || (n < 0 && errno != EAGAIN && errno != EINTR))
        return err_set(e, -ECONNRESET, "QEMU closed its monitor");
    return n > 0;
}

/* Take the line of @len bytes, and the newline behind it, out of the buffer. */
static int take_message(struct qmp *q, size_t len, json_t **ret, struct thaw_error *e)
{
    json_error_t why;
    json_t *message = json_loadb((const char *)q->in.data, len, 0, &why);

    memmove(q->in.data, q->in.data + len + 1, q->in.len - len - 1);
    q->in.len -= len + 1;
    q->scanned = 0;
    if (!json_is_object(message)) {
        json_decref(message);
        return err_set(e, -EPROTO, "QEMU's monitor sent what is not a JSON object: %s",
                       message ? "another kind of value" : why.text);
    }
    *ret = message;
    return 0;
}

static int read_message(struct qmp *q, uint64_t deadline_ns, json_t **ret, struct thaw_error *e)
{
    size_t len;
    int r;

    while ((r = find_line(q, &len, e)) == 0) {
        r = wait_ready(q, POLLIN, deadline_ns, e);
        if (r == 0)
            r = receive(q, e);
        if (r < 0)
            return r;
    }
    return r < 0 ? r : take_message(q, len, ret, e);
}

/* Keep @message, whose reference is taken, for qmp_wait_event(). */
static void keep_event(struct qmp *q, json_t *message)
{
    if (q->event_count == QMP_EVENTS_MAX) {
        json_decref(q->events[0]);
        q->event_count--;
        memmove(q->events, q->events + 1, q->event_count * sizeof(*q->events));
    }
    q->events[q->event_count++] = message;
}

/* Tell what an answer says. @e gets QEMU's words when it is an error. */
static int take_result(json_t *message, const char *command, json_t **ret, struct thaw_error *e)
{
    json_t *value = json_object_get(message, "return");
    json_t *error = json_object_get(message, "error");
    const char *text;

    if (value) {
        if (ret)
            *ret = json_incref(value);
        return 0;
    }
    if (!error)
        return err_set(e, -EPROTO, "QEMU's answer to %s is neither a result nor an error", command);
    text = json_string_value(json_object_get(error, "desc"));
    return err_set(e, -EREMOTEIO, "QEMU refuses %s: %s", command,
                   text ? text : "it does not say why");
}

/* Read up to the answer to the command sent last. An answer to an earlier one, which was given up
 * at its deadline, is dropped. An error without an id is QEMU's for a line that it could not read.
 */
static int read_answer(struct qmp *q, const char *command, uint64_t deadline_ns, json_t **ret,
                       struct thaw_error *e)
{
    for (;;) {
        json_t *message CLEANUP_JSON = NULL;
        json_t *id;
        int r = read_message(q, deadline_ns, &message, e);

        if (r < 0)
            return r;
        if (json_object_get(message, "event")) {
            keep_event(q, TAKE_PTR(message));
            continue;
        }
        id = json_object_get(message, "id");
        if (json_is_integer(id) && json_integer_value(id) < q->id)
            continue;
        if (id ? !json_is_integer(id) || json_integer_value(id) != q->id
               : !json_object_get(message, "error"))
            return err_set(e, -EPROTO, "QEMU answered something else than %s", command);
        return take_result(message, command, ret, e);
    }
}

static int execute(struct qmp *q, const char *command, json_t *arguments, int pass_fd,
                   uint64_t deadline_ns, json_t **ret, struct thaw_error *e)
{
    json_t *request CLEANUP_JSON =
        json_pack("{s:s, s:I, s:o*}", "execute", command, "id", q->id + 1, "arguments", arguments);
    char *text CLEANUP_FREE = request ? json_dumps(request, JSON_COMPACT) : NULL;
    size_t len;
    int r;

    if (!text)
        return err_set(e, -ENOMEM, "no memory for the QMP command %s", command);
    q->id++;
    len = strlen(text);
    text[len] = '\n'; /* in place of the NUL: from here on it is bytes */
    r = send_all(q, text, len + 1, pass_fd, deadline_ns, e);
    if (r < 0)
        return r;
    return read_answer(q, command, deadline_ns, ret, e);
}

int qmp_execute(struct qmp *q, const char *command, json_t *arguments, uint64_t deadline_ns,
                json_t **ret, struct thaw_error *e)
{
    return execute(q, command, arguments, -1, deadline_ns, ret, e);
}

int qmp_pass_fd(struct qmp *q, const char *name, int fd, uint64_t deadline_ns, struct thaw_error *e)
{
    return execute(q, "getfd", json_pack("{s:s}", "fdname", name), fd, deadline_ns, NULL, e);
}

static unsigned version_part(const json_t *version, const char *key)
{
    json_int_t v = json_integer_value(json_object_get(version, key));

    return v > 0 && v < 1000 ? (unsigned)v : 0;
}

int qmp_negotiate(struct qmp *q, uint64_t deadline_ns, struct thaw_error *e)
{
    json_t *greeting CLEANUP_JSON = NULL, *version;
    int r = read_message(q, deadline_ns, &greeting, e);

    if (r < 0)
        return r;
    if (!json_is_object(json_object_get(greeting, "QMP")))
        return err_set(e, -EPROTO, "what should be QEMU's monitor does not greet as QMP");
    version = json_object_get(json_object_get(json_object_get(greeting, "QMP"), "version"), "qemu");
    q->version = (struct qmp_version){
        .major = version_part(version, "major"),
        .minor = version_part(version, "minor"),
        .micro = version_part(version, "micro"),
    };
    return qmp_execute(q, "qmp_capabilities", NULL, deadline_ns, NULL, e);
}

static json_t *take_event(struct qmp *q)
{
    json_t *event = q->events[0];

    q->event_count--;
    memmove(q->events, q->events + 1, q->event_count * sizeof(*q->events));
    return event;
}

int qmp_next_event(struct qmp *q, json_t **ret, struct thaw_error *e)
{
    while (q->event_count == 0) {
        json_t *message CLEANUP_JSON = NULL;
        size_t len;
        int r = find_line(q, &len, e);

        if (r == 0) {
            r = receive(q, e);
            if (r <= 0)
                return r;
            continue;
        }
        if (r > 0)
            r = take_message(q, len, &message, e);
        if (r < 0)
            return r;
        if (json_object_get(message, "event")) /* else the answer to what was given up */
            keep_event(q, TAKE_PTR(message));
    }
    *ret = take_event(q);
    return 1;
}

int qmp_wait_event(struct qmp *q, const char *name, uint64_t deadline_ns, json_t **ret_data,
                   struct thaw_error *e)
{
    for (;;) {
        json_t *message CLEANUP_JSON = NULL;
        const char *event;

        if (q->event_count > 0) {
            message = take_event(q);
        } else {
            int r = read_message(q, deadline_ns, &message, e);

            if (r < 0)
                return r;
        }
        event = json_string_value(json_object_get(message, "event"));
        if (!event || strcmp(event, name) != 0)
            continue;
        if (ret_data)
            *ret_data = json_incref(json_object_get(message, "data"));
        return 0;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/metrics_server.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "kernel/libmicrohttpd.h"
#include "observe/accept.h"
#include "observe/expose.h"
#include "observe/listen.h"
#include "observe/metrics.h"

/*
 * libmicrohttpd speaks HTTP on a thread of its own, which waits with poll(2) for all connections at
 * once, so that a slow client keeps nobody waiting but itself. MHD could use epoll(7), and then on
 * a thread of ours; but it does so edge-triggered, and misses the end of a client that hangs up
 * right after its request: that connection then stays for all of its time.
 */

#define CONNECTION_MEMORY ((size_t)(16 * KIB))

struct metrics_server {
    char address[LISTEN_ADDRESS_MAX];
    struct MHD_Daemon *daemon; /* owned */
};

/* ---- answers ---- */

/* Send @response, which becomes MHD's. Without one, for lack of memory, the connection is closed.
 */
static enum MHD_Result answer(struct MHD_Connection *c, unsigned status,
                              struct MHD_Response *response, const char *type)
{
    enum MHD_Result result = MHD_NO;

    if (response && libmicrohttpd->add_response_header(response, "Content-Type", type) == MHD_YES)
        result = libmicrohttpd->queue_response(c, status, response);
    if (response)
        libmicrohttpd->destroy_response(response); /* this reference to it */
    return result;
}

static enum MHD_Result answer_text(struct MHD_Connection *c, unsigned status, const char *text)
{
    /* It is only read: MHD's type for all kinds of buffers is not const. */
    struct MHD_Response *response = libmicrohttpd->create_response_from_buffer(
        strlen(text), (void *)(uintptr_t)text, MHD_RESPMEM_PERSISTENT);

    if (response && status == MHD_HTTP_METHOD_NOT_ALLOWED)
        libmicrohttpd->add_response_header(response, "Allow", "GET, HEAD");
    return answer(c, status, response, "text/plain; charset=utf-8");
}

static enum MHD_Result add_accept(void *arg, enum MHD_ValueKind kind, const char *name,
                                  const char *value)
{
    (void)kind;
    if (value && strcasecmp(name, "Accept") == 0)
        accept_add(arg, value, strlen(value));
    return MHD_YES;
}

static enum MHD_Result answer_metrics(struct MHD_Connection *c)
{
    struct metrics *m CLEANUP_FREE = NULL;
    struct buf body CLEANUP_BUF = {0};
    struct MHD_Response *response;
    struct accept accept = {0};
    bool protobuf;

    libmicrohttpd->get_connection_values(c, MHD_HEADER_KIND, add_accept, &accept);
    protobuf = accept_wants_protobuf(&accept);
    if (metrics_read(&m) < 0)
        return answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n");
    if (protobuf)
        expose_protobuf(m, &body);
    else
        expose_text(m, &body);
    if (body.failed)
        return answer_text(c, MHD_HTTP_SERVICE_UNAVAILABLE, "out of memory\n");
    response =
        libmicrohttpd->create_response_from_buffer(body.len, body.data, MHD_RESPMEM_MUST_FREE);
    if (response)
        body.data = NULL; /* MHD frees it */
    return answer(c, MHD_HTTP_OK, response, protobuf ? EXPOSE_PROTOBUF_TYPE : EXPOSE_TEXT_TYPE);
}

static enum MHD_Result handle(void *arg, struct MHD_Connection *c, const char *url,
                              const char *method, const char *version, const char *upload,
                              size_t *upload_bytes, void **state)
{
    static char headers_seen;

    (void)arg;
    (void)version;
    (void)upload;
    if (!*state) { /* an answer before the request's end would cut the connection */
        *state = &headers_seen;
        return MHD_YES;
    }
    if (*upload_bytes > 0) { /* nobody wants a body */
        *upload_bytes = 0;
        return MHD_YES;
    }
    if (strcmp(url, "/metrics") != 0 && strcmp(url, "/healthz") != 0)
        return answer_text(c, MHD_HTTP_NOT_FOUND, "there are /metrics and /healthz\n");
    if (strcmp(method, MHD_HTTP_METHOD_GET) != 0 && strcmp(method, MHD_HTTP_METHOD_HEAD) != 0)
        return answer_text(c, MHD_HTTP_METHOD_NOT_ALLOWED, "only GET and HEAD are allowed\n");
    if (strcmp(url, "/healthz") == 0)
        return answer_text(c, MHD_HTTP_OK, "ok\n");
    return answer_metrics(c);
}

/* ---- the thread ---- */

/* MHD has named it already, and tells of nothing before the first connection. */
static void name_thread(void *arg, struct MHD_Connection *c, void **state,
                        enum MHD_ConnectionNotificationCode what)
{
    (void)arg;
    (void)c;
    (void)state;
    if (what == MHD_CONNECTION_NOTIFY_STARTED)
        pthread_setname_np(pthread_self(), "thaw-http");
}

static void no_log(void *arg, const char *fmt, va_list args)
{
    (void)arg;
    (void)fmt;
    (void)args;
}

/* @listen_fd becomes the daemon's. Its thread takes no signals, as none of ours does. */
static int start_daemon(struct metrics_server *s, int listen_fd)
{
    sigset_t all, before;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    s->daemon = libmicrohttpd->start_daemon(
        MHD_USE_POLL_INTERNAL_THREAD | MHD_USE_ITC | MHD_USE_ERROR_LOG, 0, NULL, NULL, handle, s,
        MHD_OPTION_EXTERNAL_LOGGER, no_log, NULL, /* first, so that it is told of the others */
        MHD_OPTION_LISTEN_SOCKET, listen_fd, MHD_OPTION_NOTIFY_CONNECTION, name_thread, NULL,
        MHD_OPTION_CONNECTION_LIMIT, (unsigned)METRICS_SERVER_CONNECTIONS,
        MHD_OPTION_CONNECTION_TIMEOUT, (unsigned)METRICS_SERVER_TIMEOUT_S,
        MHD_OPTION_CONNECTION_MEMORY_LIMIT, CONNECTION_MEMORY, MHD_OPTION_END);
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (!s->daemon)
        close(listen_fd);
    return s->daemon ? 0 : -ENOMEM;
}

int metrics_server_start(const char *address, struct metrics_server **ret, struct thaw_error *e)
{
    struct metrics_server *s;
    int r = libmicrohttpd_load(e);

    if (r < 0)
        return err_wrap(e, "serving metrics");
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_errno(e, -ENOMEM, "starting the metrics server");
    r = listen_on(address, s->address, e);
    if (r < 0) {
        free(s);
        return r;
    }
    r = start_daemon(s, r);
    if (r < 0) {
        metrics_server_stop(s);
        return err_errno(e, r, "starting the metrics server on %s", address);
    }
    *ret = s;
    return 0;
}

const char *metrics_server_address(const struct metrics_server *s)
{
    return s->address;
}

void metrics_server_stop(struct metrics_server *s)
{
    if (!s)
        return;
    listen_forget(s->address);
    if (s->daemon)
        libmicrohttpd->stop_daemon(s->daemon);
    free(s);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/http.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>

#include "base/clock.h"
#include "kernel/libcurl.h"

#define URL_BYTES   128
#define POLL_MAX_MS 60000
/* What a server has said before its end lies in the socket, and the end of the stream behind it.
 * Only if another process holds its socket open would we wait longer. */
#define LAST_WORDS_NS NS_PER_SEC

struct call {
    const struct http_request *q; /* borrowed */
    struct http_response *r;      /* borrowed */
    CURLM *multi;                 /* owned */
    CURL *easy;                   /* owned */
    struct curl_slist *headers;   /* owned */
    size_t head_bytes;
    bool too_much;
    bool server_ended;
    bool watching;
    uint64_t deadline_ns;
    char why[CURL_ERROR_SIZE];
};

static size_t take_head(char *bytes, size_t size, size_t n, void *arg)
{
    struct call *c = arg;

    (void)bytes;
    c->head_bytes += size * n;
    c->too_much |= c->head_bytes > HTTP_HEAD_MAX_BYTES;
    return c->too_much ? 0 : size * n;
}

static size_t take_body(char *bytes, size_t size, size_t n, void *arg)
{
    struct call *c = arg;

    c->too_much |= size * n > HTTP_BODY_MAX_BYTES - c->r->body.len;
    if (c->too_much)
        return 0;
    buf_put(&c->r->body, bytes, size * n);
    return c->r->body.failed ? 0 : size * n;
}

/* "Expect:" has a request with a long body sent at once. */
static int make_headers(struct call *c)
{
    static const char *const texts[] = {"Accept: application/json",
                                        "Content-Type: application/json", "Expect:"};

    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        struct curl_slist *longer = libcurl->slist_append(c->headers, texts[i]);

        if (!longer)
            return -ENOMEM;
        c->headers = longer;
    }
    return 0;
}

/* (libcurl passes over the environment's proxy where there is a UNIX_SOCKET_PATH.) */
static int describe(struct call *c)
{
    const struct http_request *q = c->q;
    CURL *h = c->easy;
    char url[URL_BYTES];
    int n = snprintf(url, sizeof(url), "http://localhost%s", q->target);
    const CURLcode results[] = {
        libcurl_set(h, CURLOPT_URL, url),
        libcurl_set(h, CURLOPT_UNIX_SOCKET_PATH, q->socket_path),
        libcurl_set(h, CURLOPT_CUSTOMREQUEST, q->method),
        libcurl_set(h, CURLOPT_HTTPHEADER, c->headers),
        libcurl_set(h, CURLOPT_PROTOCOLS_STR, "http"),
        libcurl_set(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1),
        libcurl_set(h, CURLOPT_NOSIGNAL, 1L),
        libcurl_set(h, CURLOPT_ERRORBUFFER, c->why),
        libcurl_set(h, CURLOPT_HEADERFUNCTION, take_head),
        libcurl_set(h, CURLOPT_HEADERDATA, c),
        libcurl_set(h, CURLOPT_WRITEFUNCTION, take_body),
        libcurl_set(h, CURLOPT_WRITEDATA, c),
    };

    if (n < 0 || (size_t)n >= sizeof(url))
        return -EINVAL;
    for (size_t i = 0; i < ARRAY_SIZE(results); i++) {
        if (results[i] != CURLE_OK)
            return -ENOMEM;
    }
    if (!q->body)
        return 0;
    if (libcurl_set(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)q->body_bytes) != CURLE_OK ||
        libcurl_set(h, CURLOPT_POSTFIELDS, q->body) != CURLE_OK)
        return -ENOMEM;
    return 0;
}

static int call_init(struct call *c, struct thaw_error *e)
{
    int r = libcurl_load(e);

    if (r < 0)
        return r;
    c->multi = libcurl->multi_init();
    c->easy = libcurl->easy_init();
    if (!c->multi || !c->easy || make_headers(c) < 0)
        return err_set(e, -ENOMEM, "no memory for a request");
    r = describe(c);
    if (r == 0 && libcurl->multi_add_handle(c->multi, c->easy) != CURLM_OK)
        r = -ENOMEM;
    return r < 0 ? err_set(e, r, "libcurl does not take the request") : 0;
}

static void call_finish(struct call *c)
{
    if (!c->multi && !c->easy)
        return; /* perhaps there is no libcurl */
    if (c->multi && c->easy)
        libcurl->multi_remove_handle(c->multi, c->easy);
    libcurl->easy_cleanup(c->easy);
    libcurl->multi_cleanup(c->multi);
    libcurl->slist_free_all(c->headers);
}

static int connect_error(const struct call *c, struct thaw_error *e)
{
    long err = libcurl_get_long(c->easy, CURLINFO_OS_ERRNO);

    return err_errno(e, err > 0 ? -(int)err : -ECONNREFUSED, "connecting to %s", c->q->socket_path);
}

/* The exchange is over: how did it end? */
static int outcome(struct call *c, struct thaw_error *e)
{
    int left;
    CURLMsg *message = libcurl->multi_info_read(c->multi, &left);
    CURLcode code = message ? message->data.result : CURLE_OUT_OF_MEMORY;

    if (c->too_much)
        return err_set(e, -EPROTO, "the answer has more than %u KiB",
                       (unsigned)(HTTP_BODY_MAX_BYTES / KIB));
    switch (code) {
    case CURLE_OK:
        c->r->status = (unsigned)libcurl_get_long(c->easy, CURLINFO_RESPONSE_CODE);
        return 0;
    case CURLE_COULDNT_CONNECT:
        return connect_error(c, e);
    case CURLE_GOT_NOTHING:
    case CURLE_PARTIAL_FILE:
    case CURLE_RECV_ERROR:
    case CURLE_SEND_ERROR:
        return err_set(e, -ECONNRESET, "the connection was closed before the answer was complete");
    case CURLE_OUT_OF_MEMORY:
    case CURLE_WRITE_ERROR: /* too much is told above: here it is the buffer */
        return err_set(e, -ENOMEM, "no memory for the answer");
    default:
        return err_set(e, -EPROTO, "what came is no answer of HTTP/1.1: %s",
                       c->why[0] ? c->why : libcurl->easy_strerror(code));
    }
}

/* A server that has ended gets read to the end of what it said, and no further. */
static void note_end(struct call *c)
{
    uint64_t soon_ns = clock_now_ns() + LAST_WORDS_NS;

    c->server_ended = true;
    c->deadline_ns = MIN(c->deadline_ns, soon_ns);
}

/* Wait for whatever is next. 0 to go on. */
static int wait_next(struct call *c, struct thaw_error *e)
{
    enum { PID, WATCH };
    struct curl_waitfd fds[] = {
        [PID] = {.fd = c->server_ended ? -1 : c->q->pidfd, .events = CURL_WAIT_POLLIN},
        [WATCH] = {.fd = c->watching ? c->q->watch.fd : -1, .events = CURL_WAIT_POLLIN},
    };
    uint64_t now_ns = clock_now_ns();
    uint64_t left_ms = c->deadline_ns > now_ns ? (c->deadline_ns - now_ns) / NS_PER_MS + 1 : 0;
    int r = 0;

    if (left_ms == 0 && c->server_ended)
        return err_set(e, -ECONNRESET, "it ended before the answer was complete");
    if (left_ms == 0)
        return err_set(e, -ETIMEDOUT, "no answer in time");
    if (libcurl->multi_poll(c->multi, fds, ARRAY_SIZE(fds), (int)MIN(left_ms, POLL_MAX_MS), NULL) !=
        CURLM_OK)
        return err_set(e, -ENOMEM, "libcurl cannot wait for the answer");
    if (fds[PID].revents)
        note_end(c);
    if (fds[WATCH].revents)
        r = c->q->watch.look(c->q->watch.arg, e);
    if (r == 1)
        c->watching = false;
    return MIN(r, 0);
}

static int perform(struct call *c, struct thaw_error *e)
{
    for (;;) {
        int running = 0, r;

        if (libcurl->multi_perform(c->multi, &running) != CURLM_OK)
            return err_set(e, -ENOMEM, "libcurl cannot do a request");
        if (running == 0)
            return outcome(c, e);
        r = wait_next(c, e);
        if (r < 0)
            return r;
    }
}

int http_call(const struct http_request *q, struct http_response *ret, struct thaw_error *e)
{
    struct call c = {.q = q, .r = ret, .watching = q->watch.fd >= 0, .deadline_ns = q->deadline_ns};
    int r = call_init(&c, e);

    if (r == 0)
        r = perform(&c, e);
    call_finish(&c);
    return r;
}

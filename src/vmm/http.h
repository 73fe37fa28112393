/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_HTTP_H
#define THAW_VMM_HTTP_H

/*
 * One request to a VMM's API: HTTP/1.1 and JSON over a unix socket. Each call makes a connection of
 * its own, so that a request is never sent twice: libcurl repeats one on a new connection when a
 * kept one turns out to be dead, and loading a snapshot is nothing to be repeated.
 *
 * One thread per call. A call blocks until the answer is there, the deadline has passed, the server
 * has ended, or the caller's own watch says stop. What the server says is bounded.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"

#define HTTP_HEAD_MAX_BYTES (64 * KIB)
#define HTTP_BODY_MAX_BYTES (64 * KIB)

/**
 * struct http_watch - something else to look at while the answer is waited for
 * @fd: readable when there is news; -1 for none
 * @look: called then; 0 to go on, 1 to go on without looking again, -errno to give up (@e says why)
 */
struct http_watch {
    int fd;
    int (*look)(void *arg, struct thaw_error *e);
    void *arg;
};

/**
 * struct http_request - what to ask whom; all borrowed
 * @socket_path: shorter than sun_path
 * @method: "GET", "PUT", "PATCH"
 * @target: "/version"
 * @body: JSON, or NULL
 * @deadline_ns: clock_now_ns()
 * @pidfd: of the server; -1 for none
 */
struct http_request {
    const char *socket_path;
    const char *method;
    const char *target;
    const char *body;
    size_t body_bytes;
    uint64_t deadline_ns;
    int pidfd;
    struct http_watch watch;
};

/* Zero-initialised by the caller, and released: */
struct http_response {
    unsigned status;
    struct buf body;
};

static inline void cleanup_http_response(struct http_response *a)
{
    buf_finish(&a->body);
}
#define CLEANUP_HTTP_RESPONSE CLEANUP(cleanup_http_response)

/**
 * http_call() - one exchange
 *
 * Returns: 0 whatever the status, or -errno with the reason in @e:
 *     -ENOENT, -ECONNREFUSED  nobody listens there, yet
 *     -ECONNRESET             the server ended, or hung up, before its answer was complete
 *     -ETIMEDOUT              the deadline has passed
 *     -EPROTO                 what came is no HTTP/1.1, or too much
 * or what the watch has returned, or another errno of connecting.
 */
[[gnu::warn_unused_result]] int http_call(const struct http_request *q, struct http_response *ret,
                                          struct thaw_error *e);

#endif

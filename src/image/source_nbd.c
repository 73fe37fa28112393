/* SPDX-License-Identifier: Apache-2.0 */
#include "image/source_nbd.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "image/source.h"
#include "kernel/libnbd.h"

#define ANSWER_WAIT_NS (60 * NS_PER_SEC)
#define STATUS_BYTES   GIB /* of one question for holes */

struct nbd_source {
    struct nbd_handle *nbd;
    pthread_mutex_t mu; /* one call at a time: who waits for an answer reads it from the socket */
    bool broken; /* [m] mu: a command was given up, whose buffer must not be written to any more */
};

bool source_is_nbd_uri(const char *path)
{
    static const char *const schemes[] = {"nbd://", "nbd+unix://", "nbds://", "nbds+unix://"};

    for (size_t i = 0; i < ARRAY_SIZE(schemes); i++) {
        if (strncmp(path, schemes[i], strlen(schemes[i])) == 0)
            return true;
    }
    return false;
}

/* What libnbd says of its last failure on this thread. */
static int nbd_failure(struct thaw_error *e, const char *what)
{
    int error = libnbd->get_errno();
    const char *text = libnbd->get_error();

    return err_set(e, error > 0 ? -error : -EIO, "%s: %s", what, text ? text : "no reason given");
}

/* Wait until the connection can go on, and let it. */
static int step(struct nbd_handle *nbd, int cancel_fd, uint64_t deadline_ns, const char *what,
                struct thaw_error *e)
{
    unsigned direction = libnbd->aio_get_direction(nbd);
    short events = (short)((direction & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                           (direction & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    struct pollfd fds[] = {{.fd = libnbd->aio_get_fd(nbd), .events = events},
                           {.fd = cancel_fd > 0 ? cancel_fd : -1, .events = POLLIN}};
    uint64_t now_ns = clock_now_ns();
    int r = 0;

    if (now_ns >= deadline_ns)
        return err_set(e, -ETIMEDOUT, "%s: the NBD server does not answer", what);
    if (poll(fds, ARRAY_SIZE(fds), (int)((deadline_ns - now_ns) / NS_PER_MS) + 1) < 0)
        return errno == EINTR ? 0 : err_errno(e, -errno, "%s", what);
    if (fds[1].revents)
        return err_set(e, -ECANCELED, "%s: given up, as asked for by a signal", what);
    if (fds[0].revents & (POLLIN | POLLHUP | POLLERR))
        r = libnbd->aio_notify_read(nbd);
    else if (fds[0].revents & POLLOUT)
        r = libnbd->aio_notify_write(nbd);
    return r < 0 ? nbd_failure(e, what) : 0;
}

/* Let the connection go on until @done says so. */
static int await(struct nbd_handle *nbd, int cancel_fd,
                 bool (*done)(struct nbd_handle *nbd, void *arg), void *arg, const char *what,
                 struct thaw_error *e)
{
    uint64_t deadline_ns = clock_now_ns() + ANSWER_WAIT_NS;

    while (!done(nbd, arg)) {
        int r;

        if (libnbd->aio_is_dead(nbd) > 0 || libnbd->aio_is_closed(nbd) > 0)
            return err_set(e, -ECONNRESET, "%s: the NBD server closed the connection", what);
        r = step(nbd, cancel_fd, deadline_ns, what, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static bool is_connected(struct nbd_handle *nbd, void *arg)
{
    (void)arg;
    return libnbd->aio_is_ready(nbd) > 0;
}

/* A command under way, and what came of it. */
struct answer {
    int64_t cookie;
    bool failed;
    uint64_t from;       /* of a question for holes */
    uint64_t data_start; /* the first data found, data_end: its end; none: both 0 */
    uint64_t data_end;
    uint64_t told_to; /* holes are known up to here */
};

static bool is_answered(struct nbd_handle *nbd, void *arg)
{
    struct answer *a = arg;
    int r = libnbd->aio_command_completed(nbd, (uint64_t)a->cookie);

    a->failed = r < 0;
    return r != 0;
}

static int run(const struct source *s, struct answer *a, const char *what, struct thaw_error *e)
{
    struct nbd_source *n = s->impl;
    int r;

    if (a->cookie < 0)
        return nbd_failure(e, what);
    r = await(n->nbd, s->cancel_fd, is_answered, a, what, e);
    n->broken = r < 0;
    return r == 0 && a->failed ? nbd_failure(e, what) : r;
}

static int nbd_read(const struct source *s, void *buf, size_t len_bytes, uint64_t offset,
                    struct thaw_error *e)
{
    struct nbd_source *n = s->impl;
    struct answer a = {0};
    int r;

    pthread_mutex_lock(&n->mu);
    if (n->broken) {
        r = err_set(e, -ECONNRESET, "the NBD server was given up before");
    } else {
        a.cookie = libnbd->aio_pread(n->nbd, buf, len_bytes, offset, NBD_NULL_COMPLETION, 0);
        r = run(s, &a, "reading", e);
    }
    pthread_mutex_unlock(&n->mu);
    if (r < 0)
        err_wrap(e, "%s at byte %llu", s->path, (unsigned long long)offset);
    return r;
}

/* Extents come in order; of each there is the length and its flags. */
static int take_extents(void *user_data, const char *context, uint64_t offset, uint32_t *entries,
                        size_t entry_count, int *error)
{
    struct answer *a = user_data;

    (void)error;
    if (strcmp(context, LIBNBD_CONTEXT_BASE_ALLOCATION) != 0)
        return 0;
    for (size_t i = 0; i + 1 < entry_count; i += 2) {
        uint64_t end = offset + entries[i];

        if (entries[i + 1] & LIBNBD_STATE_ZERO) {
            if (a->data_end != 0)
                return 0;
        } else {
            if (a->data_end == 0)
                a->data_start = MAX(offset, a->from);
            a->data_end = end;
        }
        a->told_to = end;
        offset = end;
    }
    return 0;
}

/* Where the server cannot say, or fails to, all is data: reading it will tell. */
static bool nbd_next_data(const struct source *s, uint64_t from, uint64_t *ret_start,
                          uint64_t *ret_end)
{
    struct nbd_source *n = s->impl;

    *ret_end = s->size_bytes;
    while (from < s->size_bytes) {
        uint64_t len = MIN(s->size_bytes - from, STATUS_BYTES);
        struct answer a = {.from = from};
        int r;

        *ret_start = from;
        pthread_mutex_lock(&n->mu);
        r = n->broken ? -ECONNRESET : 0;
        if (r == 0 && libnbd->can_meta_context(n->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION) <= 0)
            r = -ENOTSUP;
        if (r == 0) {
            nbd_extent_callback take = {.callback = take_extents, .user_data = &a};

            a.cookie = libnbd->aio_block_status(n->nbd, len, from, take, NBD_NULL_COMPLETION, 0);
            r = run(s, &a, "asking for holes", NULL);
        }
        pthread_mutex_unlock(&n->mu);
        if (r < 0 || a.told_to <= from)
            return true;
        if (a.data_end != 0) {
            *ret_start = a.data_start;
            *ret_end = MIN(a.data_end, s->size_bytes);
            return *ret_start < *ret_end;
        }
        from = a.told_to;
    }
    return false;
}

static void nbd_source_close(struct source *s)
{
    struct nbd_source *n = s->impl;

    libnbd->close(n->nbd);
    pthread_mutex_destroy(&n->mu);
    free(n);
}

static const struct source_ops nbd_ops = {
    .next_data = nbd_next_data,
    .read = nbd_read,
    .close = nbd_source_close,
};

static int nbd_source_create(const char *name, struct source *ret, struct thaw_error *e)
{
    struct nbd_source *n;
    int r = libnbd_load(e);

    if (r < 0)
        return err_wrap(e, "%s", name);
    n = calloc(1, sizeof(*n));
    if (n)
        n->nbd = libnbd->create();
    if (!n || !n->nbd) {
        free(n);
        return err_set(e, -ENOMEM, "no memory for an NBD connection");
    }
    pthread_mutex_init(&n->mu, NULL);
    *ret = (struct source){.ops = &nbd_ops, .path = name, .impl = n};
    return 0;
}

/* From a connection on its way to one that is ready, whose size is known. */
static int finish_connecting(struct source *s, int started, struct thaw_error *e)
{
    struct nbd_source *n = s->impl;
    int64_t size;
    int r =
        started < 0 ? nbd_failure(e, s->path) : await(n->nbd, 0, is_connected, NULL, s->path, e);

    if (r < 0)
        return r;
    size = libnbd->get_size(n->nbd);
    if (size < 0)
        return nbd_failure(e, s->path);
    s->size_bytes = (uint64_t)size;
    return 0;
}

int source_open_nbd(const char *uri, struct source *ret, struct thaw_error *e)
{
    struct source s;
    int r = nbd_source_create(uri, &s, e);

    if (r < 0)
        return r;
    libnbd->add_meta_context(((struct nbd_source *)s.impl)->nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    r = finish_connecting(&s, libnbd->aio_connect_uri(((struct nbd_source *)s.impl)->nbd, uri), e);
    if (r < 0)
        source_close(&s);
    else
        *ret = s;
    return r;
}

int source_open_nbd_socket(int fd, const char *export_name, const char *name, struct source *ret,
                           struct thaw_error *e)
{
    struct nbd_handle *nbd;
    struct source s;
    int r = nbd_source_create(name, &s, e);

    if (r < 0) {
        close(fd);
        return r;
    }
    nbd = ((struct nbd_source *)s.impl)->nbd;
    libnbd->add_meta_context(nbd, LIBNBD_CONTEXT_BASE_ALLOCATION);
    if (libnbd->set_export_name(nbd, export_name) < 0) {
        r = nbd_failure(e, name);
        close(fd);
    } else {
        r = finish_connecting(&s, libnbd->aio_connect_socket(nbd, fd), e);
    }
    if (r < 0)
        source_close(&s);
    else
        *ret = s;
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/io.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "kernel/io_internal.h"

static void (*at_thread_start)(void); /* set before the threads that read it are made */

void io_at_thread_start(void (*fn)(void))
{
    at_thread_start = fn;
}

void io_thread_name(char *ret)
{
    static _Atomic(unsigned) threads;

    snprintf(ret, 16, "thaw-io/%u", atomic_fetch_add(&threads, 1) % 1000);
}

void io_thread_started(void)
{
    if (at_thread_start)
        at_thread_start();
}

int io_engine_create(enum io_kind kind, struct io_engine **ret, struct thaw_error *e)
{
    struct thaw_error why = THAW_ERROR_INIT;
    int r;

    if (kind == IO_KIND_AUTO) {
        const char *wish = getenv("THAW_IO");

        if (wish && strcmp(wish, "pool") == 0)
            kind = IO_KIND_POOL;
        else if (wish && strcmp(wish, "uring") == 0)
            kind = IO_KIND_URING;
        else if (wish)
            return err_set(e, -EINVAL, "THAW_IO is '%s'; it can be uring or pool", wish);
    }
    if (kind == IO_KIND_POOL)
        return io_pool_engine_create(ret, e);
    if (kind == IO_KIND_URING)
        return io_uring_engine_create(ret, e);
    r = io_uring_engine_create(ret, &why);
    if (r < 0) {
        log_debug("%s, using threads and pread instead", why.text);
        r = io_pool_engine_create(ret, e);
    }
    return r;
}

int io_direct_create(struct io_engine *behind, struct io_engine **ret)
{
    int r = getenv("THAW_IO") ? -EOPNOTSUPP : io_aio_engine_create(behind, ret);

    if (r < 0)
        log_debug("no reads by aio: %s", strerror(-r));
    return r;
}

void io_engine_destroy(struct io_engine *io)
{
    if (io)
        io->destroy(io);
}

enum io_kind io_engine_kind(const struct io_engine *io)
{
    return io->kind;
}

void io_submit(struct io_engine *io, struct io_request *r)
{
    r->engine = io;
    r->transferred = 0;
    io->submit(io, r);
}

/* The pieces that are still to be filled. */
static void skip_pieces(struct io_request *r, size_t bytes)
{
    while (r->iov_count > 0 && bytes >= r->iov->iov_len) {
        bytes -= r->iov->iov_len;
        r->iov++;
        r->iov_count--;
    }
    if (bytes > 0) {
        r->iov->iov_base = (char *)r->iov->iov_base + bytes;
        r->iov->iov_len -= bytes;
    }
}

int io_progress(struct io_request *r, ssize_t result, ssize_t *ret_result)
{
    if (result == -EINTR || result == -EAGAIN)
        return 0;
    /* O_DIRECT refuses to go on after the odd bytes at the end of a file: that was the end. */
    if (result == -EINVAL && r->op == IO_READ && r->transferred % PAGE_BYTES != 0)
        result = 0;
    if (result < 0 || r->op == IO_OPEN) {
        *ret_result = result;
        return 1;
    }
    r->transferred += (size_t)result;
    if (r->iov_count > 0)
        skip_pieces(r, (size_t)result);
    if (result > 0 && r->transferred < r->len_bytes)
        return 0;
    *ret_result = (ssize_t)r->transferred;
    return 1;
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The engine for hosts without io_uring: a few threads that block in pread(2) in place of the
 * threads that must not. The queue is a plain mutex and condition; a demand request is always
 * taken first, and one thread is kept free of background work.
 */
#include "kernel/io_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"

#define POOL_THREADS 8u

struct pool_engine {
    struct io_engine engine;
    pthread_t threads[POOL_THREADS];
    unsigned thread_count;
    pthread_mutex_t mu;
    pthread_cond_t work;
    struct io_queue waiting[IO_PRIORITIES]; /* [m] mu */
    unsigned background;                    /* [m] mu: background requests being served */
    bool quitting;                          /* [m] mu */
};

static struct io_request *next_request_locked(struct pool_engine *p)
{
    struct io_request *r = io_queue_pop(&p->waiting[IO_DEMAND]);

    if (!r && p->background < POOL_THREADS - 1) {
        r = io_queue_pop(&p->waiting[IO_BACKGROUND]);
        if (r)
            p->background++;
    }
    return r;
}

static ssize_t serve_once(const struct io_request *r)
{
    ssize_t n;

    if (r->op == IO_READ && r->iov_count > 0)
        n = preadv(r->fd, r->iov, (int)r->iov_count, (off_t)(r->offset + r->transferred));
    else if (r->op == IO_READ)
        n = pread(r->fd, (char *)r->buf + r->transferred, r->len_bytes - r->transferred,
                  (off_t)(r->offset + r->transferred));
    else
        n = openat(r->fd, r->path, r->flags | O_CLOEXEC);
    return n < 0 ? -errno : n;
}

static void serve(struct io_request *r)
{
    ssize_t result;

    while (!io_progress(r, serve_once(r), &result))
        ;
    r->done(r, result);
}

static void *pool_thread(void *arg)
{
    struct pool_engine *p = arg;

    io_thread_started();
    mutex_lock(&p->mu);
    for (;;) {
        struct io_request *r = next_request_locked(p);
        bool background;

        if (!r && p->quitting)
            break;
        if (!r) {
            pthread_cond_wait(&p->work, &p->mu);
            continue;
        }
        background = r->priority == IO_BACKGROUND;
        mutex_unlock(&p->mu);
        serve(r); /* @r is its owner's from here on */
        mutex_lock(&p->mu);
        if (background) {
            p->background--;
            if (p->waiting[IO_BACKGROUND].first)
                pthread_cond_signal(&p->work);
        }
    }
    mutex_unlock(&p->mu);
    return NULL;
}

static void pool_submit(struct io_engine *io, struct io_request *r)
{
    struct pool_engine *p = container_of(io, struct pool_engine, engine);

    mutex_lock(&p->mu);
    io_queue_push(&p->waiting[r->priority], r);
    mutex_unlock(&p->mu);
    pthread_cond_signal(&p->work);
}

static void pool_destroy(struct io_engine *io)
{
    struct pool_engine *p = container_of(io, struct pool_engine, engine);

    mutex_lock(&p->mu);
    p->quitting = true;
    mutex_unlock(&p->mu);
    pthread_cond_broadcast(&p->work);
    for (unsigned i = 0; i < p->thread_count; i++)
        thread_join(p->threads[i]);
    pthread_cond_destroy(&p->work);
    pthread_mutex_destroy(&p->mu);
    free(p);
}

int io_pool_engine_create(struct io_engine **ret, struct thaw_error *e)
{
    struct pool_engine *p = calloc(1, sizeof(*p));

    if (!p)
        return err_set(e, -ENOMEM, "no memory for an I/O engine");
    p->engine = (struct io_engine){IO_KIND_POOL, pool_submit, pool_destroy};
    pthread_mutex_init(&p->mu, NULL);
    pthread_cond_init(&p->work, NULL);
    for (; p->thread_count < POOL_THREADS; p->thread_count++) {
        char name[16];
        int r;

        io_thread_name(name);
        r = thread_start(&p->threads[p->thread_count], name, pool_thread, p);
        if (r < 0) {
            pool_destroy(&p->engine);
            return err_errno(e, r, "cannot start an I/O thread");
        }
    }
    *ret = &p->engine;
    return 0;
}

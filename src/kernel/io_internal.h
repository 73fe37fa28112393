/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_IO_INTERNAL_H
#define THAW_KERNEL_IO_INTERNAL_H

/* What the engines behind kernel/io.h share. */

#include "kernel/io.h"

struct io_engine {
    enum io_kind kind;
    void (*submit)(struct io_engine *self, struct io_request *r);
    void (*destroy)(struct io_engine *self);
};

/* First in, first out. */
struct io_queue {
    struct io_request *first;
    struct io_request *last;
};

static inline void io_queue_push(struct io_queue *q, struct io_request *r)
{
    r->next = NULL;
    if (q->last)
        q->last->next = r;
    else
        q->first = r;
    q->last = r;
}

static inline struct io_request *io_queue_pop(struct io_queue *q)
{
    struct io_request *r = q->first;

    if (r) {
        q->first = r->next;
        if (!q->first)
            q->last = NULL;
    }
    return r;
}

/** io_thread_name() - thaw-io/N for the next thread of any engine, N not above 999; for 16 bytes */
void io_thread_name(char *ret);

/** io_thread_started() - to be called by each new thread of an engine */
void io_thread_started(void);

/**
 * io_progress() - account for one result of the kernel
 *
 * Returns: 1 when @r is over and *@ret_result is what to call done() with, 0 when it must be given
 * to the kernel once more for the rest.
 */
int io_progress(struct io_request *r, ssize_t result, ssize_t *ret_result);

[[gnu::warn_unused_result]] int io_uring_engine_create(struct io_engine **ret,
                                                       struct thaw_error *e);
[[gnu::warn_unused_result]] int io_pool_engine_create(struct io_engine **ret, struct thaw_error *e);

/** io_aio_engine_create() - as io_direct_create(), whatever the environment says */
[[gnu::warn_unused_result]] int io_aio_engine_create(struct io_engine *behind,
                                                     struct io_engine **ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The io_uring engine: one thread, one ring.
 *
 * The thread sleeps in one place, waiting for a completion. The mailbox wakes it through a poll
 * request on its eventfd that is kept armed in the ring. Requests move mailbox -> queue by
 * priority -> kernel -> done(); only this thread touches anything after the mailbox.
 */
#include "kernel/io_internal.h"

#include <assert.h>
#include <errno.h>
#include <liburing.h>
#include <poll.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"

struct uring_engine {
    struct io_engine engine;
    pthread_t thread;
    struct mailbox inbox;
    struct message quit; /* its arrival ends the thread once nothing is left to do */

    /* [t] engine thread only from here on */
    struct io_uring ring;
    struct io_queue waiting[IO_PRIORITIES];
    unsigned with_kernel[IO_PRIORITIES];
    bool polling; /* the poll of the eventfd is armed */
    bool quitting;
};

static struct uring_engine *from_engine(struct io_engine *io)
{
    return container_of(io, struct uring_engine, engine);
}

static void receive_request(struct message *m)
{
    struct io_request *r = container_of(m, struct io_request, msg);

    io_queue_push(&from_engine(r->engine)->waiting[r->priority], r);
}

static void receive_quit(struct message *m)
{
    container_of(m, struct uring_engine, quit)->quitting = true;
}

static void uring_submit(struct io_engine *io, struct io_request *r)
{
    r->msg.deliver = receive_request;
    mailbox_post(&from_engine(io)->inbox, &r->msg);
}

static void give_to_kernel(struct uring_engine *u, struct io_request *r)
{
    /* There is always room: the ring has one entry more than with_kernel can count. */
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    assert(sqe);
    if (r->op == IO_READ && r->iov_count > 0) {
        io_uring_prep_readv(sqe, r->fd, r->iov, r->iov_count, r->offset + r->transferred);
    } else if (r->op == IO_READ) {
        /* The kernel transfers less than 2 GiB a call; the rest comes as a short read. */
        size_t len = MIN(r->len_bytes - r->transferred, (size_t)GIB);

        io_uring_prep_read(sqe, r->fd, (char *)r->buf + r->transferred, (unsigned)len,
                           r->offset + r->transferred);
    } else {
        io_uring_prep_openat(sqe, r->fd, r->path, r->flags | O_CLOEXEC, 0);
    }
    io_uring_sqe_set_data(sqe, r);
    u->with_kernel[r->priority]++;
}

static void start_waiting(struct uring_engine *u)
{
    struct io_request *r;

    while (u->with_kernel[IO_DEMAND] + u->with_kernel[IO_BACKGROUND] < IO_DEPTH &&
           (r = io_queue_pop(&u->waiting[IO_DEMAND])) != NULL)
        give_to_kernel(u, r);
    while (u->with_kernel[IO_BACKGROUND] < IO_BACKGROUND_MAX &&
           u->with_kernel[IO_DEMAND] + u->with_kernel[IO_BACKGROUND] < IO_DEPTH &&
           (r = io_queue_pop(&u->waiting[IO_BACKGROUND])) != NULL)
        give_to_kernel(u, r);
}

static void arm_poll(struct uring_engine *u)
{
    struct io_uring_sqe *sqe = io_uring_get_sqe(&u->ring);

    assert(sqe);
    io_uring_prep_poll_add(sqe, u->inbox.event_fd, POLLIN);
    io_uring_sqe_set_data(sqe, NULL);
    u->polling = true;
}

static void complete(struct uring_engine *u, struct io_uring_cqe *cqe)
{
    struct io_request *r = io_uring_cqe_get_data(cqe);
    ssize_t result;

    if (!r) {
        u->polling = false;
        mailbox_deliver(&u->inbox);
        return;
    }
    u->with_kernel[r->priority]--;
    if (io_progress(r, cqe->res, &result))
        r->done(r, result);
    else
        io_queue_push(&u->waiting[r->priority], r);
}

static bool idle(const struct uring_engine *u)
{
    return !u->with_kernel[IO_DEMAND] && !u->with_kernel[IO_BACKGROUND] &&
           !u->waiting[IO_DEMAND].first && !u->waiting[IO_BACKGROUND].first;
}

static int ring_init(struct io_uring *ring)
{
    /* Completions run when this thread asks for them, not by interrupting it: since Linux 6.1. */
    int r = io_uring_queue_init(IO_DEPTH + 1, ring,
                                IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN);

    if (r == -EINVAL)
        r = io_uring_queue_init(IO_DEPTH + 1, ring, 0);
    return r;
}

struct start {
    struct uring_engine *u;
    struct mailbox ready;
    struct message msg;
    int result;
};

/*
 * The ring is made by the thread that uses it, as SINGLE_ISSUER wants. @start lives on the
 * creator's stack, which waits for the message.
 */
static void *uring_thread(void *arg)
{
    struct start *start = arg;
    struct uring_engine *u = start->u;
    int r = ring_init(&u->ring);

    io_thread_started();
    start->result = r;
    mailbox_post(&start->ready, &start->msg);
    if (r < 0)
        return NULL;
    while (!u->quitting || !idle(u)) {
        struct io_uring_cqe *cqe;
        unsigned head, seen = 0;

        if (!u->polling)
            arm_poll(u);
        start_waiting(u);
        r = io_uring_submit_and_wait(&u->ring, 1);
        assert(r >= 0 || r == -EINTR || r == -EAGAIN || r == -EBUSY);
        io_uring_for_each_cqe(&u->ring, head, cqe)
        {
            complete(u, cqe);
            seen++;
        }
        io_uring_cq_advance(&u->ring, seen);
        if (u->quitting)
            mailbox_deliver(&u->inbox); /* what the last done() calls submitted */
    }
    io_uring_queue_exit(&u->ring);
    return NULL;
}

static void uring_destroy(struct io_engine *io)
{
    struct uring_engine *u = from_engine(io);

    u->quit.deliver = receive_quit;
    mailbox_post(&u->inbox, &u->quit);
    thread_join(u->thread);
    mailbox_finish(&u->inbox);
    free(u);
}

static void ignore(struct message *m)
{
    (void)m;
}

static int start_thread(struct uring_engine *u)
{
    struct start start = {.u = u, .msg = {.deliver = ignore}};
    struct pollfd p = {.events = POLLIN};
    char name[16];
    int r = mailbox_init(&start.ready);

    if (r < 0)
        return r;
    io_thread_name(name);
    r = thread_start(&u->thread, name, uring_thread, &start);
    if (r == 0) {
        p.fd = start.ready.event_fd;
        do
            poll(&p, 1, -1);
        while (mailbox_deliver(&start.ready) == 0);
        r = start.result;
        if (r < 0)
            thread_join(u->thread);
    }
    mailbox_finish(&start.ready);
    return r;
}

int io_uring_engine_create(struct io_engine **ret, struct thaw_error *e)
{
    struct uring_engine *u = calloc(1, sizeof(*u));
    int r;

    if (!u)
        return err_set(e, -ENOMEM, "no memory for an I/O engine");
    u->engine = (struct io_engine){IO_KIND_URING, uring_submit, uring_destroy};
    r = mailbox_init(&u->inbox);
    if (r == 0) {
        r = start_thread(u);
        if (r < 0)
            mailbox_finish(&u->inbox);
    }
    if (r < 0) {
        free(u);
        return err_errno(e, r, "cannot set up io_uring");
    }
    *ret = &u->engine;
    return 0;
}

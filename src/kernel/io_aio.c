/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The direct engine: whoever submits a read gives it to the kernel himself, by aio(7) and with
 * RWF_NOWAIT, so no other thread has to wake up before the disk can start. One thread, `thaw-aio`,
 * waits for the ends of all of them. Completions of io_uring would not do: they are run by the
 * thread that has submitted the read, and it may be stuck elsewhere, in the memory of its VM.
 *
 * What the kernel would have to wait for, or cannot do so at all (a file system that has no
 * RWF_NOWAIT, a file without O_DIRECT), and all that is not a demand read, goes to the engine
 * behind. So does what is left of a read that came back short.
 *
 * RWF_NOWAIT is for the file system alone: where the queue of the disk is full, a submission sleeps
 * all the same until there is room in it, which on a disk that hangs is for ever. So few reads are
 * with the kernel at a time, and no more are given to it while those there do not come back: they
 * go to the engine behind, where nobody but its own threads sleeps.
 *
 *     submit -> kernel -> thaw-aio -> done()
 *          +---> engine behind <--+ (short, or refused after all)
 */
#include "kernel/io_internal.h"

#include <assert.h>
#include <errno.h>
#include <linux/aio_abi.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"

#define LATE_NS (100 * NS_PER_MS) /* without the end of a read; after that no more are begun */

struct direct_engine {
    struct io_engine engine;
    struct io_engine *behind; /* borrowed */
    aio_context_t context;
    int quit_fd; /* owned: eventfd that the context polls; its event has no request */
    pthread_t thread;
    /* [a] Reads submitted, and not done. Each one is a release, and the thread's look at it an
     * acquire: so it sees what submitters wrote. */
    _Atomic(unsigned) with_kernel;
    _Atomic(uint64_t) moved_ns; /* [a] relaxed: when the last one was over, or the first begun */
    bool quitting;              /* [t] thread only */
};

static struct direct_engine *from_engine(struct io_engine *io)
{
    return container_of(io, struct direct_engine, engine);
}

static int submit_one(aio_context_t context, struct iocb *request)
{
    return syscall(SYS_io_submit, context, 1, &request) == 1 ? 0 : -errno;
}

/* As it is: some of it may have been read. */
static void leave_to_other(struct direct_engine *d, struct io_request *r)
{
    r->engine = d->behind;
    d->behind->submit(d->behind, r);
}

static void note_moved(struct direct_engine *d)
{
    atomic_store_explicit(&d->moved_ns, clock_now_ns(), memory_order_relaxed);
}

/* Whether one more read will not have to wait for a place in the disk's queue; it counts then. */
static bool enter(struct direct_engine *d)
{
    unsigned others = atomic_fetch_add_explicit(&d->with_kernel, 1, memory_order_release);
    uint64_t moved_ns = atomic_load_explicit(&d->moved_ns, memory_order_relaxed);

    if (others == 0)
        note_moved(d);
    if (others == 0 || (others < IO_DIRECT_DEPTH && clock_now_ns() < moved_ns + LATE_NS))
        return true;
    atomic_fetch_sub_explicit(&d->with_kernel, 1, memory_order_release);
    return false;
}

static bool give_to_kernel(struct direct_engine *d, struct io_request *r)
{
    bool pieces = r->iov_count > 0;
    struct iocb request = {
        .aio_data = (uintptr_t)r,
        .aio_lio_opcode = pieces ? IOCB_CMD_PREADV : IOCB_CMD_PREAD,
        .aio_fildes = (uint32_t)r->fd,
        .aio_buf = pieces ? (uintptr_t)r->iov : (uintptr_t)r->buf,
        .aio_nbytes = pieces ? r->iov_count : r->len_bytes,
        .aio_offset = (int64_t)r->offset,
        .aio_rw_flags = RWF_NOWAIT,
    };

    if (!enter(d))
        return false;
    if (submit_one(d->context, &request) == 0)
        return true; /* @r may be over by now */
    atomic_fetch_sub_explicit(&d->with_kernel, 1, memory_order_release);
    return false;
}

static void direct_submit(struct io_engine *io, struct io_request *r)
{
    struct direct_engine *d = from_engine(io);

    if (r->op != IO_READ || r->priority != IO_DEMAND || !give_to_kernel(d, r))
        leave_to_other(d, r);
}

static bool is_idle(const struct direct_engine *d)
{
    return atomic_load_explicit(&d->with_kernel, memory_order_acquire) == 0;
}

static void complete(struct direct_engine *d, const struct io_event *event)
{
    struct io_request *r = (struct io_request *)(uintptr_t)event->data;
    ssize_t result;

    if (!r) {
        d->quitting = true;
        return;
    }
    assert(!is_idle(d));
    if (io_progress(r, (ssize_t)event->res, &result))
        r->done(r, result);
    else
        leave_to_other(d, r);
    atomic_fetch_sub_explicit(&d->with_kernel, 1, memory_order_relaxed);
}

static void *direct_thread(void *arg)
{
    struct direct_engine *d = arg;
    struct io_event events[IO_DIRECT_DEPTH];

    io_thread_started();
    while (!d->quitting || !is_idle(d)) {
        long n = syscall(SYS_io_getevents, d->context, 1, IO_DIRECT_DEPTH, events, NULL);

        assert(n > 0 || errno == EINTR);
        note_moved(d);
        for (long i = 0; i < n; i++)
            complete(d, &events[i]);
    }
    return NULL;
}

/* --- life --- */

static void direct_free(struct direct_engine *d)
{
    if (d->context != 0)
        syscall(SYS_io_destroy, d->context);
    close_fd(&d->quit_fd);
    free(d);
}

static void direct_destroy(struct io_engine *io)
{
    struct direct_engine *d = from_engine(io);
    static const uint64_t one = 1;
    ssize_t n = write(d->quit_fd, &one, sizeof(one));

    assert(n == (ssize_t)sizeof(one));
    (void)n;
    thread_join(d->thread);
    direct_free(d);
}

/* Without it, the thread could not be told to end: since Linux 4.18. */
static int poll_quit(const struct direct_engine *d)
{
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_POLL,
        .aio_fildes = (uint32_t)d->quit_fd,
        .aio_buf = POLLIN,
    };

    return submit_one(d->context, &request);
}

/* A sandbox may allow to submit and not to ask: then the thread would have nothing to wait for. */
static int can_await(const struct direct_engine *d)
{
    struct timespec at_once = {0};
    struct io_event event;

    return syscall(SYS_io_getevents, d->context, 0, 1, &event, &at_once) < 0 ? -errno : 0;
}

static int set_up(struct direct_engine *d)
{
    int r;

    d->engine = (struct io_engine){IO_KIND_DIRECT, direct_submit, direct_destroy};
    d->quit_fd = eventfd(0, EFD_CLOEXEC);
    if (d->quit_fd < 0 || syscall(SYS_io_setup, IO_DIRECT_DEPTH + 1, &d->context) < 0)
        return -errno;
    r = can_await(d);
    if (r == 0)
        r = poll_quit(d);
    return r < 0 ? r : thread_start(&d->thread, "thaw-aio", direct_thread, d);
}

int io_aio_engine_create(struct io_engine *behind, struct io_engine **ret)
{
    struct direct_engine *d = calloc(1, sizeof(*d));
    int r;

    if (!d)
        return -ENOMEM;
    d->behind = behind;
    r = set_up(d);
    if (r < 0) {
        direct_free(d);
        return r;
    }
    *ret = &d->engine;
    return 0;
}

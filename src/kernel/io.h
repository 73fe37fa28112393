/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_IO_H
#define THAW_KERNEL_IO_H

/*
 * File I/O without waiting: a request is submitted from any thread and completed on the engine's
 * own thread, `thaw-io/N`. The engine is one io_uring that only its thread touches; requests reach
 * it through a mailbox. Where io_uring is forbidden (sysctl, seccomp) the same interface is served
 * by a few threads that call pread(2) and friends.
 *
 * Demand requests overtake background ones that the kernel has not been given yet, and background
 * requests never fill the ring: at most IO_BACKGROUND_MAX of them are with the kernel at a time.
 * A short transfer is continued by the engine; only the end of the file makes a read short.
 */

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/mailbox.h"

struct io_engine;
struct thaw_error;

enum io_op { IO_READ, IO_OPEN };
enum io_priority { IO_DEMAND, IO_BACKGROUND, IO_PRIORITIES };
enum io_kind { IO_KIND_AUTO, IO_KIND_URING, IO_KIND_POOL, IO_KIND_DIRECT };

#define IO_DEPTH          128u /* requests with the kernel at a time */
#define IO_BACKGROUND_MAX 8u   /* of those, background ones */
#define IO_DIRECT_DEPTH   32u /* of a direct engine: less than the queue of any disk has room for */

/**
 * struct io_request - one request; embedded in whatever it is for
 * @op: IO_READ fills @buf; IO_OPEN opens @path below @fd with @flags
 * @iov, @iov_count: unless the count is 0, where to read to in place of @buf; pieces of @len_bytes
 *                   together. The engine changes them.
 * @fd: the file, or for IO_OPEN the folder
 * @done: called on an engine thread when it is over, with the number of bytes (IO_OPEN: the new
 *        descriptor, which the callee owns) or -errno; the request is the caller's again
 *
 * The memory of the request and all that it points to must live until @done.
 */
struct io_request {
    enum io_op op;
    enum io_priority priority;
    int fd;
    int flags;
    const char *path;
    void *buf;
    size_t len_bytes;
    struct iovec *iov;
    unsigned iov_count;
    uint64_t offset;
    void (*done)(struct io_request *self, ssize_t result);

    /* Engine only. */
    struct message msg;
    struct io_engine *engine;
    struct io_request *next;
    size_t transferred;
};

/**
 * io_at_thread_start() - have @fn called first thing on each thread of engines created from now on
 *
 * For what the done() functions would otherwise have to prepare while a guest waits for them. NULL:
 * nothing. Control thread.
 */
void io_at_thread_start(void (*fn)(void));

/**
 * io_engine_create() - start an engine
 * @kind: not IO_KIND_DIRECT; IO_KIND_AUTO is what THAW_IO asks for, "uring" or "pool"; without it,
 *        io_uring is tried first
 *
 * Returns: 0 or -errno with the reason in @e.
 */
[[gnu::warn_unused_result]] int io_engine_create(enum io_kind kind, struct io_engine **ret,
                                                 struct thaw_error *e);

/**
 * io_direct_create() - an engine in front of another one, for reads of files with O_DIRECT
 * @behind: does what this one cannot; borrowed, must outlive it
 *
 * Demand reads are given to the kernel by the thread that submits them: no other one must wake up
 * first. It does not wait for the disk, but it does what a read takes before that: some ten
 * microseconds. (Where others have filled the disk's queue, it waits for a place in it. That is why
 * few are with the kernel at a time, and no more while the disk does not answer.) done() is called
 * on the engine's own thread, `thaw-aio`, or on one of @behind. Everything else goes to @behind.
 *
 * Returns: 0, or -errno: it is not to be had, or the variable THAW_IO names an engine; then @behind
 * does.
 */
[[gnu::warn_unused_result]] int io_direct_create(struct io_engine *behind, struct io_engine **ret);

/**
 * io_engine_destroy() - finish every request that was submitted, then stop. NULL is allowed.
 *
 * What a direct engine has left to the one behind it ends with that one.
 */
void io_engine_destroy(struct io_engine *io);

/** io_engine_kind() - IO_KIND_URING, IO_KIND_POOL or IO_KIND_DIRECT: what was to be had */
enum io_kind io_engine_kind(const struct io_engine *io);

/** io_submit() - hand over @r. Any thread; does not block and does not fail. */
void io_submit(struct io_engine *io, struct io_request *r);

#endif

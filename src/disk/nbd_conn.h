/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_NBD_CONN_H
#define THAW_DISK_NBD_CONN_H

/*
 * One connection of an NBD client: a state machine between a stream of bytes and a disk. Whoever
 * owns it says when the stream may be readable or writable again and calls nbd_conn_run(), which
 * never blocks. All calls are of one thread at a time: that which listens during the handshake,
 * afterwards that of the disk.
 *
 *     handshake --export chosen--> chosen --nbd_conn_attach()--> serving
 *         |                                                        |
 *         |                 the client leaves (NBD_CMD_DISC, end of stream), or we stop
 *         |                                                        v
 *         |                                                     draining: what is under way is
 *         |                                                        |      answered, nothing begun
 *         |    protocol broken, stream broken, deadline            v      nothing left
 *         +----------------------------------------------------> over
 *
 * Requests live in a fixed number of slots, their data in a fixed number of parts; both come with
 * the connection and are all that a client can make us hold. When there is none left, the next
 * request stays in the socket until an answer has been sent: a client that does not read its
 * answers is not read from, either. See README.md for how reads and writes go.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "disk/nbd_handshake.h"

struct disk;
struct disk_request;
struct disk_view;
struct nbd_conn;

#define NBD_SLOTS       128u       /* requests under way in one connection */
#define NBD_SMALL_BYTES (1u << 14) /* buffer of each slot */
#define NBD_LARGE_PARTS 16u        /* buffers for what is longer, which goes piece by piece */
#define NBD_LARGE_BYTES (1u << 18)

static inline void nbd_count(_Atomic(uint64_t) *c, uint64_t n)
{
    /* One writer: no need for a locked instruction. */
    atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n,
                          memory_order_relaxed);
}

/* Counters of an export, all connections together. [a] written by its thread only. */
struct nbd_counters {
    _Atomic(uint64_t) reads, writes, zeroes, trims, flushes, caches, statuses;
    _Atomic(uint64_t) failed;       /* requests answered with an error */
    _Atomic(uint64_t) sent_bytes;   /* data of reads */
    _Atomic(uint64_t) viewed_bytes; /* of them, sent without being copied first */
    _Atomic(uint64_t) received_bytes;
};

/* What a connection stands on. @peer and @disk of the options are handed to the functions. */
struct nbd_conn_ops {
    /** receive() - as recvmsg(2): bytes, 0 at the end of the stream, -EAGAIN, -errno */
    ssize_t (*receive)(void *peer, struct iovec *iov, size_t count);
    /** send() - as sendmsg(2): bytes, -EAGAIN, -EFAULT if memory could not be read, -errno */
    ssize_t (*send)(void *peer, struct iovec *iov, size_t count);
    int (*submit)(struct disk *d, struct disk_request *r);
    void (*cancel)(struct disk *d, struct disk_request *r);
    int (*view)(struct disk *d, uint64_t off, uint32_t len_bytes, struct disk_view *ret);
    void (*view_end)(struct disk *d, struct disk_view *v);
    int (*zeros)(struct disk *d, uint64_t off, uint64_t len_bytes, uint64_t *ret_bytes);
    /** wake() - something was completed outside of nbd_conn_run(): call that soon */
    void (*wake)(void *peer);
};

struct nbd_conn_options {
    const struct nbd_conn_ops *ops; /* must outlive the connection, as all below */
    void *peer;
    const struct nbd_export_info *exports;
    unsigned export_count;
};

/** nbd_conn_create() - a connection in its handshake; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int nbd_conn_create(const struct nbd_conn_options *options,
                                                struct nbd_conn **ret);

/** nbd_conn_destroy() - cancel what the disk has of it, and release it. NULL is allowed. */
void nbd_conn_destroy(struct nbd_conn *c);
DEFINE_CLEANUP(struct nbd_conn, nbd_conn_destroy);
#define CLEANUP_NBD_CONN CLEANUP(cleanup_nbd_conn_destroy)

enum nbd_conn_state {
    NBD_CONN_HANDSHAKE,
    NBD_CONN_CHOSEN, /* see nbd_conn_export() */
    NBD_CONN_SERVING,
    NBD_CONN_DRAINING,
    NBD_CONN_OVER,
};

enum nbd_conn_state nbd_conn_state(const struct nbd_conn *c);

/** nbd_conn_export() - which export the client chose */
unsigned nbd_conn_export(const struct nbd_conn *c);

/** nbd_conn_attach() - begin to serve @d, which is the chosen export */
void nbd_conn_attach(struct nbd_conn *c, struct disk *d, struct nbd_counters *counters);

/** nbd_conn_ready() - the stream may be readable, or writable, again; or the client has closed it
 */
void nbd_conn_ready(struct nbd_conn *c, bool readable, bool writable, bool hung_up);

/**
 * nbd_conn_run() - do what can be done now, in bounded time
 *
 * Returns: whether there is more that could be done at once: call it again after the others.
 */
[[gnu::warn_unused_result]] bool nbd_conn_run(struct nbd_conn *c);

/**
 * nbd_conn_drain() - no request is taken any more; those that have not come far fail with
 * ESHUTDOWN, the others are answered
 */
void nbd_conn_drain(struct nbd_conn *c);

/** nbd_conn_break() - over at once; answers that were not sent are dropped */
void nbd_conn_break(struct nbd_conn *c);

/** nbd_conn_time_out() - the client has taken too long for its handshake: over at once */
void nbd_conn_time_out(struct nbd_conn *c);

/** nbd_conn_error() - why it is over: 0 when the client took its leave, or -errno */
int nbd_conn_error(const struct nbd_conn *c);

#endif

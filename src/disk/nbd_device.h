/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_NBD_DEVICE_H
#define THAW_DISK_NBD_DEVICE_H

/*
 * One export of an NBD server: its disk, its thread, its connections. The thread sleeps in
 * epoll_wait(2) alone. Sockets are watched edge-triggered: a connection remembers what it may do
 * until the kernel has told it otherwise, and epoll is never told twice.
 */

#include <stdatomic.h>

#include "base/thread.h"
#include "disk/nbd_conn.h"
#include "disk/nbd_server.h"

struct nbd_peer;

/* What the devices of a server share. */
struct nbd_shared {
    const struct nbd_export_info *infos; /* borrowed, as the devices */
    struct nbd_device *devices;
    unsigned count;
    _Atomic(unsigned) connections;               /* [a] of all devices, in the handshake too */
    _Atomic(uint64_t) refused, rejected, broken; /* [a] */
};

struct nbd_device {
    struct nbd_shared *shared; /* borrowed */
    unsigned index;
    struct disk *disk; /* owned */
    struct mailbox inbox;
    struct message stop; /* posted at most once, by nbd_device_stop() */
    pthread_t thread;
    bool made, started;
    struct nbd_counters counters;
    _Atomic(unsigned) connections; /* [a] written by the thread */
    _Atomic(uint64_t) connections_total;

    /* [t] the device's thread only */
    int epoll_fd;  /* owned */
    int listen_fd; /* owned; -1: another one listens */
    bool stopping;
    bool cancelled;            /* the disk takes no more */
    uint64_t deadline_ns;      /* of the stop */
    uint64_t accept_again_ns;  /* there was no descriptor for one more connection; 0: there was */
    struct nbd_peer *peers;    /* all connections, the youngest first */
    struct nbd_peer *runnable; /* those that can do something */
    struct nbd_peer *oldest_handshake, *youngest_handshake;
};

/** nbd_device_init() - make the disk; its thread does not run yet */
[[gnu::warn_unused_result]] int nbd_device_init(struct nbd_device *d, struct nbd_shared *shared,
                                                unsigned index, const struct nbd_export *x,
                                                struct thaw_error *e);

/** nbd_device_start() - run; @listen_fd, unless -1, is the device's on success */
[[gnu::warn_unused_result]] int nbd_device_start(struct nbd_device *d, int listen_fd);

/** nbd_device_stop() - tell the thread to end; nbd_device_join() waits for it */
void nbd_device_stop(struct nbd_device *d);
void nbd_device_join(struct nbd_device *d);

/** nbd_device_finish() - release the disk; safe on a device of zeros */
void nbd_device_finish(struct nbd_device *d);

#endif

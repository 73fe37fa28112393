/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_SERVER_H
#define THAW_MEMORY_SERVER_H

/*
 * The memory server of one VM: a unix socket on which a VMM hands over its guest memory, and a
 * thread, thaw-pager/N, that then serves it until the VM ends or the server is stopped.
 *
 * The socket takes one hand-over. A peer that breaks the protocol is dropped, counted, and the
 * socket goes on listening; after a good hand-over it is closed and removed.
 *
 * The thread owns everything of the VM. The control thread sees it through memory_server_status()
 * and an eventfd that becomes readable when the phase changes.
 */

#include <stdint.h>

#include "base/cleanup.h"

struct image;
struct memory_server;
struct thaw_error;

enum memory_phase {
    MEMORY_LISTENING, /* no VMM yet */
    MEMORY_SERVING,   /* faults are answered */
    MEMORY_ENDED,     /* the VM is gone, or the server was stopped */
};

/**
 * struct memory_status - a snapshot
 * @connected_ns, @first_fault_ns: clock_now_ns() of the events, 0 if they have not happened
 * @faults: fault events, and where the page was: ram + disk + store + zero + removed = total
 * @pages_total, @pages_installed: 4 KiB pages of the image, each counted once
 * @installed_bytes: bytes copied into the guest
 * @failed_pages: pages whose bytes could not be had; the guest sees SIGBUS there
 * @failure: -errno of the first of them, at byte @failure_at of guest memory
 * @rejected: connections dropped because they broke the protocol
 */
struct memory_status {
    enum memory_phase phase;
    uint64_t connected_ns;
    uint64_t first_fault_ns;
    struct {
        uint64_t total, ram, disk, store, zero, removed;
    } faults;
    uint64_t pages_total;
    uint64_t pages_installed;
    uint64_t installed_bytes;
    uint64_t failed_pages;
    int failure;
    uint64_t failure_at;
    uint64_t rejected;
    char rejection[200]; /* why the last one was dropped */
};

/**
 * memory_server_create() - listen on @socket_path (made with mode 0600) and start the thread
 * @image: what to serve; must outlive the server
 *
 * Returns: 0, or -errno with the reason in @e; -EADDRINUSE when the path exists.
 */
[[gnu::warn_unused_result]] int memory_server_create(const char *socket_path, struct image *image,
                                                     struct memory_server **ret,
                                                     struct thaw_error *e);

/**
 * memory_server_destroy() - stop serving, remove the socket, end the thread. NULL is allowed.
 *
 * A VM that still runs blocks at its next fault; end it first.
 */
void memory_server_destroy(struct memory_server *s);

DEFINE_CLEANUP(struct memory_server, memory_server_destroy);
#define CLEANUP_MEMORY_SERVER CLEANUP(cleanup_memory_server_destroy)

/** memory_server_event_fd() - readable when the phase has changed since the last status */
int memory_server_event_fd(const struct memory_server *s);

/** memory_server_status() - a snapshot; clears the eventfd. Any thread. */
void memory_server_status(struct memory_server *s, struct memory_status *ret);

#endif

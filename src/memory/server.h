/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_SERVER_H
#define THAW_MEMORY_SERVER_H

/*
 * The memory server of one image: a unix socket on which VMMs hand over their guest memory, and
 * one thread for each VM, thaw-pager/N, that serves it until the VM ends or the server is stopped.
 *
 * The threads take turns at the socket: the first one listens; when it has got a good hand-over it
 * passes the socket on to the next one and serves. After as many VMs as were asked for, the socket
 * is closed and removed, and a further VM is refused by the kernel. A peer that breaks the protocol
 * is dropped, counted, and the socket goes on listening.
 *
 * The control thread sees the VMs through memory_server_status() and an eventfd that becomes
 * readable when there is news.
 *
 * Failure table:
 *
 *   a hand-over is broken, silent, or does not fit   dropped, counted, told; the socket listens on
 *   a page cannot be read or verified                poisoned (see memory/pager.h), told
 *   a VM ends (pidfd, or its connection without one) its thread lands its fetches and ends
 *   thaw stops                                       the same; a VM that runs on blocks when it
 *                                                    touches a page that is not there
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"

struct image;
struct memory_server;
struct thaw_error;

#define MEMORY_VMS_MAX 1024u

enum memory_phase {
    MEMORY_LISTENING, /* no VMM yet */
    MEMORY_SERVING,   /* faults of at least one VM were, or are, answered */
    MEMORY_ENDED,     /* every VM that was to be served is gone */
};

/**
 * struct memory_server_options - what to serve to whom
 * @socket_path: made by the server, and removed
 * @image: must outlive the server
 * @vms: how many VMs to serve, 1 to MEMORY_VMS_MAX
 * @owner_uid, @owner_gid: who may connect, besides root; -1: whoever we are
 * @populate: install everything in the background, besides answering faults
 */
struct memory_server_options {
    const char *socket_path;
    struct image *image;
    unsigned vms;
    uid_t owner_uid;
    gid_t owner_gid;
    bool populate;
};

/**
 * struct memory_status - a snapshot, all VMs together
 * @connected_ns, @first_fault_ns, @populated_ns: clock_now_ns() of the first such event, 0 if it
 *     has not happened
 * @faults: fault events, and where the page was: ram + disk + store + zero + removed = total
 * @pages_total, @pages_installed: 4 KiB pages of guest memory, each counted once for each VM
 * @installed_bytes: bytes copied into guests
 * @failed_pages: pages whose bytes could not be had; the guest sees SIGBUS there
 * @failure: -errno of the first of them, at byte @failure_at of guest memory
 * @connected, @ended: how many VMs have come, and gone
 * @rejected: connections dropped because they broke the protocol
 */
struct memory_status {
    enum memory_phase phase;
    uint64_t connected_ns;
    uint64_t first_fault_ns;
    uint64_t populated_ns;
    struct {
        uint64_t total, ram, disk, store, zero, removed;
    } faults;
    uint64_t pages_total;
    uint64_t pages_installed;
    uint64_t installed_bytes;
    uint64_t failed_pages;
    int failure;
    uint64_t failure_at;
    unsigned connected;
    unsigned ended;
    uint64_t rejected;
    char rejection[500]; /* why the last one was dropped */
};

/**
 * memory_server_create() - listen (socket mode 0600) and start the first thread
 *
 * Returns: 0, or -errno with the reason in @e; -EADDRINUSE when the path exists.
 */
[[gnu::warn_unused_result]] int memory_server_create(const struct memory_server_options *options,
                                                     struct memory_server **ret,
                                                     struct thaw_error *e);

/**
 * memory_server_destroy() - stop serving, remove the socket, end the threads. NULL is allowed.
 *
 * A VM that still runs blocks at its next fault; end it first.
 */
void memory_server_destroy(struct memory_server *s);

DEFINE_CLEANUP(struct memory_server, memory_server_destroy);
#define CLEANUP_MEMORY_SERVER CLEANUP(cleanup_memory_server_destroy)

/** memory_server_event_fd() - readable when there is news since the last status */
int memory_server_event_fd(const struct memory_server *s);

/** memory_server_status() - a snapshot; clears the eventfd. Any thread. */
void memory_server_status(struct memory_server *s, struct memory_status *ret);

#endif

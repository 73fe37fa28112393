/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_NBD_SERVER_H
#define THAW_DISK_NBD_SERVER_H

/*
 * An NBD server: disks of builds, exported on one unix socket, each served by a thread of its own,
 * thaw-nbd/N. The thread of the first export also listens and shakes hands; a connection that
 * chooses another one is handed to its thread.
 *
 * Failure table:
 *
 *   a client breaks the protocol, or vanishes     its connection is closed, its requests given up;
 *                                                 the others notice nothing
 *   a client does not read its answers            it is not read from, either: its 128 requests and
 *                                                 6 MiB of buffers are all that it holds
 *   a client says nothing in the handshake        closed after NBD_HANDSHAKE_SECONDS
 *   too many clients                              closed at once, counted as refused
 *   bytes cannot be had, or do not verify         EIO for that request
 *   the server is stopped                         see nbd_server_stop()
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/uuid.h"
#include "disk/disk.h"
#include "disk/nbd_handshake.h"

struct image;
struct nbd_server;
struct thaw_error;

#define NBD_CONNECTIONS_MAX   64u
#define NBD_HANDSHAKE_SECONDS 10u
#define NBD_GRACE_SECONDS     5u

/**
 * struct nbd_export - one disk
 * @name: what a client asks for, up to NBD_NAME_MAX_BYTES; "" also stands for the first export
 * @description: for a person, up to NBD_DESCRIPTION_MAX_BYTES; NULL for none
 * @image, @build, @read_only: see struct disk_options
 */
struct nbd_export {
    const char *name;
    const char *description;
    struct image *image;
    struct uuid build;
    bool read_only;
};

/**
 * struct nbd_server_options - what to serve to whom
 * @socket_path: made by the server, and removed
 * @owner_uid, @owner_gid: who may connect, besides root; -1: whoever we are
 * @exports: their names differ
 * @export_count: 1 to NBD_EXPORTS_MAX
 */
struct nbd_server_options {
    const char *socket_path;
    uid_t owner_uid;
    gid_t owner_gid;
    const struct nbd_export *exports;
    unsigned export_count;
};

/**
 * nbd_server_create() - make the disks, listen (socket mode 0600), start the threads
 *
 * Control thread. Returns: 0, or -errno with the reason in @e; -EADDRINUSE when the path exists.
 */
[[gnu::warn_unused_result]] int nbd_server_create(const struct nbd_server_options *options,
                                                  struct nbd_server **ret, struct thaw_error *e);

/**
 * nbd_server_stop() - serve no more; the disks stay, with what was written to them
 *
 * Requests that were taken are answered, and the connections closed. What has no answer after
 * NBD_GRACE_SECONDS, as its bytes have not come, fails with ESHUTDOWN. A request that was not taken
 * gets no answer but the end of the connection, so that a client that connects anew repeats it.
 *
 * Control thread; blocks until the threads have ended. A second call does nothing.
 */
void nbd_server_stop(struct nbd_server *s);

/** nbd_server_destroy() - stop it, and release the disks with all that was written. NULL is
 *  allowed. */
void nbd_server_destroy(struct nbd_server *s);
DEFINE_CLEANUP(struct nbd_server, nbd_server_destroy);
#define CLEANUP_NBD_SERVER CLEANUP(cleanup_nbd_server_destroy)

/** nbd_server_disk() - the disk of export @index, the caller's to use once the server is stopped */
struct disk *nbd_server_disk(struct nbd_server *s, unsigned index);

/**
 * struct nbd_export_status - what an export has done
 * @connections: now; @connections_total: ever
 * @reads to @statuses: requests of each kind; @failed: those that were answered with an error
 * @read_bytes, @written_bytes: asked for, and taken, by clients
 * @viewed_bytes: of what was read, sent from where it lay
 * @disk: its own counters
 */
struct nbd_export_status {
    unsigned connections;
    uint64_t connections_total;
    uint64_t reads, writes, zeroes, trims, flushes, caches, statuses;
    uint64_t failed;
    uint64_t read_bytes, written_bytes, viewed_bytes;
    struct disk_counters disk;
};

/**
 * struct nbd_status - a snapshot
 * @refused: connections beyond NBD_CONNECTIONS_MAX
 * @rejected: those that did not get through the handshake
 * @broken: those that ended in mid-service: the client broke the protocol, or vanished
 */
struct nbd_status {
    uint64_t refused, rejected, broken;
    unsigned export_count;
    struct nbd_export_status exports[NBD_EXPORTS_MAX];
};

/** nbd_server_status() - a snapshot. Any thread. */
void nbd_server_status(const struct nbd_server *s, struct nbd_status *ret);

#endif

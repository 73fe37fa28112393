/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_SANDBOX_ROOT_DISK_H
#define THAW_SANDBOX_ROOT_DISK_H

/*
 * The root disk of a sandbox: the build's image of it, and an NBD server in front. Each VM gets an
 * export of its own, since each writes to its own overlay; the image is common to all. Control
 * thread only.
 */

#include <sys/types.h>

#include "disk/nbd_server.h"

struct fetch;
struct image;
struct manifest;
struct store;
struct thaw_error;

#define ROOT_DISK_EXPORT "rootfs" /* the only one; of several, "rootfs-0", "rootfs-1", ... */

struct root_disk {
    struct image *image; /* owned, as is all below; NULL: the build has no root disk */
    struct nbd_server *server;
    char *socket;
    char **exports; /* NULL-terminated */
};

/** root_disk_open() - open the image, if the build of @m has one. Serves nothing yet. */
[[gnu::warn_unused_result]] int root_disk_open(struct root_disk *d, struct fetch *fetch,
                                               struct store *store, const struct manifest *m,
                                               struct thaw_error *e);

/**
 * root_disk_serve() - listen on "disk.sock" in @run_dir
 * @vms: how many exports to make
 * @uid, @gid: who may connect besides root; -1: whoever we are
 *
 * Without an image nothing happens.
 */
[[gnu::warn_unused_result]] int root_disk_serve(struct root_disk *d, const struct manifest *m,
                                                const char *run_dir, unsigned vms, uid_t uid,
                                                gid_t gid, struct thaw_error *e);

/** root_disk_counters() - of all exports together; untouched when nothing is served */
void root_disk_counters(const struct root_disk *d, struct disk_counters *ret);

/** root_disk_stop() - close the connections, forget what was written. May be called again. */
void root_disk_stop(struct root_disk *d);

/** root_disk_finish() - stop, release everything. Safe on zeroed memory. */
void root_disk_finish(struct root_disk *d);

#endif

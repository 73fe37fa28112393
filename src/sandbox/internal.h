/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_SANDBOX_INTERNAL_H
#define THAW_SANDBOX_INTERNAL_H

/* The parts of a sandbox, between resume.c (up), wait.c (while it runs) and sandbox.c (down). */

#include "fetch/fetch.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/image.h"
#include "memory/server.h"
#include "observe/timeline.h"
#include "sandbox/janitor.h"
#include "sandbox/root_disk.h"
#include "sandbox/sandbox.h"
#include "vmm/vmm.h"

struct sandbox {
    struct fetch *fetch;          /* borrowed */
    struct fetch_counters before; /* of the fetcher, which others have used, too */
    struct store *store;          /* borrowed */
    char build[UUID_TEXT_BYTES];
    char *run_dir;        /* owned, as are the paths below it */
    size_t jail_root_len; /* how much of the paths a jailed VMM does not see; 0: no jail */
    char *memory_socket;
    char *snapfile; /* NULL: the build has none */
    char *log;
    int snapfile_fd; /* owned */
    struct janitor janitor;
    struct manifest *manifest;        /* owned */
    struct metadata *metadata;        /* owned */
    struct image *memory;             /* owned */
    struct memory_server *server;     /* owned; NULL once stopped */
    struct root_disk disk;            /* owned; empty when the build has none */
    struct disk_counters disk_status; /* of all exports; final after stop */
    const struct vmm_driver *driver;
    struct vmm *vmm; /* owned; NULL once stopped */
    struct timeline timeline;
    struct memory_status status; /* the last one seen; final after stop */
    uint64_t rejected_told;      /* connections of which somebody has been warned */
    bool failure_told;
    bool stopped;
};

/** sandbox_refresh() - take a new status of the memory server, unless it is stopped */
void sandbox_refresh(struct sandbox *s);

/** sandbox_failure_text() - which page could not be served, and why; status.failed_pages > 0 */
void sandbox_failure_text(const struct sandbox *s, char *ret, size_t len);

#endif

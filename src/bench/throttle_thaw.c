/* SPDX-License-Identifier: Apache-2.0 */

/* The rows of `thaw bench throttle` that thaw itself serves, as `thaw resume` puts it together. */
#include "bench/throttle_run.h"

#include <errno.h>

#include "base/uuid.h"
#include "bench/timed_store.h"
#include "disk/nbd_server.h"
#include "fetch/fetch.h"
#include "format/manifest.h"
#include "image/image.h"
#include "kernel/io.h"
#include "memory/server.h"
#include "store/store.h"

/* Everything is left to the end of the process. */
struct parts {
    struct io_engine *io;
    struct store *below, *store;
    struct manifest *manifest;
    struct fetch *memory_fetch, *disk_fetch;
    struct image *memory, *disk;
    _Atomic(struct memory_server *) memory_server; /* [a] the watch looks while it is made */
    struct nbd_server *disk_server;
};

static uint64_t served_bytes(void *arg)
{
    struct parts *p = arg;
    struct memory_server *server = atomic_load(&p->memory_server);
    struct memory_status status;

    if (!server)
        return 0;
    memory_server_status(server, &status);
    return status.installed_bytes;
}

/*
 * What keeps nothing has the least budget there is, where each granule is fetched, verified,
 * published and installed, and then makes room for the next one. The disk has a budget of its own
 * then, as there is no room for what is written otherwise.
 */
static int open_caches(struct parts *p, const struct run_job *job, struct thaw_error *e)
{
    struct cache_set_options options = {
        .backing = job->backing,
        .folder = job->folder,
        .io = p->io,
        .budget_bytes = 2 * (job->memory_bytes + job->disk_bytes) + CACHE_BUDGET_MIN,
    };
    struct cache_set *set, *disk_set;
    int r;

    if (!job->keep)
        options.budget_bytes = CACHE_BUDGET_MIN;
    else if (job->budget_bytes)
        options.budget_bytes = job->budget_bytes;
    r = cache_set_create(&options, &set, e);
    if (r == 0)
        r = fetch_create(set, &p->memory_fetch, e);
    if (r < 0)
        return r;
    p->disk_fetch = p->memory_fetch;
    if (job->keep)
        return 0;
    r = cache_set_create(&options, &disk_set, e);
    return r < 0 ? r : fetch_create(disk_set, &p->disk_fetch, e);
}

static int open_build(struct parts *p, const struct run_job *job, struct thaw_error *e)
{
    struct uuid id;
    int r = uuid_parse(job->build, &id);

    if (r < 0)
        return err_errno(e, r, "build %s", job->build);
    r = store_open(job->store, p->io, false, &p->below, e);
    if (r == 0)
        r = build_manifest_load(p->below, &id, &p->manifest, e);
    if (r < 0)
        return r;
    r = timed_store_create(p->below, run_record_store, job->record, &p->store);
    return r < 0 ? err_errno(e, r, "timing the store") : 0;
}

static int open_images(struct parts *p, struct thaw_error *e)
{
    int r = image_open(p->memory_fetch, p->store, p->manifest, IMAGE_MEMORY, &p->memory, e);

    return r < 0 ? r : image_open(p->disk_fetch, p->store, p->manifest, IMAGE_ROOTFS, &p->disk, e);
}

static int listen_for_guest(struct parts *p, const struct run_job *job, struct thaw_error *e)
{
    struct nbd_export export = {.name = "", .image = p->disk, .build = p->manifest->build};
    struct memory_server *server;
    int r = memory_server_create(
        &(struct memory_server_options){
            .socket_path = job->memory_socket,
            .image = p->memory,
            .vms = 1,
            .owner_uid = (uid_t)-1,
            .owner_gid = (gid_t)-1,
        },
        &server, e);

    if (r < 0)
        return r;
    atomic_store(&p->memory_server, server);
    return nbd_server_create(
        &(struct nbd_server_options){
            .socket_path = job->disk_socket,
            .owner_uid = (uid_t)-1,
            .owner_gid = (gid_t)-1,
            .exports = &export,
            .export_count = 1,
        },
        &p->disk_server, e);
}

int run_serve_thaw(const struct run_job *job, int control, struct thaw_error *e)
{
    static struct parts parts;
    struct throttle *watch;
    int r = run_watch(job, served_bytes, &parts, &watch, e);

    if (r == 0)
        r = io_engine_create(IO_KIND_AUTO, &parts.io, e);
    if (r == 0)
        r = open_caches(&parts, job, e);
    if (r == 0)
        r = open_build(&parts, job, e);
    if (r == 0)
        r = open_images(&parts, e);
    if (r == 0)
        r = listen_for_guest(&parts, job, e);
    if (r == 0)
        run_serve(job, control, watch);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/nbd_server.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/units.h"
#include "disk/nbd_device.h"
#include "image/image.h"
#include "kernel/unix_socket.h"

#define LISTEN_BACKLOG 64

struct nbd_server {
    char *socket_path;             /* owned */
    struct nbd_export_info *infos; /* owned, with their strings */
    struct nbd_device *devices;    /* owned */
    unsigned count;                /* of both */
    struct nbd_shared shared;
    bool listening; /* the socket is in the file system */
};

/* --- up --- */

static int check_options(const struct nbd_server_options *o, struct thaw_error *e)
{
    if (o->export_count < 1 || o->export_count > NBD_EXPORTS_MAX)
        return err_set(e, -EINVAL, "%u exports: an NBD server takes 1 to %u", o->export_count,
                       NBD_EXPORTS_MAX);
    for (unsigned i = 0; i < o->export_count; i++) {
        const struct nbd_export *x = &o->exports[i];

        if (strlen(x->name) > NBD_NAME_MAX_BYTES)
            return err_set(e, -ENAMETOOLONG, "name of NBD export %u: the limit is %u bytes", i,
                           NBD_NAME_MAX_BYTES);
        if (x->description && strlen(x->description) > NBD_DESCRIPTION_MAX_BYTES)
            return err_set(e, -ENAMETOOLONG,
                           "description of NBD export '%s': the limit is %u bytes", x->name,
                           NBD_DESCRIPTION_MAX_BYTES);
        for (unsigned j = 0; j < i; j++) {
            if (strcmp(x->name, o->exports[j].name) == 0)
                return err_set(e, -EEXIST, "two NBD exports have the name '%s'", x->name);
        }
    }
    return 0;
}

static int make_info(struct nbd_export_info *info, const struct nbd_export *x)
{
    info->name = strdup(x->name);
    info->description = strdup(x->description ? x->description : "");
    info->bytes = image_bytes(x->image);
    info->read_only = x->read_only;
    return info->name && info->description ? 0 : -ENOMEM;
}

static int make_devices(struct nbd_server *s, const struct nbd_server_options *o,
                        struct thaw_error *e)
{
    s->infos = calloc(o->export_count, sizeof(*s->infos));
    s->devices = calloc(o->export_count, sizeof(*s->devices));
    s->socket_path = strdup(o->socket_path);
    if (!s->infos || !s->devices || !s->socket_path)
        return err_set(e, -ENOMEM, "no memory for an NBD server");
    s->count = o->export_count;
    s->shared.infos = s->infos;
    s->shared.devices = s->devices;
    s->shared.count = s->count;
    for (unsigned i = 0; i < s->count; i++) {
        int r = make_info(&s->infos[i], &o->exports[i]);

        if (r < 0)
            return err_set(e, r, "no memory for an NBD server");
        r = nbd_device_init(&s->devices[i], &s->shared, i, &o->exports[i], e);
        if (r < 0)
            return r;
    }
    return 0;
}

/* The one that listens comes last: when it hands on a connection, the others run. */
static int start_devices(struct nbd_server *s, const struct nbd_server_options *o,
                         struct thaw_error *e)
{
    struct unix_listen_options at = {
        .path = o->socket_path,
        .owner_uid = o->owner_uid,
        .owner_gid = o->owner_gid,
        .backlog = LISTEN_BACKLOG,
    };
    int listen_fd CLEANUP_FD = unix_listen(&at, e);

    if (listen_fd < 0)
        return listen_fd;
    s->listening = true;
    for (unsigned i = s->count; i-- > 0;) {
        int r = nbd_device_start(&s->devices[i], i == 0 ? listen_fd : -1);

        if (r < 0)
            return err_errno(e, r, "starting the thread of an NBD export");
    }
    (void)TAKE_FD(listen_fd);
    return 0;
}

int nbd_server_create(const struct nbd_server_options *options, struct nbd_server **ret,
                      struct thaw_error *e)
{
    struct nbd_server *s CLEANUP_NBD_SERVER = NULL;
    int r = check_options(options, e);

    if (r < 0)
        return r;
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, -ENOMEM, "no memory for an NBD server");
    r = make_devices(s, options, e);
    if (r == 0)
        r = start_devices(s, options, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(s);
    return 0;
}

/* --- down --- */

void nbd_server_stop(struct nbd_server *s)
{
    if (s->listening)
        unlink(s->socket_path);
    s->listening = false;
    if (s->count == 0)
        return;
    /* First the one that hands on connections: no message comes to the others after their stop. */
    nbd_device_stop(&s->devices[0]);
    nbd_device_join(&s->devices[0]);
    for (unsigned i = 1; i < s->count; i++)
        nbd_device_stop(&s->devices[i]);
    for (unsigned i = 1; i < s->count; i++)
        nbd_device_join(&s->devices[i]);
}

void nbd_server_destroy(struct nbd_server *s)
{
    if (!s)
        return;
    nbd_server_stop(s);
    for (unsigned i = 0; i < s->count; i++) {
        nbd_device_finish(&s->devices[i]);
        free((char *)(uintptr_t)s->infos[i].name);
        free((char *)(uintptr_t)s->infos[i].description);
    }
    free(s->devices);
    free(s->infos);
    free(s->socket_path);
    free(s);
}

struct disk *nbd_server_disk(struct nbd_server *s, unsigned index)
{
    return s->devices[index].disk;
}

/* --- status --- */

static uint64_t counter(const _Atomic(uint64_t) *c)
{
    return atomic_load_explicit(c, memory_order_relaxed);
}

static void export_status(const struct nbd_device *d, struct nbd_export_status *ret)
{
    const struct nbd_counters *c = &d->counters;

    *ret = (struct nbd_export_status){
        .connections = atomic_load_explicit(&d->connections, memory_order_relaxed),
        .connections_total = counter(&d->connections_total),
        .reads = counter(&c->reads),
        .writes = counter(&c->writes),
        .zeroes = counter(&c->zeroes),
        .trims = counter(&c->trims),
        .flushes = counter(&c->flushes),
        .caches = counter(&c->caches),
        .statuses = counter(&c->statuses),
        .failed = counter(&c->failed),
        .read_bytes = counter(&c->sent_bytes),
        .written_bytes = counter(&c->received_bytes),
        .viewed_bytes = counter(&c->viewed_bytes),
        .disk = disk_counters(d->disk),
    };
}

void nbd_server_status(const struct nbd_server *s, struct nbd_status *ret)
{
    *ret = (struct nbd_status){
        .refused = counter(&s->shared.refused),
        .rejected = counter(&s->shared.rejected),
        .broken = counter(&s->shared.broken),
        .export_count = s->count,
    };
    for (unsigned i = 0; i < s->count; i++)
        export_status(&s->devices[i], &ret->exports[i]);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/root_disk.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "format/manifest.h"
#include "image/build.h"
#include "image/image.h"
#include "sandbox/run_dir.h"

#define SOCKET_NAME "disk.sock"

int root_disk_open(struct root_disk *d, struct fetch *fetch, struct store *store,
                   const struct manifest *m, struct thaw_error *e)
{
    char header[OBJECT_NAME_BYTES];

    if (!manifest_find(m, build_header_name(IMAGE_ROOTFS, header)))
        return 0;
    return image_open(fetch, store, m, IMAGE_ROOTFS, &d->image, e);
}

static void free_names(char **names)
{
    for (size_t i = 0; names && names[i]; i++)
        free(names[i]);
    free(names);
}

static char **make_names(unsigned n)
{
    char **names = calloc(n + 1, sizeof(*names));

    for (unsigned i = 0; names && i < n; i++) {
        int len = n == 1 ? asprintf(&names[i], ROOT_DISK_EXPORT)
                         : asprintf(&names[i], ROOT_DISK_EXPORT "-%u", i);

        if (len < 0) {
            names[i] = NULL;
            free_names(names);
            return NULL;
        }
    }
    return names;
}

int root_disk_serve(struct root_disk *d, const struct manifest *m, const char *run_dir,
                    unsigned vms, uid_t uid, gid_t gid, struct thaw_error *e)
{
    struct nbd_export *exports CLEANUP_FREE = NULL;

    if (!d->image)
        return 0;
    d->socket = run_dir_path(run_dir, SOCKET_NAME);
    d->exports = make_names(vms);
    exports = calloc(vms, sizeof(*exports));
    if (!d->socket || !d->exports || !exports)
        return err_set(e, -ENOMEM, "no memory for %u disks", vms);
    for (unsigned i = 0; i < vms; i++)
        exports[i] = (struct nbd_export){
            .name = d->exports[i],
            .image = d->image,
            .build = m->build,
        };
    return nbd_server_create(
        &(struct nbd_server_options){
            .socket_path = d->socket,
            .owner_uid = uid,
            .owner_gid = gid,
            .exports = exports,
            .export_count = vms,
        },
        &d->server, e);
}

void root_disk_counters(const struct root_disk *d, struct disk_counters *ret)
{
    struct nbd_status status;

    if (!d->server)
        return;
    nbd_server_status(d->server, &status);
    *ret = (struct disk_counters){0};
    for (unsigned i = 0; i < status.export_count; i++) {
        const struct nbd_export_status *x = &status.exports[i];

        ret->reads += x->reads;
        ret->writes += x->writes;
        ret->zeroes += x->zeroes;
        ret->trims += x->trims;
        ret->flushes += x->flushes;
        ret->failed += x->failed;
        ret->read_bytes += x->read_bytes;
        ret->written_bytes += x->written_bytes;
        ret->waited += x->disk.waited;
        ret->dirty_bytes += x->disk.dirty_bytes;
        ret->spilled_bytes += x->disk.spilled_bytes;
        ret->paced += x->disk.paced;
    }
}

void root_disk_stop(struct root_disk *d)
{
    nbd_server_destroy(TAKE_PTR(d->server));
}

void root_disk_finish(struct root_disk *d)
{
    root_disk_stop(d);
    image_close(TAKE_PTR(d->image));
    free(TAKE_PTR(d->socket));
    free_names(TAKE_PTR(d->exports));
}

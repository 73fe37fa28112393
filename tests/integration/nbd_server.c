/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Serves disks of builds by NBD, as a program to be tested from outside:
 *
 *   nbd_server STORE SOCKET [--read-only] NAME=BUILD...
 *
 * Prints a line of JSON once it serves, and another with what was done when SIGTERM ends it.
 */

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

#include "base/error.h"
#include "base/units.h"
#include "cache/set.h"
#include "disk/nbd_server.h"
#include "fetch/fetch.h"
#include "format/manifest.h"
#include "image/image.h"
#include "kernel/io.h"
#include "store/store.h"

struct served {
    struct io_engine *io;
    struct store *store;
    struct cache_set *caches;
    struct fetch *fetch;
    struct manifest *manifests[NBD_EXPORTS_MAX];
    struct image *images[NBD_EXPORTS_MAX];
    struct nbd_export exports[NBD_EXPORTS_MAX];
    unsigned count;
};

static int add_export(struct served *s, const char *arg, bool read_only, struct thaw_error *e)
{
    const char *equals = strchr(arg, '=');
    struct nbd_export *x = &s->exports[s->count];
    int r;

    if (!equals || s->count == NBD_EXPORTS_MAX || uuid_parse(equals + 1, &x->build) < 0)
        return err_set(e, -EINVAL, "%s: not NAME=BUILD, or one too many", arg);
    r = build_manifest_load(s->store, &x->build, &s->manifests[s->count], e);
    if (r == 0)
        r = image_open(s->fetch, s->store, s->manifests[s->count], IMAGE_ROOTFS,
                       &s->images[s->count], e);
    if (r < 0)
        return r;
    x->name = strndup(arg, (size_t)(equals - arg));
    x->description = "a disk";
    x->image = s->images[s->count];
    x->read_only = read_only;
    s->count++;
    return x->name ? 0 : err_set(e, -ENOMEM, "no memory for a name");
}

static int set_up(struct served *s, int argc, char **argv, struct thaw_error *e)
{
    bool read_only = false;
    int r = io_engine_create(IO_KIND_AUTO, &s->io, e);

    if (r == 0)
        r = store_open(argv[1], s->io, false, &s->store, e);
    if (r == 0)
        r = cache_set_create(&(struct cache_set_options){0}, &s->caches, e);
    if (r == 0)
        r = fetch_create(s->caches, &s->fetch, e);
    for (int i = 3; i < argc && r == 0; i++) {
        if (strcmp(argv[i], "--read-only") == 0)
            read_only = true;
        else
            r = add_export(s, argv[i], read_only, e);
    }
    return r;
}

static void tear_down(struct served *s)
{
    for (unsigned i = 0; i < s->count; i++) {
        image_close(s->images[i]);
        manifest_destroy(s->manifests[i]);
        free((char *)(uintptr_t)s->exports[i].name);
    }
    fetch_destroy(s->fetch);
    cache_set_destroy(s->caches);
    store_close(s->store);
    io_engine_destroy(s->io);
}

static void print_status(const struct nbd_server *server)
{
    struct nbd_status st;

    nbd_server_status(server, &st);
    printf("{\"refused\":%" PRIu64 ",\"rejected\":%" PRIu64 ",\"broken\":%" PRIu64 ",\"exports\":[",
           st.refused, st.rejected, st.broken);
    for (unsigned i = 0; i < st.export_count; i++) {
        const struct nbd_export_status *x = &st.exports[i];

        printf("%s{\"connections\":%u,\"connections_total\":%" PRIu64 ",\"reads\":%" PRIu64
               ",\"writes\":%" PRIu64 ",\"zeroes\":%" PRIu64 ",\"trims\":%" PRIu64
               ",\"flushes\":%" PRIu64 ",\"caches\":%" PRIu64 ",\"statuses\":%" PRIu64
               ",\"failed\":%" PRIu64 ",\"read_bytes\":%" PRIu64 ",\"written_bytes\":%" PRIu64
               ",\"viewed_bytes\":%" PRIu64 ",\"dirty_bytes\":%" PRIu64 "}",
               i ? "," : "", x->connections, x->connections_total, x->reads, x->writes, x->zeroes,
               x->trims, x->flushes, x->caches, x->statuses, x->failed, x->read_bytes,
               x->written_bytes, x->viewed_bytes, x->disk.dirty_bytes);
    }
    printf("]}\n");
    fflush(stdout);
}

/* SIGUSR1 prints a status, SIGTERM ends. */
static void serve(struct nbd_server *server, const sigset_t *signals)
{
    int number = 0;

    printf("{\"serving\":true}\n");
    fflush(stdout);
    while (number != SIGTERM) {
        if (sigwait(signals, &number) == 0 && number == SIGUSR1)
            print_status(server);
    }
    nbd_server_stop(server);
    print_status(server);
}

int main(int argc, char **argv)
{
    struct served s = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct nbd_server *server = NULL;
    sigset_t signals;
    int r;

    if (argc < 4) {
        fprintf(stderr, "usage: nbd_server STORE SOCKET [--read-only] NAME=BUILD...\n");
        return 2;
    }
    sigemptyset(&signals);
    sigaddset(&signals, SIGTERM);
    sigaddset(&signals, SIGUSR1);
    sigprocmask(SIG_BLOCK, &signals, NULL);
    r = set_up(&s, argc, argv, &e);
    if (r == 0)
        r = nbd_server_create(
            &(struct nbd_server_options){
                .socket_path = argv[2],
                .owner_uid = (uid_t)-1,
                .owner_gid = (gid_t)-1,
                .exports = s.exports,
                .export_count = s.count,
            },
            &server, &e);
    if (r == 0)
        serve(server, &signals);
    else
        fprintf(stderr, "nbd_server: %s\n", e.text);
    nbd_server_destroy(server);
    tear_down(&s);
    return r == 0 ? 0 : 1;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "lib/host.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "fetch/fetch.h"
#include "flags/flags.h"
#include "kernel/io.h"
#include "lib/host_metrics.h"
#include "lib/host_pressure.h"
#include "lib/options.h"
#include "observe/metrics.h"
#include "observe/metrics_server.h"
#include "store/store.h"

static void close_stores(struct host_store *s)
{
    while (s) {
        struct host_store *next = s->next;

        store_close(s->store);
        free(s->name);
        free(s);
        s = next;
    }
}

void thaw_host_close(struct thaw_host *h)
{
    if (!h)
        return;
    metrics_server_stop(h->metrics);
    host_metrics_stop(h->watches);
    host_pressure_stop(h->pressure);
    for (size_t i = 0; i < CACHE_BACKINGS; i++) {
        fetch_destroy(h->caches[i].fetch);
        cache_set_destroy(host_set(h, (enum cache_backing)i));
    }
    close_stores(h->stores);
    io_engine_destroy(h->disk_io);
    io_engine_destroy(h->io);
    flags_close(h->flags);
    free(h->folder);
    free(h);
}

static int open_flags(struct thaw_host *h, const struct thaw_host_options *o, struct thaw_error *e)
{
    return flags_open(
        &(struct flags_options){
            .file = o->flags_file,
            .overrides = o->flags,
            .warn = o->warn,
            .warn_arg = o->warn_arg,
        },
        &h->flags, e);
}

static int take_options(struct thaw_host *h, const struct thaw_host_options *o,
                        struct thaw_error *e)
{
    h->backing = CACHE_BACKING_TIERED;
    h->backing_given = o->cache_backing != NULL;
    if (o->cache_backing && cache_backing_parse(o->cache_backing, &h->backing) < 0)
        return err_set(e, -EINVAL,
                       "there is no cache backing '%s'; there are tiered, memfd and file",
                       o->cache_backing);
    h->disk_budget = o->disk_budget;
    h->no_disk = o->no_disk;
    h->warn = o->warn;
    h->warn_arg = o->warn_arg;
    if (host_huge_init(h, o, e) < 0)
        return -EINVAL;
    host_budget_init(h, o);
    if (o->cache_dir) {
        h->folder = strdup(o->cache_dir);
        if (!h->folder)
            return err_set(e, -ENOMEM, "no memory for a path");
    }
    return 0;
}

static int set_up(struct thaw_host *h, const struct thaw_host_options *o, struct thaw_error *e)
{
    struct fetch *fetch;
    int r = take_options(h, o, e);

    if (r == 0)
        r = open_flags(h, o, e);
    if (r == 0)
        host_budget_follow(h);
    io_at_thread_start(metrics_thread_begin);
    if (r == 0)
        r = io_engine_create(IO_KIND_AUTO, &h->io, e);
    /* What cannot be set up is told now and not at the first resume. */
    if (r == 0)
        r = host_fetch(h, &fetch, e);
    if (r == 0 && o->metrics)
        r = host_metrics_start(h, &h->watches, e);
    if (r == 0 && o->metrics)
        r = metrics_server_start(o->metrics, &h->metrics, e);
    return r;
}

int thaw_host_open(const struct thaw_host_options *options, struct thaw_host **ret,
                   struct thaw_error *e)
{
    struct thaw_host_options o = {0};
    struct thaw_host *h;
    int r = OPTIONS_COPY(&o, options, e);

    if (r < 0)
        return r;
    h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(e, -ENOMEM, "no memory for a host");
    r = set_up(h, &o, e);
    if (r < 0) {
        thaw_host_close(h);
        return r;
    }
    *ret = h;
    return 0;
}

enum cache_backing host_backing(struct thaw_host *h, char source[THAW_SOURCE_BYTES])
{
    const char *given = h->backing_given ? "option" : "default";
    bool memfd = flags_bool(h->flags, FLAG_LOCAL_CACHE_MEMFD);

    if (!source)
        return memfd ? CACHE_BACKING_MEMFD : h->backing;
    if (memfd)
        snprintf(source, THAW_SOURCE_BYTES, "flag local-cache-memfd (%s)",
                 flags_source_text(h->flags, FLAG_LOCAL_CACHE_MEMFD));
    else
        snprintf(source, THAW_SOURCE_BYTES, "%s", given);
    return memfd ? CACHE_BACKING_MEMFD : h->backing;
}

struct cache_set *host_set(struct thaw_host *h, enum cache_backing backing)
{
    /* Acquire pairs with the release in host_fetch(): who sees the set sees what is in it. */
    return atomic_load_explicit(&h->caches[backing].set, memory_order_acquire);
}

static void warn_of_disk(struct thaw_host *h, const struct thaw_error *why)
{
    char text[sizeof(why->text) + 64];

    if (!h->warn)
        return;
    snprintf(text, sizeof(text), "going on without a disk tier of the cache: %s", why->text);
    h->warn(h->warn_arg, text);
}

/* NULL: there is to be no disk tier. */
static int disk_engine(struct thaw_host *h, enum cache_backing backing, struct io_engine **ret,
                       struct thaw_error *e)
{
    int r = 0;

    *ret = NULL;
    if (h->no_disk || backing != CACHE_BACKING_TIERED)
        return 0;
    if (!h->disk_io)
        r = io_engine_create(IO_KIND_AUTO, &h->disk_io, e);
    *ret = h->disk_io;
    return r;
}

static int create_set(struct thaw_host *h, enum cache_backing backing, struct cache_set **ret,
                      struct thaw_error *e)
{
    struct cache_set_options options = {
        .backing = backing,
        .folder = h->folder,
        .disk_bytes = h->disk_budget,
        .budget_bytes = h->budget,
        .huge = h->huge,
    };
    struct thaw_error why = THAW_ERROR_INIT;
    int r = disk_engine(h, backing, &options.io, e);

    if (r < 0)
        return r;
    /* A folder that was asked for must be there; without the usual one we can do. */
    if (h->folder || !options.io)
        return cache_set_create(&options, ret, e);
    if (cache_set_create(&options, ret, &why) == 0)
        return 0;
    options.io = NULL;
    r = cache_set_create(&options, ret, e);
    if (r == 0)
        warn_of_disk(h, &why);
    return r;
}

/* Nobody sees the set before there is a fetcher for it. */
static int create_caches(struct thaw_host *h, enum cache_backing backing, struct thaw_error *e)
{
    struct host_caches *c = &h->caches[backing];
    struct cache_set *set;
    int r;

    host_huge_check(h, backing);
    r = create_set(h, backing, &set, e);

    if (r < 0)
        return r;
    r = fetch_create(set, &c->fetch, e);
    if (r < 0) {
        cache_set_destroy(set);
        return r;
    }
    atomic_store_explicit(&c->set, set, memory_order_release);
    /* Where nobody tells when memory is short, nothing is given back then. */
    if (backing == CACHE_BACKING_TIERED)
        (void)!host_pressure_start(set, &host_pressure_kernel, &h->pressure);
    return 0;
}

int host_fetch(struct thaw_host *h, struct fetch **ret, struct thaw_error *e)
{
    enum cache_backing backing = host_backing(h, NULL);
    int r = host_set(h, backing) ? 0 : create_caches(h, backing, e);

    if (r == 0)
        *ret = h->caches[backing].fetch;
    return r;
}

int host_store(struct thaw_host *h, const char *name, struct store **ret, struct thaw_error *e)
{
    struct host_store *s = h->stores;
    int r;

    while (s && strcmp(s->name, name) != 0)
        s = s->next;
    if (s) {
        *ret = s->store;
        return 0;
    }
    s = calloc(1, sizeof(*s));
    if (!s)
        return err_set(e, -ENOMEM, "no memory for a store");
    s->name = strdup(name);
    r = s->name ? store_open(name, h->io, false, &s->store, e)
                : err_set(e, -ENOMEM, "no memory for a store");
    if (r < 0) {
        close_stores(s);
        return r;
    }
    s->next = h->stores;
    h->stores = s;
    *ret = s->store;
    return 0;
}

int thaw_host_fd(const struct thaw_host *h)
{
    return flags_fd(h->flags);
}

void thaw_host_handle(struct thaw_host *h)
{
    flags_handle(h->flags);
    host_budget_follow(h);
}

void thaw_host_reload(struct thaw_host *h)
{
    flags_reload(h->flags);
    host_budget_follow(h);
}

static void tier_info(const struct tier *t, struct thaw_host_info *ret)
{
    struct tier_counters c = tier_counters(t);

    ret->disk_tier = c.writable ? "written" : tier_only_reads(t) ? "read" : "failed";
    ret->disk_bytes = c.bytes + c.overlay_bytes;
    ret->disk_budget = c.max_bytes;
}

void thaw_host_info(struct thaw_host *h, struct thaw_host_info *ret)
{
    *ret = (struct thaw_host_info){
        .huge_pages = huge_pages_name(h->huge),
        .metrics = h->metrics ? metrics_server_address(h->metrics) : NULL,
    };
    ret->cache_backing = cache_backing_name(host_backing(h, ret->cache_backing_source));
    for (size_t i = 0; i < CACHE_BACKINGS; i++) {
        struct cache_set *set = host_set(h, (enum cache_backing)i);
        struct cache_set_counters c;

        if (!set)
            continue;
        c = cache_set_counters(set);
        for (size_t kind = 0; kind < CACHE_KINDS; kind++)
            ret->cached_bytes += c.bytes[kind];
        ret->memory_budget = c.budget_bytes;
        ret->charged_bytes += c.charged_bytes;
        ret->not_kept += c.not_kept;
        ret->huge_bytes += cache_set_huge_bytes(set);
        if (cache_set_tier(set))
            tier_info(cache_set_tier(set), ret);
        if (h->caches[i].fetch)
            ret->disk_behind += fetch_counters(h->caches[i].fetch).behind;
    }
}

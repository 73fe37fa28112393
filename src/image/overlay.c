/* SPDX-License-Identifier: Apache-2.0 */
#include "image/overlay.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/log.h"
#include "base/units.h"
#include "cache/bus.h"
#include "cache/cache.h"
#include "cache/spill.h"
#include "cache/tier.h"
#include "fetch/fetch.h"

/* How far a lookup looks: a walk over a large part of the disk must not look at each block anew
 * for every granule that it finds. */
#define LOOKUP_BYTES MIB

struct overlay {
    struct image *image;          /* borrowed */
    struct cache *changes;        /* owned */
    struct tier_file *file;       /* owned: what is spilled; NULL: nothing ever is */
    struct fetch_object *spilled; /* owned: the same, to be read; or NULL */
    struct uuid build;
    char name[40];
    uint64_t size_bytes;
    size_t near; /* where the last lookup was: see image_lookup_near() */
};

int overlay_create(struct image *image, const struct uuid *build, const char *name,
                   struct overlay **ret, struct thaw_error *e)
{
    struct overlay *o CLEANUP_OVERLAY = calloc(1, sizeof(*o));
    int r;

    if (!o)
        return err_set(e, -ENOMEM, "no memory for an overlay over %s", name);
    o->image = image;
    o->build = *build;
    snprintf(o->name, sizeof(o->name), "%s", name);
    o->size_bytes = image_bytes(image);
    r = cache_create_overlay(image_caches(image),
                             &(struct cache_options){build, name, o->size_bytes}, &o->changes, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(o);
    return 0;
}

void overlay_destroy(struct overlay *o)
{
    if (!o)
        return;
    cache_destroy(o->changes);
    fetch_object_close(o->spilled);
    tier_file_close(o->file);
    free(o);
}

int overlay_spill_to(struct overlay *o, struct mailbox *inbox, void (*resume)(void *arg), void *arg,
                     struct thaw_error *e)
{
    struct tier *tier = cache_set_tier(image_caches(o->image));
    uint32_t granules = cache_spill_granules(o->size_bytes);
    struct cache_spill_options to = {.tier = tier, .inbox = inbox, .resume = resume, .arg = arg};
    int r;

    if (!tier || granules == 0)
        return 0;
    r = tier_file_create(tier, granules, &o->file);
    if (r < 0) {
        log_debug("%s: no file to spill to: %s", o->name, strerror(-r));
        return 0;
    }
    r = fetch_spill_open(image_fetch(o->image), &o->build, o->name, o->file, granules, &o->spilled,
                         e);
    if (r < 0)
        return r;
    to.file = o->file;
    to.granules = fetch_cache(o->spilled);
    r = cache_spill_start(o->changes, &to);
    return r < 0 ? err_set(e, r, "no memory to spill %s", o->name) : 0;
}

void overlay_stop(struct overlay *o)
{
    cache_spill_stop(o->changes);
}

unsigned overlay_under_way(const struct overlay *o)
{
    return cache_spill_under_way(o->changes);
}

struct cache_spill_counters overlay_spill_counters(const struct overlay *o)
{
    return cache_spill_counters(o->changes);
}

uint64_t overlay_bytes(const struct overlay *o)
{
    return o->size_bytes;
}

int64_t overlay_allocated_bytes(const struct overlay *o)
{
    return cache_allocated_bytes(o->changes);
}

static int lookup_image(struct overlay *o, struct overlay_extent *x)
{
    int r = image_lookup_near(o->image, (struct image_off){x->off}, &o->near, &x->at);

    if (r < 0)
        return r;
    x->source = x->at.zero ? OVERLAY_ZEROS : OVERLAY_IMAGE;
    x->len_bytes = MIN(x->len_bytes, x->at.len_bytes);
    return 0;
}

static int lookup_changed(struct overlay *o, struct overlay_extent *x)
{
    struct cache_spilled at;

    x->source = OVERLAY_CHANGED;
    if (cache_spilled_run(o->changes, x->off, x->len_bytes, &at, &x->len_bytes)) {
        x->source = OVERLAY_SPILLED;
        x->at = (struct image_extent){
            .granule = at.granule, .offset = at.offset, .len_bytes = x->len_bytes};
    }
    return 0;
}

int overlay_lookup(struct overlay *o, uint64_t off, uint64_t len_bytes, struct overlay_extent *ret)
{
    int state;

    len_bytes = MIN(len_bytes, LOOKUP_BYTES);
    state = cache_block_run(o->changes, off, len_bytes, &ret->len_bytes);
    if (state < 0)
        return state;
    ret->off = off;
    if (state == CACHE_BLOCK_CLEAN)
        return lookup_image(o, ret);
    if (state == CACHE_BLOCK_DIRTY)
        return lookup_changed(o, ret);
    ret->source = OVERLAY_ZEROS;
    return 0;
}

/* --- reading --- */

/*
 * A granule is complete before it is published, so a hole in one is damage done from outside; the
 * price of being told (1.5 times that of a load, for 64 KiB) is small beside that of the fetch that
 * most copies come after.
 */
static int copy_guarded(void *buf, const char *memory, size_t len)
{
    while (len > 0) {
        struct iovec to = {.iov_base = buf, .iov_len = len};
        struct iovec from = {.iov_base = (void *)(uintptr_t)memory, .iov_len = len};
        ssize_t n = process_vm_readv(getpid(), &to, 1, &from, 1, 0);

        if (n < 0) /* a sandbox may forbid the call */
            return errno == EPERM || errno == ENOSYS ? bus_copy(buf, memory, len) : -errno;
        buf = (char *)buf + n;
        memory += n;
        len -= (size_t)n;
    }
    return 0;
}

const void *overlay_pin(struct overlay *o, const struct overlay_extent *x)
{
    const char *granule;

    if (x->source == OVERLAY_SPILLED)
        granule = fetch_pin(o->spilled, x->at.granule);
    else
        granule = image_pin(o->image, &x->at);
    return granule ? granule + x->at.offset : NULL;
}

void overlay_unpin(struct overlay *o, const struct overlay_extent *x)
{
    if (x->source == OVERLAY_SPILLED)
        fetch_unpin(o->spilled, x->at.granule);
    else
        image_unpin(o->image, &x->at);
}

int overlay_want(struct overlay *o, const struct overlay_extent *x, enum io_priority priority,
                 struct fetch_waiter *w)
{
    if (x->source == OVERLAY_SPILLED)
        return fetch_want(o->spilled, x->at.granule, priority, w);
    return image_want(o->image, &x->at, priority, w);
}

static int copy_pinned(struct overlay *o, const struct overlay_extent *x, void *buf, size_t len)
{
    const char *memory = overlay_pin(o, x);
    int r;

    if (!memory)
        return -EAGAIN;
    r = copy_guarded(buf, memory, len);
    overlay_unpin(o, x);
    return r;
}

int overlay_copy(struct overlay *o, const struct overlay_extent *x, void *buf, size_t len_bytes)
{
    ssize_t n;

    switch (x->source) {
    case OVERLAY_ZEROS:
        memset(buf, 0, len_bytes);
        return 0;
    case OVERLAY_IMAGE:
    case OVERLAY_SPILLED:
        return copy_pinned(o, x, buf, len_bytes);
    case OVERLAY_CHANGED:
        break;
    }
    n = cache_read(o->changes, x->off, buf, len_bytes);
    return n < 0 ? (int)n : 0;
}

int overlay_memory(struct overlay *o, const struct overlay_extent *x, const void **ret,
                   uint64_t *ret_bytes)
{
    return cache_dirty_memory(o->changes, x->off, x->len_bytes, ret, ret_bytes);
}

/* --- writing --- */

/* A limit to the size of files, setrlimit(2), is a lack of room like any other. */
static int lack_of_room(int r)
{
    return r == -EFBIG ? -ENOSPC : r;
}

int overlay_write(struct overlay *o, uint64_t off, const void *buf, size_t len_bytes)
{
    return lack_of_room(cache_write(o->changes, off, buf, len_bytes));
}

bool overlay_await_room(struct overlay *o, uint64_t *patience)
{
    return cache_await_room(o->changes, patience);
}

int overlay_zero(struct overlay *o, uint64_t off, uint64_t len_bytes)
{
    return lack_of_room(cache_write_zeroes(o->changes, off, len_bytes));
}

int overlay_export(struct overlay *o, int dir_fd, const char *name, struct page_set *ret_dirty,
                   struct page_set *ret_zero, struct thaw_error *e)
{
    return cache_export(o->changes, dir_fd, name, ret_dirty, ret_zero, e);
}

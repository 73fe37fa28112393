/* SPDX-License-Identifier: Apache-2.0 */
#include "image/overlay.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>

#include "base/error.h"
#include "base/units.h"
#include "cache/bus.h"
#include "cache/cache.h"

/* How far a lookup looks: a walk over a large part of the disk must not look at each block anew
 * for every granule that it finds. */
#define LOOKUP_BYTES MIB

struct overlay {
    struct image *image;   /* borrowed */
    struct cache *changes; /* owned */
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
    free(o);
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
    ret->source = state == CACHE_BLOCK_DIRTY ? OVERLAY_CHANGED : OVERLAY_ZEROS;
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

static int copy_image(struct overlay *o, const struct overlay_extent *x, void *buf, size_t len)
{
    const char *granule = image_pin(o->image, &x->at);
    int r;

    if (!granule)
        return -EAGAIN;
    r = copy_guarded(buf, granule + x->at.offset, len);
    image_unpin(o->image, &x->at);
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
        return copy_image(o, x, buf, len_bytes);
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

int overlay_zero(struct overlay *o, uint64_t off, uint64_t len_bytes)
{
    return lack_of_room(cache_write_zeroes(o->changes, off, len_bytes));
}

int overlay_export(struct overlay *o, int dir_fd, const char *name, struct page_set *ret_dirty,
                   struct page_set *ret_zero, struct thaw_error *e)
{
    return cache_export(o->changes, dir_fd, name, ret_dirty, ret_zero, e);
}

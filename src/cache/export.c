/* SPDX-License-Identifier: Apache-2.0 */

/*
 * An overlay as a diff: its dirty blocks, packed. Not even an export of many gigabytes makes a page
 * of the new file dirty, which is what a thread that serves a guest might have to wait for: where
 * the overlay is a file and both files can share blocks, they do (FICLONERANGE); otherwise blocks
 * are gathered in a buffer and written from there past the page cache.
 *
 * Not copy_file_range(2): where it cannot share blocks it copies them by way of the page cache, on
 * ext4 for one, and does not say so.
 */
#include "cache/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"
#include "cache/spill_internal.h"
#include "format/page_set.h"

#define BUFFER_BYTES (4 * MIB)

struct exporter {
    struct cache *cache;
    struct page_set dirty, empty; /* owned */
    char *buffer;                 /* owned: BUFFER_BYTES, aligned for O_DIRECT */
    size_t filled;
    uint64_t written;
    char *spilled;    /* owned: a granule that was spilled, to copy its blocks from; may be NULL */
    uint32_t granule; /* which one */
    int fd;           /* owned: the temporary file; -1 once it has been given up */
    int dir_fd;       /* borrowed */
    const char *name;
    char temporary[UUID_TEXT_BYTES + 8];
    bool linked; /* the temporary name is there */
    bool clones; /* blocks can be shared, for all that is known */
    struct thaw_error *e;
};

static void exporter_finish(struct exporter *x)
{
    if (x->linked)
        unlinkat(x->dir_fd, x->temporary, 0);
    close_fd(&x->fd);
    free(x->buffer);
    free(x->spilled);
    page_set_finish(&x->dirty);
    page_set_finish(&x->empty);
}

static int open_output(struct exporter *x)
{
    char text[UUID_TEXT_BYTES];
    struct uuid random;
    int r = uuid_random(&random);

    if (r < 0)
        return err_errno(x->e, r, "finding a temporary name for %s", x->name);
    x->buffer = aligned_alloc(PAGE_BYTES, BUFFER_BYTES);
    if (!x->buffer)
        return err_set(x->e, -ENOMEM, "no memory to export %s", x->name);
    snprintf(x->temporary, sizeof(x->temporary), ".tmp-%s", uuid_format(&random, text));
    x->fd =
        openat(x->dir_fd, x->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC | O_DIRECT, 0600);
    if (x->fd < 0 && errno == EINVAL) {
        unlinkat(x->dir_fd, x->temporary, 0); /* open(2) makes the file before it refuses */
        return err_set(x->e, -EINVAL,
                       "the file system of the folder for %s takes no writes past the page cache "
                       "(O_DIRECT); export to a folder on a disk",
                       x->name);
    }
    if (x->fd < 0)
        return err_errno(x->e, -errno, "making the file %s", x->name);
    x->linked = true;
    return 0;
}

static int flush(struct exporter *x)
{
    int r = file_write_at(x->fd, x->buffer, x->filled, x->written);

    if (r < 0)
        return err_errno(x->e, r, "writing %s", x->name);
    x->written += x->filled;
    x->filled = 0;
    return 0;
}

/*
 * Blocks that are shared must be on the disk. To share them would write them out one run after the
 * other; better all at once, before. It is the pages of the overlay that are written, which its
 * guest has made dirty; what it costs, backing `file` costs.
 */
static int write_back(struct exporter *x)
{
    const struct memory *m = &x->cache->memory;

    x->clones = m->backing->shareable && m->fd >= 0;
    if (x->clones && fdatasync(m->fd) < 0)
        return err_errno(x->e, -errno, "writing out the cache of %s", x->name);
    return 0;
}

/* Shares dirty blocks [block, end). Returns 1 if the file systems cannot, which is found out once.
 */
static int clone_data(struct exporter *x, uint32_t block, uint32_t end)
{
    struct file_clone_range range = {
        .src_fd = x->cache->memory.fd,
        .src_offset = block * PAGE_BYTES,
        .src_length = (end - block) * PAGE_BYTES,
        .dest_offset = x->written,
    };

    if (ioctl(x->fd, FICLONERANGE, &range) == 0) {
        x->written += range.src_length;
        return 0;
    }
    /* Two file systems, one that cannot, one with larger blocks than ours: ioctl_ficlonerange(2) */
    if (errno == EXDEV || errno == EOPNOTSUPP || errno == ENOTTY || errno == EINVAL ||
        errno == ENOSYS || errno == EPERM)
        return 1;
    return err_errno(x->e, -errno, "sharing blocks with %s", x->name);
}

static int load_spilled(struct exporter *x, uint32_t granule)
{
    int r;

    if (x->spilled && x->granule == granule)
        return 0;
    if (!x->spilled)
        x->spilled = aligned_alloc(PAGE_BYTES, GRANULE_BYTES);
    if (!x->spilled)
        return -ENOMEM;
    x->granule = UINT32_MAX;
    r = spill_load(log_spill(&x->cache->memory), granule, x->spilled);
    if (r == 0)
        x->granule = granule;
    return r;
}

/* As many as lie in one place of @len bytes of dirty blocks from @off on; returns how many. */
static ssize_t read_some(struct exporter *x, uint64_t off, char *to, size_t len)
{
    const struct memory *m = &x->cache->memory;
    struct cache_spilled at;
    uint32_t place;
    uint64_t n;
    int r;

    if (!m->pool) {
        r = memory_read(m, off, to, len);
        return r < 0 ? r : (ssize_t)len;
    }
    place = tiered_run(m, off, len, &n);
    if (place == 0)
        return -EBUSY; /* just now the owner has zeroed it */
    if (!(place & PLACE_SPILLED)) {
        r = memory_copy(m->view + (place - 1) * PAGE_BYTES, to, n);
        return r < 0 ? r : (ssize_t)n;
    }
    at = spilled_at(place, off);
    n = MIN(n, GRANULE_BYTES - at.offset);
    r = load_spilled(x, at.granule);
    if (r == 0)
        memcpy(to, x->spilled + at.offset, n);
    return r < 0 ? r : (ssize_t)n;
}

/* Dirty blocks [block, end), of which the last one counts as whole. */
static int copy_data(struct exporter *x, uint32_t block, uint32_t end)
{
    int r = 0;

    while (block < end && r == 0) {
        size_t room = MIN((end - block) * PAGE_BYTES, BUFFER_BYTES - x->filled);
        ssize_t n = read_some(x, block * PAGE_BYTES, x->buffer + x->filled, room);

        if (n < 0)
            return err_errno(x->e, (int)n, "reading block %u of %s", block, x->name);
        x->filled += (size_t)n;
        block += (uint32_t)((size_t)n / PAGE_BYTES);
        if (x->filled == BUFFER_BYTES)
            r = flush(x);
    }
    return r;
}

static int add_data(struct exporter *x, uint32_t block, uint32_t end)
{
    if (x->clones) {
        int r = clone_data(x, block, end);

        if (r <= 0)
            return r;
        x->clones = false;
    }
    return copy_data(x, block, end);
}

static int add_blocks(struct exporter *x)
{
    const struct cache *c = x->cache;
    int r = 0;

    for (uint32_t b = 0, end; b < c->blocks && r == 0; b = end) {
        enum cache_block state = overlay_run(c, b, c->blocks, &end);

        if (state == CACHE_BLOCK_CLEAN)
            continue;
        if (page_set_add(state == CACHE_BLOCK_DIRTY ? &x->dirty : &x->empty, b, end - b) < 0)
            return err_set(x->e, -ENOMEM, "no memory to export %s", x->name);
        if (state == CACHE_BLOCK_DIRTY)
            r = add_data(x, b, end);
    }
    return r < 0 ? r : flush(x);
}

/* What the last block has beyond the size of the overlay is not part of the diff. */
static int cut_tail(const struct exporter *x)
{
    const struct cache *c = x->cache;
    const struct page_range *last = x->dirty.count ? &x->dirty.ranges[x->dirty.count - 1] : NULL;
    uint64_t over = c->blocks * PAGE_BYTES - c->size_bytes;

    if (over == 0 || !last || last->start + last->pages < c->blocks)
        return 0;
    if (ftruncate(x->fd, (off_t)(x->written - over)) < 0)
        return err_errno(x->e, -errno, "cutting %s to its size", x->name);
    return 0;
}

static int commit(struct exporter *x)
{
    int r;

    if (fsync(x->fd) < 0)
        return err_errno(x->e, -errno, "flushing %s", x->name);
    if (renameat2(x->dir_fd, x->temporary, x->dir_fd, x->name, RENAME_NOREPLACE) < 0)
        return err_errno(x->e, -errno, "naming the file %s", x->name);
    x->linked = false;
    if (fsync(x->dir_fd) < 0) {
        r = -errno;
        unlinkat(x->dir_fd, x->name, 0); /* what is reported as failed must not be there */
        return err_errno(x->e, r, "flushing the folder of %s", x->name);
    }
    return 0;
}

static int run(struct exporter *x)
{
    _Atomic(uint64_t) *changes = &x->cache->changes;
    uint64_t before = atomic_load_explicit(changes, memory_order_acquire);
    int r = open_output(x);

    if (r == 0)
        r = write_back(x);
    if (r == 0)
        r = add_blocks(x);
    if (r == 0)
        r = cut_tail(x);
    if (r < 0)
        return r;
    /* All that was read was read before this: the copies are system calls, the states acquires. */
    if (before % 2 != 0 || atomic_load_explicit(changes, memory_order_acquire) != before)
        return err_set(x->e, -EBUSY, "%s changed while it was exported; stop its guest first",
                       x->name);
    return commit(x);
}

int cache_export(struct cache *c, int dir_fd, const char *name, struct page_set *ret_dirty,
                 struct page_set *ret_empty, struct thaw_error *e)
{
    struct exporter x CLEANUP(exporter_finish) = {
        .cache = c, .fd = -1, .dir_fd = dir_fd, .name = name, .e = e};
    int r = cache_enter_overlay(c);

    if (r == -EROFS)
        return err_set(e, r, "%s: the cache of an object that is only read has no diff", name);
    if (r < 0)
        return err_set(e, r, "%s: the overlay to be exported is closed", name);
    r = run(&x);
    cache_leave(c);
    if (r < 0)
        return r;
    *ret_dirty = x.dirty;
    *ret_empty = x.empty;
    x.dirty = x.empty = (struct page_set){0};
    return 0;
}

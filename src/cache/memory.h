/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_MEMORY_H
#define THAW_CACHE_MEMORY_H

/*
 * The memory of one cache, and the seam between caches and backings: this is all that the rest of
 * the cache knows of where bytes are. Above it are states (words, blocks) and the budget; below it
 * are addresses.
 *
 * A backing has a granule's memory where it likes, and for as long as that granule is reserved or
 * ready: callers ask for each granule's address and do not reckon with the next one's. `memfd` and
 * `file` are sparse: one file, mapped as a whole, in which the granules lie in order. `tiered` has
 * them in slots of a pool, and blocks of overlays likewise (tiered.c).
 *
 * The caller keeps memory_finish() and whoever uses the memory apart, and whoever writes a piece of
 * it from whoever reads or drops the same piece; else any thread may call anything.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"
#include "cache/set.h"

struct log;
struct memory;
struct pool;
struct uuid;

/**
 * struct memory_options - what it is for
 * @folder: open, borrowed; for the files of backing `file`
 * @pool: for `tiered`; borrowed
 * @bytes: a multiple of the page size; 0 takes nothing, not even a descriptor
 * @granules: it is going to be filled granule by granule, by address
 */
struct memory_options {
    enum cache_backing backing;
    int folder;
    struct pool *pool;
    const struct uuid *build;
    const char *object;
    uint64_t bytes;
    bool granules;
};

/**
 * struct memory_backing - where the backings differ
 * @shareable: m->fd is a file of a disk, whose blocks other files may be able to share
 * @open: make m->view and m->fill, and m->fd if it is sparse
 * @close: remove what would outlive them. May be NULL.
 * @write: copy in; 0 or -errno
 * @overwrite: the same where all of it has been written before, and not been dropped since. NULL:
 *             as @write
 * @drop: give whole pages back
 * @settle: a granule has been filled: do what its readers would have to wait for. May be NULL.
 * @why: the reason why a granule could not be filled, when a system call said -EFAULT; may write
 */
struct memory_backing {
    bool shareable;
    int (*open)(struct memory *m, const struct memory_options *o);
    void (*close)(struct memory *m);
    int (*write)(const struct memory *m, uint64_t off, const void *buf, size_t len);
    int (*overwrite)(const struct memory *m, uint64_t off, const void *buf, size_t len);
    int (*drop)(const struct memory *m, uint64_t off, uint64_t len);
    void (*settle)(const struct memory *m, uint64_t off, size_t len);
    int (*why)(const struct memory *m, uint64_t off, size_t len);
};

extern const struct memory_backing memory_memfd;
extern const struct memory_backing memory_file;
extern const struct memory_backing memory_tiered;

struct memory {
    const struct memory_backing *backing; /* also when there are no bytes */
    int fd;                               /* owned; -1 for size 0, and in a pool */
    const char *view;                     /* owned: to read; NULL for size 0 */
    char *fill;                           /* owned: to write; may be NULL, or the same as view */
    size_t bytes;
    _Atomic(uint32_t) *places; /* tiered: owned: [a] where each piece is, in pieces, plus one; 0 for
                                  nowhere. Then view and fill are the pool's. */
    unsigned shift;            /* tiered: a piece is 1 << shift bytes: a granule, or a block */
    bool guarded;   /* file/memfd: holes in the view are errors; memfd: a reference to the guard */
    int folder;     /* file: borrowed */
    char name[128]; /* file: in the folder; "" if there is none */
    struct pool *pool; /* tiered: borrowed */
    struct log *log;   /* tiered: owned: of an overlay */
};

#define MEMORY_INIT                                                                                \
    {                                                                                              \
        .fd = -1                                                                                   \
    }

/** memory_init() - none of it is taken yet. Returns: 0 or -errno. */
[[gnu::warn_unused_result]] int memory_init(struct memory *m, const struct memory_options *o);

/** memory_finish() - release it; safe on MEMORY_INIT */
void memory_finish(struct memory *m);

/** memory_fill() - where a reserved granule is filled in sparse memory; page-aligned */
static inline void *memory_fill(const struct memory *m, uint32_t granule)
{
    return m->fill + granule * GRANULE_BYTES;
}

/** memory_settle() - the reserved granule at @off has been filled */
static inline void memory_settle(const struct memory *m, uint64_t off, size_t len)
{
    if (m->backing->settle)
        m->backing->settle(m, off, len);
}

/** memory_view() - where a granule that is pinned is read */
static inline const void *memory_view(const struct memory *m, uint64_t off)
{
    if (m->places) {
        /* Who has pinned it has acquired what was written before it was published. */
        uint64_t place =
            atomic_load_explicit(&m->places[off >> m->shift], memory_order_relaxed) - 1;

        off = (place << m->shift) | (off & ((UINT64_C(1) << m->shift) - 1));
    }
    return m->view + off;
}

/**
 * memory_dirty() - where dirty blocks lie
 * @ret_bytes: how many of @len bytes from @off on follow there
 *
 * Returns: NULL if they are not in memory: they have been spilled (segments.h).
 */
const void *memory_dirty(const struct memory *m, uint64_t off, uint64_t len, uint64_t *ret_bytes);

/** memory_copy() - copy memory of a cache, or -EFAULT as memory_read() */
[[gnu::warn_unused_result]] int memory_copy(const void *from, void *buf, size_t len);

/**
 * memory_read() - copy out of sparse memory, or of a granule that is pinned
 *
 * Returns: 0, or -EFAULT if a page is not there: a hole in a guarded memfd, or a page of a file
 * that its disk does not give back. Where neither can be noticed there are zeros.
 */
[[gnu::warn_unused_result]] int memory_read(const struct memory *m, uint64_t off, void *buf,
                                            size_t len);

/** memory_write() - copy in; 0, or -ENOSPC, -ENOMEM, -EIO and the like */
[[gnu::warn_unused_result]] int memory_write(const struct memory *m, uint64_t off, const void *buf,
                                             size_t len);

/** memory_overwrite() - the same where all of it has been written before: takes no new memory */
[[gnu::warn_unused_result]] int memory_overwrite(const struct memory *m, uint64_t off,
                                                 const void *buf, size_t len);

/** memory_why() - the error to report when a granule could not be filled; its bytes are lost */
int memory_why(const struct memory *m, uint64_t off, size_t len);

/** memory_drop() - give whole pages back. Returns: 0 or -errno. */
[[gnu::warn_unused_result]] int memory_drop(const struct memory *m, uint64_t off, uint64_t len);

/** memory_punch() - the same for sparse memory. For backings. */
[[gnu::warn_unused_result]] int memory_punch(const struct memory *m, uint64_t off, uint64_t len);

/** memory_allocated_bytes() - from fstat(2): st_blocks counts 512-byte units; or -errno */
int64_t memory_allocated_bytes(const struct memory *m);

/** memory_map() - all of m->fd, shared; NULL and errno on failure. For backings. */
void *memory_map(const struct memory *m, int prot);

#endif

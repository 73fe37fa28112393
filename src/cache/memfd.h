/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_MEMFD_H
#define THAW_CACHE_MEMFD_H

/*
 * A sealed, sparse memfd: memory that is never written back anywhere. It is mapped to be read
 * through a guard (cache/guard.h), so that a page which is not there is an error and not zeros,
 * and, where somebody fills it by address, a second time to be written.
 *
 * This is all that the rest of the cache knows of where bytes are. The caller keeps whoever uses
 * the memory and memfd_finish() apart; apart from that any thread may call anything.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct memfd {
    int fd;           /* owned; -1 for size 0 */
    const char *view; /* owned: to read; NULL for size 0 */
    char *fill;       /* owned: to write; NULL for size 0 or without MEMFD_FILL */
    size_t bytes;
    bool guarded; /* the view is: holds a reference to the guard */
};

#define MEMFD_INIT                                                                                 \
    {                                                                                              \
        .fd = -1                                                                                   \
    }

/**
 * memfd_init() - @bytes (a multiple of the page size) of memory, none of it taken yet
 * @fill: map it to be written, too
 *
 * Where the process may not have a userfaultfd, the view is as good as it can be: m->guarded tells.
 * Returns: 0 or -errno.
 */
[[gnu::warn_unused_result]] int memfd_init(struct memfd *m, const char *name, uint64_t bytes,
                                           bool fill);

/** memfd_finish() - release it; safe on MEMFD_INIT */
void memfd_finish(struct memfd *m);

/**
 * memfd_map() - put what is there into the page tables of the view, so that readers take no faults
 *
 * Only costs less later: nothing is lost if it fails.
 */
void memfd_map(const struct memfd *m, uint64_t off, size_t len);

/**
 * memfd_read() - copy from the view
 *
 * Returns: 0, or -EFAULT if there is a hole (a view without a guard has zeros there).
 */
[[gnu::warn_unused_result]] int memfd_read(const struct memfd *m, uint64_t off, void *buf,
                                           size_t len);

/** memfd_write() - copy into the memory; 0, or -ENOSPC or -ENOMEM when there is no more of it */
[[gnu::warn_unused_result]] int memfd_write(const struct memfd *m, uint64_t off, const void *buf,
                                            size_t len);

/** memfd_punch() - give whole pages back. Returns: 0 or -errno. */
[[gnu::warn_unused_result]] int memfd_punch(const struct memfd *m, uint64_t off, uint64_t len);

/** memfd_allocated_bytes() - from fstat(2): st_blocks counts 512-byte units; or -errno */
int64_t memfd_allocated_bytes(const struct memfd *m);

#endif

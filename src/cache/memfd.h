/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_MEMFD_H
#define THAW_CACHE_MEMFD_H

/* A sealed memfd and its mapping: memory that is never written back anywhere. Control threads. */

#include <stddef.h>
#include <stdint.h>

struct memfd {
    int fd;    /* owned; -1 for size 0 */
    void *map; /* owned; NULL for size 0 */
    size_t bytes;
};

#define MEMFD_INIT                                                                                 \
    {                                                                                              \
        .fd = -1, .map = NULL, .bytes = 0                                                          \
    }

/** memfd_init() - @bytes (a multiple of the page size) of sparse memory; 0 or -errno */
[[gnu::warn_unused_result]] int memfd_init(struct memfd *m, const char *name, uint64_t bytes);

/** memfd_finish() - release it; safe on MEMFD_INIT */
void memfd_finish(struct memfd *m);

/** memfd_allocated_bytes() - from fstat(2): st_blocks counts 512-byte units; or -errno */
int64_t memfd_allocated_bytes(const struct memfd *m);

#endif

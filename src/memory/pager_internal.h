/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_PAGER_INTERNAL_H
#define THAW_MEMORY_PAGER_INTERNAL_H

/* Between pager.c (what to do about an event) and install.c (doing it to a page). */

#include "memory/pager.h"

enum page_flag {
    PAGE_INSTALLED = 1,
    PAGE_REMOVED = 2,
    PAGE_WAITING = 4,
    PAGE_DEFERRED = 8,
    PAGE_FAILED = 16,
};

enum page_source { SOURCE_RAM, SOURCE_STORE, SOURCE_ZERO, SOURCE_REMOVED };

static inline void counter_add(_Atomic(uint64_t) *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/**
 * pager_resolve() - make @page, which lies at @addr, readable, or start what leads there
 *
 * Returns: where its bytes are, for the books.
 */
enum page_source pager_resolve(struct pager *p, uint32_t page, struct host_addr addr);

/** pager_defer() - remember to resolve @page again */
void pager_defer(struct pager *p, uint32_t page, struct host_addr addr);

#endif

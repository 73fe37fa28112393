/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_PAGER_INTERNAL_H
#define THAW_MEMORY_PAGER_INTERNAL_H

/*
 * Between the files of the pager:
 *
 *   pager.c     what to do about an event, and about pages that must be tried again
 *   install.c   putting bytes, zeros or poison under one page
 *   assemble.c  a 2 MiB page, put together from granules
 *   faults.c    how long faults take
 *   populate.c  everything, in the background
 */

#include "image/image.h"
#include "memory/pager.h"

enum page_flag {
    PAGE_INSTALLED = 1,
    PAGE_REMOVED = 2,
    PAGE_WAITING = 4,
    PAGE_DEFERRED = 8,
    PAGE_FAILED = 16,
};

/** counter_add() - the pager's thread alone writes counters: that takes no locked instruction */
static inline void counter_add(_Atomic(uint64_t) *counter, uint64_t n)
{
    uint64_t before = atomic_load_explicit(counter, memory_order_relaxed);

    atomic_store_explicit(counter, before + n, memory_order_relaxed);
}

/** page_at() - the number of the page at @addr of region @r */
static inline uint32_t page_at(const struct pager *p, const struct region *r, struct host_addr addr)
{
    return (uint32_t)((r->offset.v + (addr.v - r->base.v)) / p->page_bytes);
}

/* --- pager.c --- */

/** pager_put_off() - the kernel would not have it now: try @page again soon */
void pager_put_off(struct pager *p, uint32_t page, struct host_addr addr);

/** pager_starve() - we cannot do it now: try @page again when something of ours is free */
void pager_starve(struct pager *p, uint32_t page, struct host_addr addr);

/** pager_wait_get() - a free wait, with its message to be delivered by @deliver; or NULL */
struct pager_wait *pager_wait_get(struct pager *p, void (*deliver)(struct message *m));

/** pager_wait_put() - give @w back */
void pager_wait_put(struct pager *p, struct pager_wait *w);

/** pager_wait_of() - the wait whose message @m is */
static inline struct pager_wait *pager_wait_of(struct message *m)
{
    return container_of(container_of(m, struct fetch_waiter, msg), struct pager_wait, waiter);
}

/* --- install.c --- */

/**
 * pager_resolve() - make @page, which lies at @addr, readable, or start what leads there
 *
 * Returns: where its bytes are, for the books.
 */
enum page_source pager_resolve(struct pager *p, uint32_t page, struct host_addr addr);

/**
 * pager_note_failure() - count @pages of 4 KiB that cannot be served, and keep the first reason
 *
 * To be called before they are poisoned.
 */
void pager_note_failure(struct pager *p, int cause, struct image_off at, uint64_t pages);

/** page_fail() - the bytes of @page cannot be had: make accesses fail */
void page_fail(struct pager *p, uint32_t page, struct host_addr addr, int cause);

/** page_install() - put the page at @bytes under @page, and do what the kernel's answer demands */
void page_install(struct pager *p, uint32_t page, struct host_addr addr, const void *bytes);

/** page_note_installed() - keep the books of a page that is there */
void page_note_installed(struct pager *p, uint32_t page);

/* --- assemble.c --- */

[[gnu::warn_unused_result]] int assemblies_create(struct pager *p);
void assemblies_destroy(struct pager *p);

/** assemble_page() - begin to put @page together, which is all there or soon will be */
enum page_source assemble_page(struct pager *p, uint32_t page, struct host_addr addr);

/** assemblies_free() - how many further pages can be put together now */
unsigned assemblies_free(const struct pager *p);

/* --- faults.c --- */

[[gnu::warn_unused_result]] int faults_create(struct pager *p);
void faults_destroy(struct pager *p);

/** fault_note() - a fault of the batch on @page has been resolved, or will be later */
void fault_note(struct pager *p, uint32_t page, enum page_source source);

/** faults_end_batch() - all of the batch have been looked at: measure those that are over */
void faults_end_batch(struct pager *p);

/** faults_served() - @page is installed: whoever waits for it goes on */
void faults_served(struct pager *p, uint32_t page);

/** faults_forget() - @page will not be installed: there is nothing to measure */
void faults_forget(struct pager *p, uint32_t page);

/* --- populate.c --- */

[[gnu::warn_unused_result]] int populate_create(struct pager *p);
void populate_destroy(struct pager *p);

/** populate_step() - one slice; sets populated at the end */
void populate_step(struct pager *p);

/** populate_blocked() - whether only a message can help it on */
bool populate_blocked(const struct pager *p);

/** populate_unblock() - a wait or an assembly has come back. Also without a population. */
void populate_unblock(struct pager *p);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_PAGER_H
#define THAW_MEMORY_PAGER_H

/*
 * The pager of one VM: it answers the faults of the VM's memory from an image. It belongs to one
 * thread, and that thread issues every ioctl on the VM's uffd.
 *
 * Theory of operation. Each page of the image has a byte of flags:
 *
 *   INSTALLED  we have put something there
 *   REMOVED    the VMM has discarded it (balloon, madvise): it reads as zeros for ever; sticky
 *   WAITING    a fetch waiter is out for it; faults that come meanwhile need nothing more
 *   DEFERRED   to be tried again: the kernel said EAGAIN and will not deliver the fault twice
 *   FAILED     its bytes cannot be had; accesses get SIGBUS
 *
 * Events are drained in batches, and the REMOVEs of a batch are applied before its faults: the
 * kernel hands out faults first, and the order between threads of the VMM is not causal anyhow.
 * While a REMOVE is unread, every install gets EAGAIN; after it has been read, this thread knows
 * of it. So nothing stale can be installed, without any lock.
 *
 * A fault on a page that is INSTALLED is answered by installing it once more: normally the kernel
 * says EEXIST (two threads raced for it) and waking is all that is needed; if the page really is
 * gone, it comes back. What a page reads as depends on REMOVED and the image alone, so installing
 * twice is harmless.
 *
 *   kernel says   we
 *   EEXIST        wake the waiters
 *   EAGAIN        defer: read events, try again
 *   ENOENT        forget the page: its range was unmapped or unregistered
 *   ESRCH         stop: the process is gone
 *   else          fail the page: poison it; where the kernel cannot, kill the VMM. Never zeros.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "base/units.h"
#include "fetch/fetch.h"
#include "kernel/uffd.h"
#include "memory/regions.h"

struct handover;
struct image;
struct thaw_error;

#define PAGER_WAITS 512u /* fetches under way for one VM; faults beyond that are deferred */
#define PAGER_DEFERRED                                                                             \
    4096u                /* deferred pages remembered by number; beyond, the table is scanned      \
                          */
#define PAGER_EVENTS 64u /* events taken by one read(2) */

/* What happened so far. Written by the pager thread, read by any: relaxed. */
struct pager_counters {
    _Atomic(uint64_t) faults;       /* fault events; each is also one of the next five */
    _Atomic(uint64_t) from_ram;     /* the granule was in the cache */
    _Atomic(uint64_t) from_disk;    /* it was in the disk tier of the cache */
    _Atomic(uint64_t) from_store;   /* it had to be fetched */
    _Atomic(uint64_t) from_zero;    /* the image says zeros */
    _Atomic(uint64_t) from_removed; /* the VMM had discarded the page */
    _Atomic(uint64_t) pages;        /* pages of the image installed, each counted once */
    _Atomic(uint64_t) data_bytes;   /* bytes copied into the guest */
    _Atomic(uint64_t) removes;      /* REMOVE events */
    _Atomic(uint64_t) retries;      /* installs that the kernel put off */
    _Atomic(uint64_t) failed;       /* pages that could not be served */
};

struct pager_wait {
    struct fetch_waiter waiter;
    struct pager *pager;
    struct host_addr addr;
    uint32_t page;
    struct pager_wait *next; /* free list */
};

struct pager {
    const struct uffd_ops *ops;
    int uffd;              /* borrowed */
    struct image *image;   /* borrowed */
    struct mailbox *inbox; /* borrowed; whoever owns the thread delivers it */
    struct regions regions;
    uint8_t *flags; /* owned: one per page of the image */
    uint32_t page_count;
    struct pager_wait *waits; /* owned: PAGER_WAITS */
    struct pager_wait *free_waits;
    unsigned waits_out;
    struct host_addr *deferred; /* owned: PAGER_DEFERRED */
    unsigned deferred_count;
    bool deferred_overflow; /* flags hold DEFERRED pages that the list does not */
    bool gone;              /* the VM's memory no longer exists */
    bool kill;              /* a page failed and could not be poisoned */
    int failure;            /* cause of the first page that failed, 0: none */
    struct image_off failure_at;
    struct pager_counters *counters; /* borrowed */
};

/**
 * pager_init() - prepare to serve
 * @h: what the VMM said of its regions
 * @inbox: mailbox of the thread that will call everything else here
 * @counters: where to keep the books
 *
 * Returns: 0, -ENOMEM, -EPROTO (regions do not fit), -ENOTSUP (page size).
 */
[[gnu::warn_unused_result]] int pager_init(struct pager *p, const struct uffd_ops *ops, int uffd,
                                           const struct handover *h, struct image *image,
                                           struct mailbox *inbox, struct pager_counters *counters,
                                           struct thaw_error *e);

/** pager_finish() - release everything; no wait may be out (see pager_waits_out()) */
void pager_finish(struct pager *p);

/** pager_serve() - read all events that are there and answer them, then retry what was deferred */
void pager_serve(struct pager *p);

/** pager_retry() - try deferred installs again */
void pager_retry(struct pager *p);

/** pager_has_deferred() - whether pager_retry() should be called soon, event or not */
bool pager_has_deferred(const struct pager *p);

/** pager_waits_out() - messages that will still arrive in the inbox */
unsigned pager_waits_out(const struct pager *p);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_PAGER_H
#define THAW_MEMORY_PAGER_H

/*
 * The pager of one VM: it answers the faults of the VM's memory from an image. It belongs to one
 * thread, and that thread issues every ioctl on the VM's uffd.
 *
 * Theory of operation. Each page of guest memory (4 KiB or 2 MiB) has a byte of flags:
 *
 *   INSTALLED  we have put something there
 *   REMOVED    the VMM has discarded it (balloon, madvise): it reads as zeros for ever; sticky
 *   WAITING    what it needs is being fetched; faults that come meanwhile need nothing more
 *   DEFERRED   it is in one of the two queues below
 *   FAILED     its bytes cannot be had; accesses get SIGBUS
 *
 * Events are drained in batches, and the REMOVEs of a batch are applied before its faults: the
 * kernel hands out faults first, and the order between threads of the VMM is not causal anyhow.
 * While a REMOVE is unread, every install gets EAGAIN; after it has been read, this thread knows
 * of it. So nothing stale can be installed, without any lock.
 *
 * The kernel takes the pages of a REMOVE away some time after the event was read: what is installed
 * in between vanishes without a further event. So REMOVED is never cleared, and a fault on a page
 * that is INSTALLED is answered by installing it once more: normally the kernel says EEXIST (two
 * threads raced for it) and waking is all that is needed; if the page really is gone, it comes
 * back. What a page reads as depends on REMOVED and the image alone, so installing twice is
 * harmless.
 *
 *   kernel says   we
 *   EEXIST        wake the waiters
 *   EAGAIN        put the page off: read events, try again (the fault is not delivered twice)
 *   ENOENT        forget the page: its range was unmapped or unregistered; wake who waits there
 *   ESRCH         stop: the process is gone
 *   else          fail the page: poison it; where the kernel cannot, kill the VMM. Never zeros.
 *
 * A page that lacks not the kernel's consent but something of ours (a wait, a buffer) is starved:
 * it is tried again when one of those comes back.
 *
 * Order of work: events, demand installs, then the background population in slices of 64 KiB,
 * looking for events between slices.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "base/units.h"
#include "fetch/fetch.h"
#include "kernel/uffd.h"
#include "memory/regions.h"

struct assembly;
struct handover;
struct image;
struct open_fault;
struct pager;
struct populate;
struct thaw_error;

#define PAGER_WAITS       1024u /* fetches under way for one VM */
#define PAGER_QUEUE       4096u /* pages remembered by address; beyond, the table is scanned */
#define PAGER_EVENTS      64u   /* events taken by one read(2) */
#define PAGER_ASSEMBLIES  4u    /* 2 MiB pages under construction */
#define PAGER_OPEN_FAULTS 4096u /* faults that wait for their page and are measured */

/* What happened so far. Written by the pager thread, read by any: relaxed. */
struct pager_counters {
    _Atomic(uint64_t) faults;       /* of missing pages; each is also one of the next five */
    _Atomic(uint64_t) from_ram;     /* the granule was in the cache */
    _Atomic(uint64_t) from_disk;    /* it was in the disk tier of the cache */
    _Atomic(uint64_t) from_store;   /* it had to be fetched */
    _Atomic(uint64_t) from_zero;    /* the image says zeros */
    _Atomic(uint64_t) from_removed; /* the VMM had discarded the page */
    _Atomic(uint64_t) pages;        /* 4 KiB pages installed, each counted once */
    _Atomic(uint64_t) data_bytes;   /* bytes copied into the guest */
    _Atomic(uint64_t) removes;      /* REMOVE events */
    _Atomic(uint64_t) retries;      /* installs that the kernel put off */
    /* Why: of the first page that failed. Written before failed is counted and before the page is
     * poisoned, as that may be the last that anybody hears of the VM: whoever finds failed > 0
     * finds the reason, too. pager_note_failure() has the order, vm_add_status() its counterpart.
     */
    _Atomic(uint64_t) failure_at; /* offset in the image */
    _Atomic(int) failure;         /* -errno; 0: none */
    _Atomic(uint64_t) failed;     /* 4 KiB pages that could not be served */
};

/* A fetch that this pager waits for, for the sake of a page. */
struct pager_wait {
    struct fetch_waiter waiter;
    struct pager *pager;
    struct host_addr addr;
    uint32_t page;
    struct assembly *assembly; /* the 2 MiB page that it is a part of, or NULL */
    uint32_t sub, subs;        /* which 4 KiB of that page */
    struct pager_wait *next;   /* free list */
};

/* Pages to be tried again. */
struct page_queue {
    struct host_addr *list; /* owned: PAGER_QUEUE */
    unsigned count;
    bool overflow; /* more pages have PAGE_DEFERRED than fit: the table must be scanned */
};

/* Where a page is that was asked for. */
enum page_source { SOURCE_RAM, SOURCE_DISK, SOURCE_STORE, SOURCE_ZERO, SOURCE_REMOVED };
#define PAGE_SOURCES 5u

/* Faults that wait for their page, to be measured. */
struct open_faults {
    struct open_fault *list;     /* owned: PAGER_OPEN_FAULTS */
    struct open_fault **buckets; /* owned: by page */
    struct open_fault *free;
    unsigned used; /* of the list; the others have never been, and take no memory */
    unsigned count;
};

struct pager {
    const struct uffd_ops *ops;
    int uffd;              /* borrowed */
    struct image *image;   /* borrowed */
    struct mailbox *inbox; /* borrowed; whoever owns the thread delivers it */
    struct regions regions;
    uint64_t page_bytes;
    uint8_t *flags; /* owned: one per page */
    uint32_t page_count;
    struct pager_wait *waits; /* owned: PAGER_WAITS */
    struct pager_wait *free_waits;
    unsigned waits_out;
    struct page_queue put_off; /* by the kernel */
    struct page_queue starved; /* for want of a wait or an assembly */
    struct open_faults open_faults;
    uint64_t read_ns;              /* when the batch of events at hand was read */
    unsigned served[PAGE_SOURCES]; /* faults of the batch that are over */
    bool freed;                    /* a wait or an assembly has come back since starved was tried */
    struct assembly *assemblies;   /* owned: PAGER_ASSEMBLIES with 2 MiB pages, else NULL */
    void *zeros;                   /* owned: a 2 MiB page of zeros, likewise */
    struct populate *populate;     /* owned; NULL: only what is asked for */
    bool populated;
    bool gone;                       /* the VM's memory no longer exists */
    bool kill;                       /* a page failed and could not be poisoned */
    struct pager_counters *counters; /* borrowed */
};

/**
 * struct pager_options - for pager_init(); everything is borrowed for the pager's life, but the
 * hand-over only for the call
 * @handover: what the VMM said of its regions
 * @inbox: mailbox of the thread that will call everything else here
 * @counters: where to keep the books
 * @populate: install everything in the background, besides answering faults
 */
struct pager_options {
    const struct uffd_ops *ops;
    int uffd;
    const struct handover *handover;
    struct image *image;
    struct mailbox *inbox;
    struct pager_counters *counters;
    bool populate;
};

/**
 * pager_init() - prepare to serve
 *
 * Returns: 0, -ENOMEM, or -EPROTO: the regions are not the image (see regions_init()).
 */
[[gnu::warn_unused_result]] int pager_init(struct pager *p, const struct pager_options *o,
                                           struct thaw_error *e);

/** pager_finish() - release everything; no wait may be out (see pager_waits_out()) */
void pager_finish(struct pager *p);

/** pager_serve() - read all events that are there and answer them */
void pager_serve(struct pager *p);

/** pager_work() - try again what was put off or starved, and go on with the population */
void pager_work(struct pager *p);

/** pager_has_put_off() - whether pager_work() should be called soon, event or not */
bool pager_has_put_off(const struct pager *p);

/** pager_has_work() - whether pager_work() can go on at once */
bool pager_has_work(const struct pager *p);

/** pager_waits_out() - messages that will still arrive in the inbox */
unsigned pager_waits_out(const struct pager *p);

#endif

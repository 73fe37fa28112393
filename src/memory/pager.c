/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/pager.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/error.h"
#include "format/handover.h"
#include "image/image.h"
#include "memory/pager_internal.h"

int pager_init(struct pager *p, const struct uffd_ops *ops, int uffd, const struct handover *h,
               struct image *image, struct mailbox *inbox, struct pager_counters *counters,
               struct thaw_error *e)
{
    void *flags;
    int r;

    *p = (struct pager){
        .ops = ops, .uffd = uffd, .image = image, .inbox = inbox, .counters = counters};
    if (h->page_bytes != PAGE_BYTES)
        return err_set(e, -ENOTSUP,
                       "the VMM's memory has pages of %llu bytes; only 4096 can be served",
                       (unsigned long long)h->page_bytes);
    p->page_count = (uint32_t)(image_bytes(image) / PAGE_BYTES);
    r = regions_init(&p->regions, h, p->page_count * PAGE_BYTES, e);
    if (r < 0)
        return r;
    flags = mmap(NULL, p->page_count, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    p->flags = flags == MAP_FAILED ? NULL : flags;
    p->waits = calloc(PAGER_WAITS, sizeof(*p->waits));
    p->deferred = calloc(PAGER_DEFERRED, sizeof(*p->deferred));
    if (!p->flags || !p->waits || !p->deferred) {
        pager_finish(p);
        return err_set(e, -ENOMEM, "no memory to serve %u pages", p->page_count);
    }
    for (unsigned i = 0; i < PAGER_WAITS; i++) {
        p->waits[i].pager = p;
        p->waits[i].next = p->free_waits;
        p->free_waits = &p->waits[i];
    }
    return 0;
}

void pager_finish(struct pager *p)
{
    assert(p->waits_out == 0);
    regions_finish(&p->regions);
    if (p->flags)
        munmap(p->flags, p->page_count);
    free(p->waits);
    free(p->deferred);
    p->flags = NULL;
    p->waits = NULL;
    p->deferred = NULL;
}

static uint32_t page_at(const struct region *r, struct host_addr addr)
{
    return (uint32_t)((r->offset.v + (addr.v - r->base.v)) / PAGE_BYTES);
}

static void handle_fault(struct pager *p, struct host_addr addr)
{
    struct pager_counters *c = p->counters;
    const struct region *r = regions_find(&p->regions, addr);

    counter_add(&c->faults, 1);
    if (!r) {
        /* Registered, but not announced: nobody can say what belongs there. */
        int err = p->ops->poison(p->uffd, addr, PAGE_BYTES);

        counter_add(&c->failed, 1);
        if (p->failure == 0)
            p->failure = -EPROTO;
        if (err < 0 && err != -EEXIST)
            p->kill = true;
        return;
    }
    switch (pager_resolve(p, page_at(r, addr), addr)) {
    case SOURCE_RAM:
        counter_add(&c->from_ram, 1);
        break;
    case SOURCE_STORE:
        counter_add(&c->from_store, 1);
        break;
    case SOURCE_ZERO:
        counter_add(&c->from_zero, 1);
        break;
    case SOURCE_REMOVED:
        counter_add(&c->from_removed, 1);
        break;
    }
}

static void mark_removed(struct pager *p, const struct region *r, uint64_t start, uint64_t end)
{
    uint64_t from = MAX(start, r->base.v);
    uint64_t to = MIN(end, r->base.v + r->size_bytes);

    for (uint64_t at = from; at < to; at += PAGE_BYTES)
        p->flags[page_at(r, (struct host_addr){at})] |= PAGE_REMOVED;
}

/* A range may span regions that happen to be neighbours, and space between that is not ours. */
static void handle_remove(struct pager *p, uint64_t start, uint64_t end)
{
    counter_add(&p->counters->removes, 1);
    for (size_t i = 0; i < p->regions.count; i++) {
        const struct region *r = &p->regions.list[i];

        if (start < r->base.v + r->size_bytes && end > r->base.v)
            mark_removed(p, r, start, end);
    }
}

/* Returns how many events there were; fewer than PAGER_EVENTS means that all have been read. */
static int serve_batch(struct pager *p)
{
    struct uffd_msg events[PAGER_EVENTS];
    int n = p->ops->read(p->uffd, events, PAGER_EVENTS);

    if (n < 0) {
        if (n != -EAGAIN)
            p->gone = true;
        return 0;
    }
    for (int i = 0; i < n; i++) {
        if (events[i].event == UFFD_EVENT_REMOVE)
            handle_remove(p, events[i].arg.remove.start, events[i].arg.remove.end);
    }
    for (int i = 0; i < n && !p->gone; i++) {
        if (events[i].event == UFFD_EVENT_PAGEFAULT)
            handle_fault(
                p, (struct host_addr){round_down(events[i].arg.pagefault.address, PAGE_BYTES)});
    }
    return n;
}

void pager_serve(struct pager *p)
{
    while (!p->gone && serve_batch(p) == (int)PAGER_EVENTS)
        ;
    pager_retry(p);
}

/* The list has overflowed: look at every page. Happens with thousands of blocked threads. */
static void retry_scan(struct pager *p)
{
    p->deferred_overflow = false;
    for (size_t i = 0; i < p->regions.count && !p->gone; i++) {
        const struct region *r = &p->regions.list[i];

        for (uint64_t at = 0; at < r->size_bytes && !p->gone; at += PAGE_BYTES) {
            struct host_addr addr = {r->base.v + at};
            uint32_t page = page_at(r, addr);

            if (!(p->flags[page] & PAGE_DEFERRED))
                continue;
            p->flags[page] &= (uint8_t)~PAGE_DEFERRED;
            pager_resolve(p, page, addr);
        }
    }
}

void pager_retry(struct pager *p)
{
    /* What is deferred anew goes to the front of the same list, at or before the reader. */
    unsigned n = p->deferred_count;

    if (p->deferred_overflow) {
        p->deferred_count = 0;
        retry_scan(p);
        return;
    }
    p->deferred_count = 0;
    for (unsigned i = 0; i < n && !p->gone; i++) {
        struct host_addr addr = p->deferred[i];
        uint32_t page = page_at(regions_find(&p->regions, addr), addr);

        p->flags[page] &= (uint8_t)~PAGE_DEFERRED;
        pager_resolve(p, page, addr);
    }
}

bool pager_has_deferred(const struct pager *p)
{
    return p->deferred_count > 0 || p->deferred_overflow;
}

unsigned pager_waits_out(const struct pager *p)
{
    return p->waits_out;
}

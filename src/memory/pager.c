/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/pager.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/clock.h"
#include "base/error.h"
#include "format/handover.h"
#include "memory/pager_internal.h"
#include "observe/metrics.h"

#define SLICES                                                                                     \
    8u /* of the population, before messages are looked for; events are after each one             \
        */

static int tables_create(struct pager *p)
{
    void *flags = mmap(NULL, p->page_count, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    p->flags = flags == MAP_FAILED ? NULL : flags;
    p->waits = calloc(PAGER_WAITS, sizeof(*p->waits));
    p->put_off.list = calloc(PAGER_QUEUE, sizeof(*p->put_off.list));
    p->starved.list = calloc(PAGER_QUEUE, sizeof(*p->starved.list));
    if (!p->flags || !p->waits || !p->put_off.list || !p->starved.list)
        return -ENOMEM;
    for (unsigned i = 0; i < PAGER_WAITS; i++) {
        p->waits[i].pager = p;
        p->waits[i].next = p->free_waits;
        p->free_waits = &p->waits[i];
    }
    return 0;
}

int pager_init(struct pager *p, const struct pager_options *o, struct thaw_error *e)
{
    uint64_t page_bytes = o->handover->page_bytes;
    int r;

    *p = (struct pager){
        .ops = o->ops,
        .uffd = o->uffd,
        .image = o->image,
        .inbox = o->inbox,
        .counters = o->counters,
        .page_bytes = page_bytes,
        .page_count = (uint32_t)(image_bytes(o->image) / page_bytes),
    };
    r = regions_init(&p->regions, o->handover, image_bytes(o->image), e);
    if (r < 0)
        return r;
    r = tables_create(p);
    if (r == 0)
        r = faults_create(p);
    if (r == 0 && page_bytes > PAGE_BYTES)
        r = assemblies_create(p);
    if (r == 0 && o->populate)
        r = populate_create(p);
    if (r < 0) {
        pager_finish(p);
        return err_set(e, r, "no memory to serve %u pages", p->page_count);
    }
    return 0;
}

void pager_finish(struct pager *p)
{
    assert(p->waits_out == 0);
    populate_destroy(p);
    assemblies_destroy(p);
    faults_destroy(p);
    regions_finish(&p->regions);
    if (p->flags)
        munmap(p->flags, p->page_count);
    free(p->waits);
    free(p->put_off.list);
    free(p->starved.list);
    *p = (struct pager){.gone = true};
}

/* --- waits --- */

struct pager_wait *pager_wait_get(struct pager *p, void (*deliver)(struct message *m))
{
    struct pager_wait *w = p->free_waits;

    if (!w)
        return NULL;
    p->free_waits = w->next;
    p->waits_out++;
    w->assembly = NULL;
    w->waiter.to = p->inbox;
    w->waiter.msg.deliver = deliver;
    return w;
}

void pager_wait_put(struct pager *p, struct pager_wait *w)
{
    w->next = p->free_waits;
    p->free_waits = w;
    p->waits_out--;
    p->freed = true;
    populate_unblock(p);
}

unsigned pager_waits_out(const struct pager *p)
{
    return p->waits_out;
}

/* --- events --- */

/* Registered, but not announced: nobody can say what belongs there. */
static void fail_stranger(struct pager *p, struct host_addr addr)
{
    uint64_t pages = p->page_bytes / PAGE_BYTES;
    int r;

    pager_note_failure(p, -EPROTO, (struct image_off){0}, pages);
    r = p->ops->poison(p->uffd, addr, p->page_bytes);
    /* Whoever is woken faults again, to be counted then, or finds what is there: no queue is needed
     * for strangers. */
    if (r == -EAGAIN || r == -EEXIST || r == -ENOENT) {
        atomic_fetch_sub_explicit(&p->counters->failed, pages, memory_order_relaxed);
        r = p->ops->wake(p->uffd, addr, p->page_bytes);
    } else {
        metric_errors_add(1, METRIC_ERROR_PROTOCOL);
    }
    if (r == -ESRCH)
        p->gone = true;
    else if (r < 0)
        p->kill = true;
}

static void handle_fault(struct pager *p, struct host_addr addr)
{
    struct pager_counters *c = p->counters;
    const struct region *r = regions_find(&p->regions, addr);
    enum page_source source;
    uint32_t page;

    counter_add(&c->faults, 1);
    if (!r) {
        counter_add(&c->from_store, 1);
        fail_stranger(p, addr);
        return;
    }
    page = page_at(p, r, addr);
    source = pager_resolve(p, page, addr);
    switch (source) {
    case SOURCE_RAM:
        counter_add(&c->from_ram, 1);
        break;
    case SOURCE_DISK:
        counter_add(&c->from_disk, 1);
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
    fault_note(p, page, source);
}

/*
 * A VMM that tracks writes by protecting pages learns of them from its page table: all that is to
 * be done is to let the writer go on. Woken without that it faults again, which is the retry.
 */
static void handle_protected(struct pager *p, struct host_addr addr)
{
    int r = p->ops->unprotect(p->uffd, addr, p->page_bytes);

    if (r == -EAGAIN || r == -ENOENT)
        r = p->ops->wake(p->uffd, addr, p->page_bytes);
    if (r == -ESRCH)
        p->gone = true;
    else if (r < 0)
        p->kill = true;
}

static void mark_removed(struct pager *p, const struct region *r, uint64_t start, uint64_t end)
{
    uint64_t from = MAX(start, r->base.v);
    uint64_t to = MIN(end, r->base.v + r->size_bytes);

    for (uint64_t at = from; at < to; at += p->page_bytes)
        p->flags[page_at(p, r, (struct host_addr){at})] |= PAGE_REMOVED;
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
    /* The compiler would clear all of it each time, for one event as a rule. */
    struct uffd_msg events[PAGER_EVENTS] __attribute__((uninitialized));
    int n = p->ops->read(p->uffd, events, PAGER_EVENTS);

    if (n < 0) {
        if (n != -EAGAIN)
            p->gone = true;
        return 0;
    }
    p->read_ns = clock_now_ns();
    for (int i = 0; i < n; i++) {
        if (events[i].event == UFFD_EVENT_REMOVE)
            handle_remove(p, events[i].arg.remove.start, events[i].arg.remove.end);
    }
    for (int i = 0; i < n && !p->gone; i++) {
        struct host_addr addr = {round_down(events[i].arg.pagefault.address, p->page_bytes)};

        if (events[i].event != UFFD_EVENT_PAGEFAULT)
            continue;
        if (events[i].arg.pagefault.flags & UFFD_PAGEFAULT_FLAG_WP)
            handle_protected(p, addr);
        else
            handle_fault(p, addr);
    }
    faults_end_batch(p);
    return n;
}

void pager_serve(struct pager *p)
{
    while (!p->gone && serve_batch(p) == (int)PAGER_EVENTS)
        ;
}

/* --- pages that must be tried again --- */

static void queue_add(struct pager *p, struct page_queue *q, uint32_t page, struct host_addr addr)
{
    if (p->flags[page] & PAGE_DEFERRED)
        return;
    p->flags[page] |= PAGE_DEFERRED;
    if (q->count < PAGER_QUEUE)
        q->list[q->count++] = addr;
    else
        q->overflow = true;
}

void pager_put_off(struct pager *p, uint32_t page, struct host_addr addr)
{
    counter_add(&p->counters->retries, 1);
    queue_add(p, &p->put_off, page, addr);
}

void pager_starve(struct pager *p, uint32_t page, struct host_addr addr)
{
    queue_add(p, &p->starved, page, addr);
}

static void try_again(struct pager *p, const struct region *r, struct host_addr addr)
{
    uint32_t page = page_at(p, r, addr);

    if (!(p->flags[page] & PAGE_DEFERRED))
        return;
    p->flags[page] &= (uint8_t)~PAGE_DEFERRED;
    pager_resolve(p, page, addr);
}

/* A queue has overflowed: look at every page. Happens with thousands of blocked threads. */
static void retry_scan(struct pager *p)
{
    p->put_off.overflow = p->starved.overflow = false;
    p->put_off.count = p->starved.count = 0;
    for (size_t i = 0; i < p->regions.count; i++) {
        const struct region *r = &p->regions.list[i];

        for (uint64_t at = 0; at < r->size_bytes && !p->gone; at += p->page_bytes)
            try_again(p, r, (struct host_addr){r->base.v + at});
    }
}

/* What is queued anew goes to the front of the same list, at or before the reader. */
static void retry(struct pager *p, struct page_queue *q)
{
    unsigned n = q->count;

    q->count = 0;
    for (unsigned i = 0; i < n && !p->gone; i++) {
        struct host_addr addr = q->list[i];

        try_again(p, regions_find(&p->regions, addr), addr);
    }
}

static bool can_populate(const struct pager *p)
{
    return p->populate && !p->populated && !populate_blocked(p) && p->put_off.count == 0 &&
           p->starved.count == 0 && !p->put_off.overflow && !p->gone;
}

void pager_work(struct pager *p)
{
    bool freed = p->freed;

    if (p->gone)
        return;
    p->freed = false;
    if (p->put_off.overflow || (freed && p->starved.overflow))
        retry_scan(p);
    if (p->put_off.count > 0)
        retry(p, &p->put_off);
    if (freed && p->starved.count > 0)
        retry(p, &p->starved);
    for (unsigned i = 0; i < SLICES && can_populate(p); i++) {
        populate_step(p);
        pager_serve(p);
    }
}

bool pager_has_put_off(const struct pager *p)
{
    return p->put_off.count > 0 || p->put_off.overflow;
}

bool pager_has_work(const struct pager *p)
{
    return (p->freed && p->starved.count > 0) || can_populate(p);
}

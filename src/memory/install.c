/* SPDX-License-Identifier: Apache-2.0 */

/* Putting bytes, zeros or poison under a page, and what the kernel may say to that. */
#include "memory/pager_internal.h"

#include <errno.h>

#include "image/image.h"

void pager_defer(struct pager *p, uint32_t page, struct host_addr addr)
{
    if (p->flags[page] & PAGE_DEFERRED)
        return;
    p->flags[page] |= PAGE_DEFERRED;
    if (p->deferred_count < PAGER_DEFERRED)
        p->deferred[p->deferred_count++] = addr;
    else
        p->deferred_overflow = true;
}

static void page_fail(struct pager *p, uint32_t page, struct host_addr addr, int cause)
{
    int r;

    if (!(p->flags[page] & PAGE_FAILED)) {
        p->flags[page] |= PAGE_FAILED;
        counter_add(&p->counters->failed, 1);
        if (p->failure == 0) {
            p->failure = cause;
            p->failure_at = (struct image_off){page * PAGE_BYTES};
        }
    }
    r = p->ops->poison(p->uffd, addr, PAGE_BYTES);
    if (r == -EEXIST)
        r = p->ops->wake(p->uffd, addr, PAGE_BYTES);
    if (r == -EAGAIN)
        pager_defer(p, page, addr);
    else if (r == -ESRCH)
        p->gone = true;
    else if (r < 0 && r != -ENOENT)
        p->kill = true;
}

/* What the kernel said to an install of @page decides what becomes of it. */
static void install_result(struct pager *p, uint32_t page, struct host_addr addr, int r)
{
    switch (r) {
    case -EEXIST:
        if (p->ops->wake(p->uffd, addr, PAGE_BYTES) == -ESRCH)
            p->gone = true;
        [[fallthrough]];
    case 0:
        if (!(p->flags[page] & PAGE_INSTALLED)) {
            p->flags[page] |= PAGE_INSTALLED;
            counter_add(&p->counters->pages, 1);
        }
        break;
    case -EAGAIN:
        counter_add(&p->counters->retries, 1);
        pager_defer(p, page, addr);
        break;
    case -ENOENT:
        break;
    case -ESRCH:
        p->gone = true;
        break;
    default:
        page_fail(p, page, addr, r);
    }
}

static void install_zeros(struct pager *p, uint32_t page, struct host_addr addr)
{
    uint64_t done;

    install_result(p, page, addr, p->ops->zero(p->uffd, addr, PAGE_BYTES, &done));
}

static void install_bytes(struct pager *p, uint32_t page, struct host_addr addr, const void *bytes)
{
    uint64_t done;
    int r = p->ops->copy(p->uffd, addr, bytes, PAGE_BYTES, &done);

    counter_add(&p->counters->data_bytes, done);
    install_result(p, page, addr, r);
}

static void wait_done(struct message *m)
{
    struct fetch_waiter *waiter = container_of(m, struct fetch_waiter, msg);
    struct pager_wait *w = container_of(waiter, struct pager_wait, waiter);
    struct pager *p = w->pager;
    struct host_addr addr = w->addr;
    uint32_t page = w->page;
    int result = w->waiter.result;

    w->next = p->free_waits;
    p->free_waits = w;
    p->waits_out--;
    p->flags[page] &= (uint8_t)~PAGE_WAITING;
    if (p->gone)
        return;
    /* A page that was discarded meanwhile is zeros, whatever became of its bytes. */
    if (result < 0 && result != -EAGAIN && !(p->flags[page] & PAGE_REMOVED))
        page_fail(p, page, addr, result);
    else
        pager_resolve(p, page, addr);
}

static void fetch_page(struct pager *p, uint32_t page, struct host_addr addr,
                       const struct image_extent *at)
{
    struct pager_wait *w = p->free_waits;

    if (!w) {
        pager_defer(p, page, addr);
        return;
    }
    w->waiter.msg.deliver = wait_done;
    w->waiter.to = p->inbox;
    w->addr = addr;
    w->page = page;
    p->free_waits = w->next;
    p->waits_out++;
    p->flags[page] |= PAGE_WAITING;
    if (fetch_want(at->object, at->granule, IO_DEMAND, &w->waiter) == 0)
        return;
    /* It became ready between our look and the request. */
    p->flags[page] &= (uint8_t)~PAGE_WAITING;
    p->waits_out--;
    w->next = p->free_waits;
    p->free_waits = w;
    pager_defer(p, page, addr);
}

enum page_source pager_resolve(struct pager *p, uint32_t page, struct host_addr addr)
{
    struct image_extent at;
    const char *granule;
    int r;

    if (p->flags[page] & PAGE_REMOVED) {
        install_zeros(p, page, addr);
        return SOURCE_REMOVED;
    }
    if (p->flags[page] & PAGE_FAILED) {
        page_fail(p, page, addr, p->failure);
        return SOURCE_STORE;
    }
    if (p->flags[page] & PAGE_WAITING)
        return SOURCE_STORE;
    r = image_lookup(p->image, (struct image_off){page * PAGE_BYTES}, &at);
    if (r < 0) {
        page_fail(p, page, addr, r);
        return SOURCE_STORE;
    }
    if (!at.object) {
        install_zeros(p, page, addr);
        return SOURCE_ZERO;
    }
    granule = fetch_pin(at.object, at.granule);
    if (!granule) {
        fetch_page(p, page, addr, &at);
        return SOURCE_STORE;
    }
    install_bytes(p, page, addr, granule + at.offset);
    fetch_unpin(at.object, at.granule);
    return SOURCE_RAM;
}

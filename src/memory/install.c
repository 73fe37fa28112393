/* SPDX-License-Identifier: Apache-2.0 */

/* Putting bytes, zeros or poison under a page, and what the kernel may say to that. */
#include "memory/pager_internal.h"

#include <errno.h>

#include "observe/metrics.h"

/* munmap(2) does not wake who waits there: let them see for themselves what is there now. */
static void wake_gone(struct pager *p, struct host_addr addr)
{
    if (p->ops->wake(p->uffd, addr, p->page_bytes) == -ESRCH)
        p->gone = true;
}

void pager_note_failure(struct pager *p, int cause, struct image_off at, uint64_t pages)
{
    struct pager_counters *c = p->counters;

    if (atomic_load_explicit(&c->failure, memory_order_relaxed) == 0) {
        atomic_store_explicit(&c->failure_at, at.v, memory_order_relaxed);
        /* Pairs with the acquire in vm_add_status(), as does the other one. */
        atomic_store_explicit(&c->failure, cause, memory_order_release);
    }
    atomic_fetch_add_explicit(&c->failed, pages, memory_order_release);
}

void page_fail(struct pager *p, uint32_t page, struct host_addr addr, int cause)
{
    int r;

    faults_forget(p, page);
    if (!(p->flags[page] & PAGE_FAILED)) {
        p->flags[page] |= PAGE_FAILED;
        metric_errors_add(1, metric_error_of(cause));
        pager_note_failure(p, cause, (struct image_off){page * p->page_bytes},
                           p->page_bytes / PAGE_BYTES);
    }
    r = p->ops->poison(p->uffd, addr, p->page_bytes);
    if (r == -EEXIST)
        r = p->ops->wake(p->uffd, addr, p->page_bytes);
    if (r == -EAGAIN)
        pager_put_off(p, page, addr);
    else if (r == -ESRCH)
        p->gone = true;
    else if (r == -ENOENT)
        wake_gone(p, addr);
    else if (r < 0)
        p->kill = true;
}

void page_note_installed(struct pager *p, uint32_t page)
{
    if (p->flags[page] & PAGE_INSTALLED)
        return;
    p->flags[page] |= PAGE_INSTALLED;
    counter_add(&p->counters->pages, p->page_bytes / PAGE_BYTES);
}

/* What the kernel said to an install of @page decides what becomes of it. */
static void install_result(struct pager *p, uint32_t page, struct host_addr addr, int r)
{
    switch (r) {
    case -EEXIST:
        if (p->ops->wake(p->uffd, addr, p->page_bytes) == -ESRCH)
            p->gone = true;
        [[fallthrough]];
    case 0:
        page_note_installed(p, page);
        faults_served(p, page);
        break;
    case -EAGAIN:
        pager_put_off(p, page, addr);
        break;
    case -ENOENT:
        faults_forget(p, page);
        wake_gone(p, addr);
        break;
    case -ESRCH:
        p->gone = true;
        break;
    default:
        page_fail(p, page, addr, r);
    }
}

void page_install(struct pager *p, uint32_t page, struct host_addr addr, const void *bytes)
{
    uint64_t done;
    int r = p->ops->copy(p->uffd, addr, bytes, p->page_bytes, &done);

    counter_add(&p->counters->data_bytes, done);
    install_result(p, page, addr, r);
}

/* There is no ZEROPAGE for huge pages: zeros are copied. */
static void install_zeros(struct pager *p, uint32_t page, struct host_addr addr)
{
    uint64_t done;
    int r;

    if (p->zeros)
        r = p->ops->copy(p->uffd, addr, p->zeros, p->page_bytes, &done);
    else
        r = p->ops->zero(p->uffd, addr, p->page_bytes, &done);
    install_result(p, page, addr, r);
}

static void wait_done(struct message *m)
{
    struct pager_wait *w = pager_wait_of(m);
    struct pager *p = w->pager;
    struct host_addr addr = w->addr;
    uint32_t page = w->page;
    int result = w->waiter.result;

    pager_wait_put(p, w);
    p->flags[page] &= (uint8_t)~PAGE_WAITING;
    if (p->gone)
        return;
    /* A page that was discarded meanwhile is zeros, whatever became of its bytes. */
    if (result < 0 && result != -EAGAIN && !(p->flags[page] & PAGE_REMOVED))
        page_fail(p, page, addr, result);
    else
        pager_resolve(p, page, addr);
}

/* Asks for the granule; -EALREADY when it has become ready since the caller looked. */
static int fetch_page(struct pager *p, uint32_t page, struct host_addr addr,
                      const struct image_extent *at)
{
    struct pager_wait *w = pager_wait_get(p, wait_done);
    int r;

    if (!w) {
        pager_starve(p, page, addr);
        return 0;
    }
    w->addr = addr;
    w->page = page;
    r = image_want(p->image, at, IO_DEMAND, &w->waiter);
    if (r < 0)
        pager_wait_put(p, w);
    else
        p->flags[page] |= PAGE_WAITING;
    return r;
}

static enum page_source resolve_small(struct pager *p, uint32_t page, struct host_addr addr)
{
    enum page_source source = SOURCE_RAM;
    struct image_extent at;
    const char *granule;
    int r = image_lookup(p->image, (struct image_off){page * PAGE_BYTES}, &at);

    if (r < 0) {
        page_fail(p, page, addr, r);
        return SOURCE_STORE;
    }
    if (at.zero) {
        install_zeros(p, page, addr);
        return SOURCE_ZERO;
    }
    while ((granule = image_pin(p->image, &at)) == NULL) {
        source = image_on_disk(p->image, &at) ? SOURCE_DISK : SOURCE_STORE;
        if (fetch_page(p, page, addr, &at) == 0)
            return source;
    }
    page_install(p, page, addr, granule + at.offset);
    image_unpin(p->image, &at);
    return source;
}

enum page_source pager_resolve(struct pager *p, uint32_t page, struct host_addr addr)
{
    uint8_t flags = p->flags[page];

    if (flags & PAGE_REMOVED) {
        install_zeros(p, page, addr);
        return SOURCE_REMOVED;
    }
    if (flags & PAGE_FAILED) {
        page_fail(p, page, addr, -EIO); /* why, has been noted */
        return SOURCE_STORE;
    }
    if (flags & PAGE_WAITING)
        return SOURCE_STORE;
    if (p->assemblies)
        return assemble_page(p, page, addr);
    return resolve_small(p, page, addr);
}

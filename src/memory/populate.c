/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Installing everything in the background. Two cursors walk the VM's regions: one asks for granules
 * ahead, at background priority, the other installs what has arrived, a slice of at most 64 KiB at
 * a time (zeros: 1 MiB, which costs no more). Pages that are installed, discarded, or being fetched
 * for a fault are passed over.
 *
 * A slice that one granule holds is copied from the cache straight into the guest. One that the
 * image has in small pieces is gathered in a buffer first: a copy of 4 KiB at a time into the guest
 * takes twice as long.
 *
 * With 2 MiB pages the slice is a page, put together as for a fault.
 */
#include "memory/pager_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/bus.h"

#define SLICE_BYTES GRANULE_BYTES
#define ZERO_BYTES  MIB
#define AHEAD_BYTES (4 * MIB)
#define ASKS_MAX    64u  /* fetches under way */
#define LOOKS_MAX   256u /* extents looked at ahead in one step */

/* A place in guest memory: byte @at of region @region. */
struct cursor {
    size_t region;
    uint64_t at;
    size_t near; /* the run of the map that it is in */
};

struct populate {
    struct cursor install;
    struct cursor ahead;
    unsigned asks;
    uint64_t tried_at; /* offset in the image of the last slice that was asked for on its own */
    bool blocked;      /* the next slice waits for a granule, a wait or an assembly */
    void *gathered;    /* owned: SLICE_BYTES, page-aligned */
};

int populate_create(struct pager *p)
{
    p->populate = calloc(1, sizeof(*p->populate));
    if (!p->populate)
        return -ENOMEM;
    p->populate->tried_at = UINT64_MAX;
    p->populate->gathered = aligned_alloc(PAGE_BYTES, SLICE_BYTES);
    return p->populate->gathered ? 0 : -ENOMEM;
}

void populate_destroy(struct pager *p)
{
    if (p->populate)
        free(p->populate->gathered);
    free(p->populate);
    p->populate = NULL;
}

void populate_unblock(struct pager *p)
{
    if (p->populate)
        p->populate->blocked = false;
}

bool populate_blocked(const struct pager *p)
{
    return p->populate->blocked;
}

/* The region of @c, past the ends of regions; NULL at the end of memory. */
static const struct region *cursor_region(const struct pager *p, struct cursor *c)
{
    while (c->region < p->regions.count && c->at >= p->regions.list[c->region].size_bytes) {
        c->region++;
        c->at = 0;
    }
    return c->region < p->regions.count ? &p->regions.list[c->region] : NULL;
}

static void asked_done(struct message *m)
{
    struct pager_wait *w = pager_wait_of(m);
    struct pager *p = w->pager;

    /* If it has failed, whoever touches the page will hear of it. */
    p->populate->asks--;
    if (w->waiter.result == -EAGAIN)
        p->populate->tried_at = UINT64_MAX; /* it was not tried yet */
    pager_wait_put(p, w);
}

/* Asks for the granule of @at unless it is there. Whether there was a wait to do so. */
static bool ask_for(struct pager *p, const struct image_extent *at)
{
    struct pager_wait *w;

    if (image_ready(p->image, at))
        return true;
    w = p->populate->asks < ASKS_MAX ? pager_wait_get(p, asked_done) : NULL;
    if (!w)
        return false;
    if (image_want(p->image, at, IO_BACKGROUND, &w->waiter) < 0)
        pager_wait_put(p, w);
    else
        p->populate->asks++;
    return true;
}

/* Bytes from @from to @to; 0 when @to is not ahead of it. */
static uint64_t distance(const struct pager *p, const struct cursor *from, const struct cursor *to)
{
    uint64_t sum = 0;

    if (to->region < from->region || (to->region == from->region && to->at <= from->at))
        return 0;
    for (size_t i = from->region; i < to->region; i++)
        sum += p->regions.list[i].size_bytes;
    return sum + to->at - from->at;
}

static void look_ahead(struct pager *p)
{
    struct populate *po = p->populate;
    const struct region *r;

    if (distance(p, &po->install, &po->ahead) == 0)
        po->ahead = po->install; /* overtaken */
    for (unsigned i = 0; i < LOOKS_MAX; i++) {
        struct image_extent at;

        r = cursor_region(p, &po->ahead);
        if (!r || distance(p, &po->install, &po->ahead) >= AHEAD_BYTES)
            return;
        if (image_lookup_near(p->image, (struct image_off){r->offset.v + po->ahead.at},
                              &po->ahead.near, &at) < 0)
            return;
        if (!at.zero && !ask_for(p, &at))
            return;
        po->ahead.at += at.len_bytes;
    }
}

/* How many bytes from @at on, at most @max, have pages that nobody has dealt with. */
static uint64_t untouched(const struct pager *p, const struct region *r, uint64_t at, uint64_t max)
{
    uint64_t end = MIN(at + max, r->size_bytes), start = at;

    while (at < end && p->flags[page_at(p, r, (struct host_addr){r->base.v + at})] == 0)
        at += p->page_bytes;
    return MIN(at, end) - start;
}

/*
 * The bytes of up to @max from the cursor on: *@ret_bytes, valid until slice_end(). Returns how
 * many; 0 when the first one is not there yet.
 */
struct slice {
    const void *bytes;
    bool pinned; /* as @at says; otherwise gathered */
    struct image_extent at;
};

static uint64_t slice_begin(struct pager *p, const struct region *r, uint64_t at, uint64_t max,
                            struct slice *ret)
{
    char *gathered = p->populate->gathered;
    uint64_t len = 0;

    while (len < max) {
        struct image_extent e;
        const char *granule;
        uint64_t n;
        int copied;

        if (image_lookup_near(p->image, (struct image_off){r->offset.v + at + len},
                              &p->populate->install.near, &e) < 0)
            break;
        n = MIN(e.len_bytes, max - len);
        if (e.zero) {
            memset(gathered + len, 0, n);
            len += n;
            continue;
        }
        granule = image_pin(p->image, &e);
        if (!granule)
            break;
        if (len == 0 && (n == max || n >= SLICE_BYTES / 2)) {
            *ret = (struct slice){granule + e.offset, true, e};
            return n;
        }
        copied = bus_copy(gathered + len, granule + e.offset, n);
        image_unpin(p->image, &e);
        if (copied < 0) {
            /* Lost, although it is there: not to be asked for, but passed over. */
            p->populate->tried_at = len == 0 ? r->offset.v + at : p->populate->tried_at;
            break;
        }
        len += n;
    }
    *ret = (struct slice){.bytes = gathered};
    return len;
}

static void slice_end(const struct pager *p, const struct slice *s)
{
    if (s->pinned)
        image_unpin(p->image, &s->at);
}

/* Accounts for a call that covered @len bytes at the cursor, of which @done were installed. */
static void installed(struct pager *p, const struct region *r, uint64_t done, int result)
{
    struct cursor *c = &p->populate->install;

    uint32_t page = page_at(p, r, (struct host_addr){r->base.v + c->at});

    /* Nobody had dealt with these pages: see untouched(). */
    for (uint64_t i = 0; i < done / PAGE_BYTES; i++)
        p->flags[page + i] |= PAGE_INSTALLED;
    counter_add(&p->counters->pages, done / PAGE_BYTES);
    c->at += done;
    if (result == -EEXIST)
        c->at += p->page_bytes; /* somebody was faster; it is theirs to count */
    else if (result == -ESRCH)
        p->gone = true;
    else if (result < 0 && result != -EAGAIN)
        c->at = r->size_bytes; /* the region cannot be installed into: faults will tell */
}

/* What is at the cursor is not there. Waits for it; passes over it if that was in vain already. */
static void wait_for_slice(struct pager *p, const struct image_extent *e, uint64_t image_at)
{
    struct populate *po = p->populate;

    if (po->asks == 0 && po->tried_at != image_at) {
        bool asked = ask_for(p, e);

        if (asked)
            po->tried_at = image_at;
        /* Neither: it has come meanwhile, and the next step takes it. */
        po->blocked = !asked || po->asks > 0;
        return;
    }
    if (po->asks > 0)
        po->blocked = true;
    else
        po->install.at += p->page_bytes; /* whoever touches it will hear why */
}

static void install_small(struct pager *p, const struct region *r)
{
    struct populate *po = p->populate;
    struct host_addr addr = {r->base.v + po->install.at};
    struct image_extent e;
    struct slice s;
    uint64_t max, len, done = 0;
    int result;

    if (image_lookup_near(p->image, (struct image_off){r->offset.v + po->install.at},
                          &po->install.near, &e) < 0) {
        po->install.at = r->size_bytes;
        return;
    }
    max = untouched(p, r, po->install.at, e.zero ? ZERO_BYTES : SLICE_BYTES);
    if (e.zero && e.len_bytes >= MIN(max, SLICE_BYTES)) {
        result = p->ops->zero(p->uffd, addr, MIN(max, e.len_bytes), &done);
        installed(p, r, done, result);
        return;
    }
    len = slice_begin(p, r, po->install.at, MIN(max, SLICE_BYTES), &s);
    if (len == 0) {
        wait_for_slice(p, &e, r->offset.v + po->install.at);
        return;
    }
    result = p->ops->copy(p->uffd, addr, s.bytes, len, &done);
    slice_end(p, &s);
    counter_add(&p->counters->data_bytes, done);
    installed(p, r, done, result);
}

static void install_huge(struct pager *p, const struct region *r)
{
    struct cursor *c = &p->populate->install;
    struct host_addr addr = {r->base.v + c->at};

    /* The last one is kept for a fault; otherwise every page would queue up before it. */
    if (assemblies_free(p) < 2) {
        p->populate->blocked = true;
        return;
    }
    pager_resolve(p, page_at(p, r, addr), addr);
    c->at += p->page_bytes;
}

void populate_step(struct pager *p)
{
    struct populate *po = p->populate;
    const struct region *r = cursor_region(p, &po->install);

    if (!r) {
        /* Until the last 2 MiB page is put together, not all is there. */
        p->populated = !p->zeros || assemblies_free(p) == PAGER_ASSEMBLIES;
        po->blocked = !p->populated;
        return;
    }
    look_ahead(p);
    if (untouched(p, r, po->install.at, p->page_bytes) == 0)
        po->install.at += p->page_bytes;
    else if (p->zeros)
        install_huge(p, r);
    else
        install_small(p, r);
}

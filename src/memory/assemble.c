/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A 2 MiB page of guest memory is put together in a buffer of the pager: zeros where the image has
 * zeros, and pieces of granules, each copied under a pin of its own that is given back at once, so
 * that any number of such pages can be under way in a small cache. What is not there is asked for
 * all at once. The page is installed in one piece when its last 4 KiB has arrived.
 *
 *     begin -> (ask for what is missing, copy what is there)* -> install
 *                                       +-- a piece failed ---> fail the page
 *
 * An assembly ends only when none of its waits is out.
 */
#include "memory/pager_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cache/bus.h"

#define HUGE_BYTES (2 * MIB)
#define HUGE_SUBS  (HUGE_BYTES / PAGE_BYTES)

/* Of each 4 KiB. */
enum sub_state { SUB_MISSING, SUB_ASKED, SUB_DONE };

struct assembly {
    bool busy;
    unsigned char *buffer; /* owned: HUGE_BYTES */
    uint32_t page;
    struct host_addr addr;
    unsigned waits; /* out */
    int failure;    /* of a piece; the page fails when the last wait is back */
    uint8_t subs[HUGE_SUBS];
};

static void *map_anonymous(size_t bytes, int prot)
{
    void *p = mmap(NULL, bytes, prot, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int assemblies_create(struct pager *p)
{
    p->assemblies = calloc(PAGER_ASSEMBLIES, sizeof(*p->assemblies));
    p->zeros = map_anonymous(HUGE_BYTES, PROT_READ);
    if (!p->assemblies || !p->zeros)
        return -ENOMEM;
    for (unsigned i = 0; i < PAGER_ASSEMBLIES; i++) {
        p->assemblies[i].buffer = map_anonymous(HUGE_BYTES, PROT_READ | PROT_WRITE);
        if (!p->assemblies[i].buffer)
            return -ENOMEM;
    }
    return 0;
}

void assemblies_destroy(struct pager *p)
{
    for (unsigned i = 0; p->assemblies && i < PAGER_ASSEMBLIES; i++) {
        if (p->assemblies[i].buffer)
            munmap(p->assemblies[i].buffer, HUGE_BYTES);
    }
    if (p->zeros)
        munmap(p->zeros, HUGE_BYTES);
    free(p->assemblies);
    p->assemblies = NULL;
    p->zeros = NULL;
}

static void mark(struct assembly *a, uint32_t sub, uint32_t subs, enum sub_state state)
{
    memset(a->subs + sub, (int)state, subs);
}

static void assembly_end(struct pager *p, struct assembly *a)
{
    a->busy = false;
    p->freed = true;
    p->flags[a->page] &= (uint8_t)~PAGE_WAITING;
    populate_unblock(p);
}

static bool step(struct pager *p, struct assembly *a);

static void piece_done(struct message *m)
{
    struct pager_wait *w = pager_wait_of(m);
    struct pager *p = w->pager;
    struct assembly *a = w->assembly;
    int result = w->waiter.result;

    mark(a, w->sub, w->subs, SUB_MISSING);
    a->waits--;
    pager_wait_put(p, w);
    if (result < 0 && result != -EAGAIN && a->failure == 0)
        a->failure = result;
    step(p, a);
}

/* Asks for the piece at @sub. Returns -EALREADY when it is there after all, -EAGAIN without a wait.
 */
static int ask(struct pager *p, struct assembly *a, uint32_t sub, uint32_t subs,
               const struct image_extent *at)
{
    struct pager_wait *w = pager_wait_get(p, piece_done);
    int r;

    if (!w)
        return -EAGAIN;
    w->assembly = a;
    w->sub = sub;
    w->subs = subs;
    r = image_want(p->image, at, IO_DEMAND, &w->waiter);
    if (r < 0) {
        pager_wait_put(p, w);
        return r;
    }
    a->waits++;
    mark(a, sub, subs, SUB_ASKED);
    return 0;
}

/* Copies or asks for the pieces from @sub on; returns how far it got, in 4 KiB. */
static uint32_t advance(struct pager *p, struct assembly *a, uint32_t sub)
{
    uint64_t start = a->page * HUGE_BYTES;
    struct image_extent at;
    const char *granule;
    uint32_t subs;

    if (a->subs[sub] != SUB_MISSING)
        return 1;
    if (image_lookup(p->image, (struct image_off){start + sub * PAGE_BYTES}, &at) < 0) {
        a->failure = -ERANGE;
        return (uint32_t)HUGE_SUBS;
    }
    subs = (uint32_t)MIN(at.len_bytes / PAGE_BYTES, HUGE_SUBS - sub);
    if (at.zero) {
        memset(a->buffer + sub * PAGE_BYTES, 0, subs * PAGE_BYTES);
        mark(a, sub, subs, SUB_DONE);
        return subs;
    }
    granule = image_pin(p->image, &at);
    if (granule) {
        if (bus_copy(a->buffer + sub * PAGE_BYTES, granule + at.offset, subs * PAGE_BYTES) < 0)
            a->failure = -EIO;
        image_unpin(p->image, &at);
        mark(a, sub, subs, SUB_DONE);
        return subs;
    }
    /* Ready after all: look at it again. Without a wait, the next message brings us back. */
    return ask(p, a, sub, subs, &at) == -EALREADY ? 0 : subs;
}

/* Goes on with @a as far as it gets; returns whether it needed a fetch. */
static bool step(struct pager *p, struct assembly *a)
{
    bool removed = p->flags[a->page] & PAGE_REMOVED;
    bool done = true, freed;

    for (uint32_t sub = 0; sub < HUGE_SUBS && a->failure == 0 && !removed && !p->gone;)
        sub += advance(p, a, sub);
    for (uint32_t sub = 0; sub < HUGE_SUBS && done; sub++)
        done = a->subs[sub] == SUB_DONE;
    if (a->waits > 0)
        return true;
    freed = p->freed;
    assembly_end(p, a);
    if (p->gone)
        return false;
    if (removed)
        pager_resolve(p, a->page, a->addr); /* zeros, whatever became of its bytes */
    else if (a->failure < 0)
        page_fail(p, a->page, a->addr, a->failure);
    else if (done)
        page_install(p, a->page, a->addr, a->buffer);
    else {
        /* There was no wait to be had, not even one; until there is, trying again is idle. */
        p->freed = freed;
        pager_starve(p, a->page, a->addr);
    }
    return false;
}

unsigned assemblies_free(const struct pager *p)
{
    unsigned n = 0;

    for (unsigned i = 0; i < PAGER_ASSEMBLIES; i++)
        n += !p->assemblies[i].busy;
    return n;
}

enum page_source assemble_page(struct pager *p, uint32_t page, struct host_addr addr)
{
    for (unsigned i = 0; i < PAGER_ASSEMBLIES; i++) {
        struct assembly *a = &p->assemblies[i];

        if (a->busy)
            continue;
        a->busy = true;
        a->page = page;
        a->addr = addr;
        a->waits = 0;
        a->failure = 0;
        mark(a, 0, HUGE_SUBS, SUB_MISSING);
        p->flags[page] |= PAGE_WAITING;
        return step(p, a) ? SOURCE_STORE : SOURCE_RAM;
    }
    pager_starve(p, page, addr);
    return SOURCE_STORE;
}

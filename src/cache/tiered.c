/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Backing `tiered`: the memory of a cache is slots of the set's pool (pool.h), and a table says
 * where each piece of the cache is.
 *
 * Of a read-through cache a piece is a granule; its place is set by whoever fills it, and looked at
 * under pins.
 *
 * Of an overlay it is a block. Blocks are packed in the order in which they arrive, so that a write
 * of one block takes a block and not a granule; blocks that are written again stay where they are.
 * A slot whose blocks have all been zeroed is free again; one that has a single block left is not,
 * as nothing is moved. Others may look at an overlay while its owner works: what the owner gives
 * back becomes another tenant's only when the owner has seen that nobody else is in a call.
 */
#include "cache/tiered.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "cache/internal.h"

#define BLOCKS (uint32_t)(GRANULE_BYTES / PAGE_BYTES) /* in a slot */

/* What an overlay has of the pool. The owner's only, but for the number of slots. */
struct log {
    uint32_t open;           /* the slot that takes the next block, or POOL_NONE */
    uint32_t used;           /* how many blocks of it were taken */
    uint32_t idle;           /* slots without live blocks, which somebody may still be reading */
    _Atomic(uint32_t) slots; /* [a] how many there are, the idle ones among them: relaxed */
};

static size_t table_bytes(const struct memory *m)
{
    return (m->bytes >> m->shift) * sizeof(*m->places);
}

static int tiered_open(struct memory *m, const struct memory_options *o)
{
    void *places;

    m->pool = o->pool;
    m->view = m->fill = pool_memory(o->pool);
    m->shift = (unsigned)__builtin_ctzll(o->granules ? GRANULE_BYTES : PAGE_BYTES);
    places = mmap(NULL, table_bytes(m), PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (places == MAP_FAILED)
        return -errno;
    m->places = places;
    if (o->granules)
        return 0;
    m->log = calloc(1, sizeof(*m->log));
    if (!m->log)
        return -ENOMEM;
    m->log->open = m->log->idle = POOL_NONE;
    return 0;
}

static uint32_t place_of(const struct memory *m, uint64_t piece)
{
    return atomic_load_explicit(&m->places[piece], memory_order_relaxed);
}

static void set_place(const struct memory *m, uint64_t piece, uint32_t place)
{
    /* Release: who finds a block by its place finds what was written there before. */
    atomic_store_explicit(&m->places[piece], place, memory_order_release);
}

/* --- granules --- */

void *tiered_set_slot(const struct memory *m, uint32_t granule, uint32_t slot)
{
    set_place(m, granule, slot + 1);
    return m->fill + slot * GRANULE_BYTES;
}

uint32_t tiered_slot(const struct memory *m, uint32_t granule)
{
    return place_of(m, granule) - 1;
}

/* --- blocks --- */

static uint64_t pages(uint64_t bytes)
{
    return div_round_up(bytes, PAGE_BYTES);
}

static void count_slots(struct log *log, uint32_t n)
{
    atomic_fetch_add_explicit(&log->slots, n, memory_order_relaxed);
}

/* A slot has lost its last block. */
static void set_idle(const struct memory *m, uint32_t slot)
{
    struct log *log = m->log;

    if (slot == log->open)
        log->open = POOL_NONE;
    pool_link(m->pool, slot, log->idle);
    log->idle = slot;
}

static void release_block(const struct memory *m, uint64_t block)
{
    uint32_t place = place_of(m, block), slot = (place - 1) / BLOCKS;

    if (place == 0)
        return;
    set_place(m, block, 0);
    if (--*pool_live(m->pool, slot) == 0)
        set_idle(m, slot);
}

static int tiered_drop(const struct memory *m, uint64_t off, uint64_t len)
{
    for (uint64_t b = off / PAGE_BYTES; b < (off + len) / PAGE_BYTES; b++)
        release_block(m, b);
    return 0;
}

bool tiered_idle(const struct memory *m)
{
    return m->log && m->log->idle != POOL_NONE;
}

void tiered_reclaim(const struct memory *m)
{
    struct log *log = m->log;
    uint32_t n = 0;

    for (uint32_t s = log->idle; s != POOL_NONE; s = pool_next(m->pool, s))
        n++;
    pool_put_dirty(m->pool, log->idle);
    log->idle = POOL_NONE;
    count_slots(log, -n);
}

/* The place of the next block: in the open slot, or in the first of *@fresh, which are ours. */
static uint32_t next_place(const struct memory *m, uint32_t *fresh)
{
    struct log *log = m->log;

    if (log->open == POOL_NONE || log->used == BLOCKS) {
        log->open = *fresh;
        log->used = 0;
        *fresh = pool_next(m->pool, log->open);
    }
    ++*pool_live(m->pool, log->open);
    return log->open * BLOCKS + log->used++ + 1;
}

/* Slots for those of @n blocks from @block on that have no place: *@ret. */
static int take_slots(const struct memory *m, uint64_t block, uint64_t n, uint32_t *ret)
{
    struct log *log = m->log;
    uint32_t room = log->open == POOL_NONE ? 0 : BLOCKS - log->used;
    uint64_t need = 0;
    int r;

    for (uint64_t i = 0; i < n; i++)
        need += place_of(m, block + i) == 0;
    *ret = POOL_NONE;
    if (need <= room)
        return 0;
    r = pool_take(m->pool, (uint32_t)div_round_up(need - room, BLOCKS), POOL_DIRTY, ret);
    if (r > 0)
        count_slots(log, (uint32_t)r);
    return r < 0 ? r : 0;
}

static int tiered_write(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    uint64_t block = off / PAGE_BYTES;
    uint32_t fresh;
    int r;

    if (len == 0)
        return 0; /* of an overlay of nothing, which has no log */
    r = take_slots(m, block, pages(len), &fresh);
    if (r < 0)
        return r;
    for (; len > 0; block++) {
        size_t n = MIN(len, PAGE_BYTES);
        uint32_t place = place_of(m, block);
        bool is_new = place == 0;
        char *to;

        if (is_new)
            place = next_place(m, &fresh);
        to = m->fill + (place - 1) * PAGE_BYTES;
        memcpy(to, buf, n);
        if (is_new) {
            memset(to + n, 0, PAGE_BYTES - n); /* of a last, short one */
            set_place(m, block, place);
        }
        buf = (const char *)buf + n;
        len -= n;
    }
    assert(fresh == POOL_NONE);
    return 0;
}

/* --- the end --- */

static void tiered_close(struct memory *m)
{
    /* The slots of granules have been given back one by one: granules_close(). */
    if (m->log) {
        (void)tiered_drop(m, 0, m->bytes);
        tiered_reclaim(m);
        free(m->log);
    }
    if (m->places)
        munmap(m->places, table_bytes(m));
}

int64_t tiered_log_bytes(const struct memory *m)
{
    return (int64_t)(atomic_load_explicit(&m->log->slots, memory_order_relaxed) * GRANULE_BYTES);
}

/* Nothing but memory can be missing: it could not be had. */
static int tiered_why(const struct memory *m, uint64_t off, size_t len)
{
    (void)m;
    (void)off;
    (void)len;
    return -ENOMEM;
}

const struct memory_backing memory_tiered = {
    .open = tiered_open,
    .close = tiered_close,
    .write = tiered_write,
    .drop = tiered_drop,
    .why = tiered_why,
};

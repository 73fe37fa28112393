/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/segments.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cache/internal.h"
#include "cache/spill_internal.h"
#include "cache/tiered.h"

/* The owner's only, but for the number of slots. */
struct log {
    uint32_t open;           /* the slot that takes the next block, or POOL_NONE */
    uint32_t used;           /* how many blocks of it were taken */
    uint32_t oldest, newest; /* FULL */
    uint32_t full;           /* how many there are */
    uint32_t idle, landed;   /* IDLE and LANDED, linked by pool_link() */
    _Atomic(uint32_t) slots; /* [a] of whatever state: relaxed */
    struct spill *spill;     /* owned: NULL if nothing is spilled */
};

int log_create(struct memory *m)
{
    m->log = calloc(1, sizeof(*m->log));
    if (!m->log)
        return -ENOMEM;
    m->log->open = m->log->oldest = m->log->newest = POOL_NONE;
    m->log->idle = m->log->landed = POOL_NONE;
    return 0;
}

static struct segment *segment_at(const struct memory *m, uint32_t slot)
{
    return pool_segment(m->pool, slot);
}

static uint32_t slot_of(uint32_t place)
{
    return (place - 1) / SEGMENT_BLOCKS;
}

static uint32_t place_in(uint32_t slot, uint32_t i)
{
    return slot * SEGMENT_BLOCKS + i + 1;
}

static char *block_memory(const struct memory *m, uint32_t place)
{
    return m->fill + (place - 1) * PAGE_BYTES;
}

static bool is_live(const struct memory *m, uint32_t slot, uint32_t i)
{
    return tiered_place(m, segment_at(m, slot)->blocks[i]) == place_in(slot, i);
}

static void count_slots(struct log *log, uint32_t n)
{
    atomic_fetch_add_explicit(&log->slots, n, memory_order_relaxed);
}

static uint32_t slots(const struct log *log)
{
    return atomic_load_explicit(&log->slots, memory_order_relaxed);
}

/* --- states --- */

static void push_full(const struct memory *m, uint32_t slot, bool as_oldest)
{
    struct log *log = m->log;
    struct segment *s = segment_at(m, slot);

    s->state = SEGMENT_FULL;
    s->prev = as_oldest ? POOL_NONE : log->newest;
    s->next = as_oldest ? log->oldest : POOL_NONE;
    *(s->prev == POOL_NONE ? &log->oldest : &segment_at(m, s->prev)->next) = slot;
    *(s->next == POOL_NONE ? &log->newest : &segment_at(m, s->next)->prev) = slot;
    log->full++;
}

static void unlink_full(const struct memory *m, uint32_t slot)
{
    struct log *log = m->log;
    const struct segment *s = segment_at(m, slot);

    *(s->prev == POOL_NONE ? &log->oldest : &segment_at(m, s->prev)->next) = s->next;
    *(s->next == POOL_NONE ? &log->newest : &segment_at(m, s->next)->prev) = s->prev;
    log->full--;
}

static void set_idle(const struct memory *m, uint32_t slot)
{
    segment_at(m, slot)->state = SEGMENT_IDLE;
    pool_link(m->pool, slot, m->log->idle);
    m->log->idle = slot;
}

/* A block of it is dead. */
static void lose_block(const struct memory *m, uint32_t slot)
{
    struct segment *s = segment_at(m, slot);

    if (--s->live > 0 || s->state == SEGMENT_LENT)
        return;
    if (s->state == SEGMENT_OPEN)
        m->log->open = POOL_NONE;
    else
        unlink_full(m, slot);
    set_idle(m, slot);
}

static void release_place(const struct memory *m, uint32_t place)
{
    if (place & PLACE_SPILLED)
        spill_release(m->log->spill, place);
    else if (place != 0)
        lose_block(m, slot_of(place));
}

void log_drop(const struct memory *m, uint64_t off, uint64_t len)
{
    for (uint64_t b = off / PAGE_BYTES; b < (off + len) / PAGE_BYTES; b++) {
        uint32_t place = tiered_place(m, b);

        if (place == 0)
            continue;
        tiered_set_place(m, b, 0);
        release_place(m, place);
    }
}

bool log_waits(const struct memory *m)
{
    const struct log *log = m->log;

    return log && (log->idle != POOL_NONE || log->landed != POOL_NONE);
}

void log_settle(const struct memory *m)
{
    struct log *log = m->log;
    uint32_t n = 0;

    for (uint32_t s = log->landed, next; s != POOL_NONE; s = next, n++) {
        next = pool_next(m->pool, s);
        spill_adopt(log->spill, s, segment_at(m, s)->granule);
    }
    for (uint32_t s = log->idle; s != POOL_NONE; s = pool_next(m->pool, s))
        n++;
    pool_put_dirty(m->pool, log->idle);
    log->idle = log->landed = POOL_NONE;
    count_slots(log, -n);
}

/* --- writing --- */

/* The place of the next block: in the open slot, or in the first of *@fresh, which are ours. */
static uint32_t append(const struct memory *m, uint64_t block, uint32_t *fresh)
{
    struct log *log = m->log;
    struct segment *s;
    uint32_t place;

    if (log->open == POOL_NONE) {
        log->open = *fresh;
        log->used = 0;
        *fresh = pool_next(m->pool, log->open);
        *segment_at(m, log->open) = (struct segment){.state = SEGMENT_OPEN};
    }
    s = segment_at(m, log->open);
    place = place_in(log->open, log->used);
    s->blocks[log->used++] = (uint32_t)block;
    s->live++;
    if (log->used == SEGMENT_BLOCKS) {
        push_full(m, log->open, false);
        log->open = POOL_NONE;
    }
    return place;
}

/* Whether the block there may be written over. */
static bool is_in_hand(const struct memory *m, uint32_t place)
{
    return place != 0 && !(place & PLACE_SPILLED) &&
           segment_at(m, slot_of(place))->state != SEGMENT_LENT;
}

/* Slots for @n more blocks: *@ret, as far as the open one does not take them. */
static int take_slots(const struct memory *m, uint64_t n, uint32_t *ret)
{
    struct log *log = m->log;
    uint32_t room = log->open == POOL_NONE ? 0 : SEGMENT_BLOCKS - log->used;
    uint64_t need = n > room ? div_round_up(n - room, SEGMENT_BLOCKS) : 0;
    int r;

    *ret = POOL_NONE;
    if (need == 0)
        return 0;
    r = pool_take(m->pool, (uint32_t)need, POOL_DIRTY, ret);
    if (r > 0)
        count_slots(log, (uint32_t)r);
    return r < 0 ? r : 0;
}

/* Slots for those of @n blocks from @block on that need a new place. */
static int take_for(const struct memory *m, uint64_t block, uint64_t n, uint32_t *ret)
{
    const struct log *log = m->log;
    uint64_t fresh = 0;

    for (uint64_t i = 0; i < n; i++)
        fresh += !is_in_hand(m, tiered_place(m, block + i));
    if (log->spill && fresh > 0 &&
        slots(log) + div_round_up(fresh, SEGMENT_BLOCKS) > spill_share(log->spill))
        return -ENOSPC;
    return take_slots(m, fresh, ret);
}

int log_write(const struct memory *m, uint64_t off, const void *buf, size_t len)
{
    uint64_t block = off / PAGE_BYTES;
    uint32_t fresh;
    int r;

    if (len == 0)
        return 0; /* of an overlay of nothing, which has no log */
    r = take_for(m, block, div_round_up(len, PAGE_BYTES), &fresh);
    if (r < 0)
        return r;
    for (; len > 0; block++) {
        size_t n = MIN(len, PAGE_BYTES);
        uint32_t old = tiered_place(m, block);
        bool in_hand = is_in_hand(m, old);
        uint32_t place = in_hand ? old : append(m, block, &fresh);
        char *to = block_memory(m, place);

        memcpy(to, buf, n);
        if (!in_hand) {
            memset(to + n, 0, PAGE_BYTES - n); /* of a last, short one */
            tiered_set_place(m, block, place);
            release_place(m, old);
        }
        buf = (const char *)buf + n;
        len -= n;
    }
    assert(fresh == POOL_NONE);
    return 0;
}

/* --- spilling --- */

struct spill *log_spill(const struct memory *m)
{
    return m->log ? m->log->spill : NULL;
}

void log_set_spill(const struct memory *m, struct spill *s)
{
    m->log->spill = s;
}

uint32_t log_full(const struct memory *m)
{
    return m->log->full;
}

uint32_t log_oldest(const struct memory *m)
{
    return m->log->oldest;
}

bool log_clean(const struct memory *m, uint32_t slot)
{
    const struct segment *s = segment_at(m, slot);
    uint32_t fresh;

    if (s->live > SEGMENT_BLOCKS / 2 || take_slots(m, s->live, &fresh) < 0)
        return false;
    for (uint32_t i = 0; s->state == SEGMENT_FULL; i++) {
        uint32_t place;

        if (!is_live(m, slot, i))
            continue;
        place = append(m, s->blocks[i], &fresh);
        memcpy(block_memory(m, place), block_memory(m, place_in(slot, i)), PAGE_BYTES);
        tiered_set_place(m, s->blocks[i], place);
        lose_block(m, slot); /* with the last one it is idle */
    }
    return true;
}

void log_lend(const struct memory *m, uint32_t slot)
{
    unlink_full(m, slot);
    segment_at(m, slot)->state = SEGMENT_LENT;
}

uint32_t log_land(const struct memory *m, uint32_t slot, uint32_t granule)
{
    struct segment *s = segment_at(m, slot);

    for (uint32_t i = 0; i < SEGMENT_BLOCKS; i++) {
        if (is_live(m, slot, i))
            tiered_set_place(m, s->blocks[i], PLACE_SPILLED | (granule * SEGMENT_BLOCKS + i));
    }
    s->state = SEGMENT_LANDED;
    s->granule = granule;
    pool_link(m->pool, slot, m->log->landed);
    m->log->landed = slot;
    return s->live;
}

void log_take_back(const struct memory *m, uint32_t slot)
{
    if (segment_at(m, slot)->live > 0)
        push_full(m, slot, true);
    else
        set_idle(m, slot);
}

/* --- the end --- */

static void put_all(const struct memory *m)
{
    struct log *log = m->log;

    if (log->open != POOL_NONE)
        set_idle(m, log->open);
    for (uint32_t s = log->oldest, next; s != POOL_NONE; s = next) {
        next = segment_at(m, s)->next;
        set_idle(m, s);
    }
    log_settle(m);
    assert(slots(log) == 0);
}

void log_destroy(struct memory *m)
{
    if (!m->log)
        return;
    put_all(m);
    spill_destroy(m->log->spill);
    free(m->log);
}

int64_t log_bytes(const struct memory *m)
{
    int64_t bytes = (int64_t)(slots(m->log) * GRANULE_BYTES);

    return m->log->spill ? bytes + (int64_t)spill_bytes(m->log->spill) : bytes;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* A read-through cache: the words of its granules. */
#include "cache/internal.h"

#include <assert.h>
#include <errno.h>

#include "cache/tiered.h"

uint32_t cache_granules(const struct cache *c)
{
    return c->granules;
}

size_t cache_granule_bytes(const struct cache *c, uint32_t granule)
{
    uint64_t start = granule * GRANULE_BYTES;

    assert(granule < c->granules);
    return MIN(GRANULE_BYTES, c->size_bytes - start);
}

static uint32_t load(const struct cache *c, uint32_t granule)
{
    assert(granule < c->granules);
    return atomic_load_explicit(&c->words[granule], memory_order_acquire) & WORD_STATE;
}

enum cache_state cache_state(const struct cache *c, uint32_t granule)
{
    uint32_t word = load(c, granule);

    if (cache_is_closed(c))
        return CACHE_CLOSED;
    if (word == WORD_ABSENT)
        return CACHE_ABSENT;
    return word == WORD_FILLING ? CACHE_FILLING : CACHE_READY;
}

/* --- accounts --- */

/* What it takes when it is there: the last one may be short, unless it has a slot. */
static uint64_t account_bytes(const struct cache *c, uint32_t granule)
{
    if (c->memory.pool)
        return GRANULE_BYTES;
    return round_up(cache_granule_bytes(c, granule), PAGE_BYTES);
}

/* Room for one granule becomes the granule's. */
static void take_from_room(struct cache *c, uint32_t granule, struct cache_room *room)
{
    uint64_t bytes = account_bytes(c, granule);

    assert(room->granules > 0);
    room->granules--;
    if (room->passing) {
        set_count(&c->passing_bytes, (int64_t)bytes);
        set_count(&c->set->passing_bytes, (int64_t)bytes);
    } else {
        set_count(&c->kept_bytes, (int64_t)bytes);
        set_discharge(c->set, GRANULE_BYTES - bytes);
    }
    set_count(&c->set->bytes[c->kind], (int64_t)bytes);
}

static void release(struct cache *c, uint32_t granule, bool passing)
{
    uint64_t bytes = account_bytes(c, granule);

    if (passing) {
        set_count(&c->passing_bytes, -(int64_t)bytes);
        set_count(&c->set->passing_bytes, -(int64_t)bytes);
    } else {
        set_count(&c->kept_bytes, -(int64_t)bytes);
        set_discharge(c->set, bytes);
    }
    set_count(&c->set->bytes[c->kind], -(int64_t)bytes);
}

/* --- filling: a fill counts as a user of the cache until it is published or abandoned --- */

int cache_reserve(struct cache *c, uint32_t granule, struct cache_room *room, void **ret)
{
    uint32_t word = WORD_ABSENT, filling = WORD_FILLING | (room->passing ? WORD_PASSING : 0);
    int r = cache_enter(c);

    if (r < 0)
        return r;
    assert(granule < c->granules);
    if (c->kind != CACHE_KIND_READ_THROUGH)
        r = -EROFS;
    /* Acquire pairs with the release of an abandon: the memory is ours alone again. */
    else if (!atomic_compare_exchange_strong_explicit(&c->words[granule], &word, filling,
                                                      memory_order_acquire, memory_order_relaxed))
        r = (word & WORD_STATE) == WORD_FILLING ? -EBUSY : -EALREADY;
    if (r < 0) {
        cache_leave(c);
        return r;
    }
    take_from_room(c, granule, room);
    if (c->memory.pool) {
        uint32_t slot = room->slot;

        room->slot = pool_next(c->memory.pool, slot);
        *ret = tiered_set_slot(&c->memory, granule, slot);
    } else {
        *ret = memory_fill(&c->memory, granule);
    }
    return 0;
}

static void leave_filling(struct cache *c, uint32_t granule, uint32_t word);

void cache_unreserve(struct cache *c, uint32_t granule, struct cache_room *room)
{
    uint32_t slot = tiered_slot(&c->memory, granule);

    pool_link(c->memory.pool, slot, room->granules > 0 ? room->slot : POOL_NONE);
    room->slot = slot;
    room->granules++;
    release(c, granule, false);
    leave_filling(c, granule, WORD_ABSENT);
}

static bool is_passing(const struct cache *c, uint32_t granule)
{
    return atomic_load_explicit(&c->words[granule], memory_order_relaxed) & WORD_PASSING;
}

static void leave_filling(struct cache *c, uint32_t granule, uint32_t word)
{
    uint32_t was = atomic_exchange_explicit(&c->words[granule], word, memory_order_release);

    assert((was & ~(uint32_t)WORD_MARKS) == WORD_FILLING);
    (void)was;
    cache_leave(c);
}

struct cache_hold cache_publish(struct cache *c, uint32_t granule)
{
    struct cache_hold hold = {0};

    if (c->memory.pool) {
        hold = pool_publish(c->memory.pool, tiered_slot(&c->memory, granule), c, granule);
        leave_filling(c, granule, WORD_READY);
        return hold;
    }
    /* Here, as the thread that fills has time, and the one that serves a fault has none. */
    memory_settle(&c->memory, granule * GRANULE_BYTES, account_bytes(c, granule));
    if (is_passing(c, granule)) {
        set_count(&c->set->not_kept, 1);
        hold = passing_add(c->set, c, granule);
        leave_filling(c, granule, WORD_READY | WORD_PASSING);
    } else {
        leave_filling(c, granule, WORD_READY);
    }
    return hold;
}

/* Gives its memory back, which makes it absent. If that fails the next fill takes it over. */
static void give_back(struct cache *c, uint32_t granule)
{
    (void)!memory_drop(&c->memory, granule * GRANULE_BYTES, account_bytes(c, granule));
    release(c, granule, is_passing(c, granule));
    leave_filling(c, granule, WORD_ABSENT);
}

void cache_abandon(struct cache *c, uint32_t granule)
{
    struct cache_set *set = c->set;
    bool passing = is_passing(c, granule);

    if (set->pool) {
        uint32_t slot = tiered_slot(&c->memory, granule);

        pool_link(set->pool, slot, POOL_NONE);
        release(c, granule, false);
        leave_filling(c, granule, WORD_ABSENT);
        pool_put(set->pool, slot);
        return;
    }
    give_back(c, granule);
    if (passing)
        passing_put(set, 1);
}

bool granule_claim(struct cache *c, uint32_t granule)
{
    uint32_t word = WORD_ABSENT;

    if (cache_enter(c) < 0)
        return false;
    if (pool_drop(c->memory.pool, c, granule) &&
        atomic_compare_exchange_strong_explicit(&c->words[granule], &word, WORD_FILLING,
                                                memory_order_acquire, memory_order_relaxed))
        return true;
    cache_leave(c);
    return false;
}

void granule_keep(struct cache *c, uint32_t granule, uint32_t slot)
{
    uint64_t bytes = account_bytes(c, granule);

    (void)tiered_set_slot(&c->memory, granule, slot);
    set_count(&c->kept_bytes, (int64_t)bytes);
    set_count(&c->set->bytes[c->kind], (int64_t)bytes);
    leave_filling(c, granule, WORD_READY);
}

void granule_unclaim(struct cache *c, uint32_t granule)
{
    leave_filling(c, granule, WORD_ABSENT);
}

int cache_fill_error(const struct cache *c, uint32_t granule, int error)
{
    if (error != -EFAULT)
        return error;
    return memory_why(&c->memory, granule * GRANULE_BYTES, account_bytes(c, granule));
}

bool granule_begin_drop(struct cache *c, uint32_t granule)
{
    uint32_t word = atomic_load_explicit(&c->words[granule], memory_order_relaxed);

    do {
        if ((word & ~(uint32_t)WORD_USED) != (WORD_READY | WORD_PASSING))
            return false;
        /* Acquire pairs with the release of the last unpin: nobody reads it any more. */
    } while (!atomic_compare_exchange_weak_explicit(&c->words[granule], &word,
                                                    WORD_FILLING | WORD_PASSING,
                                                    memory_order_acquire, memory_order_relaxed));
    if (cache_enter(c) == 0)
        return true;
    /* Whoever closes it has not come to the words yet, as that takes us off the list first. */
    atomic_store_explicit(&c->words[granule], WORD_READY | WORD_PASSING, memory_order_release);
    return false;
}

void granule_end_drop(struct cache *c, uint32_t granule)
{
    give_back(c, granule);
}

enum granule_eviction granule_evict(struct cache *c, uint32_t granule, bool spare)
{
    uint32_t word = atomic_load_explicit(&c->words[granule], memory_order_relaxed), then;

    do {
        if ((word & ~(uint32_t)WORD_USED) != WORD_READY)
            return GRANULE_BUSY;
        then = spare && (word & WORD_USED) ? WORD_READY : WORD_ABSENT;
        /* Acquire pairs with the release of the last unpin: nobody reads it any more. */
    } while (!atomic_compare_exchange_weak_explicit(&c->words[granule], &word, then,
                                                    memory_order_acquire, memory_order_relaxed));
    if (then == WORD_READY)
        return GRANULE_SPARED;
    release(c, granule, false);
    return GRANULE_EVICTED;
}

/* --- reading --- */

static const void *pin(struct cache *c, uint32_t granule, uint32_t mark)
{
    uint32_t word;

    assert(granule < c->granules);
    word = atomic_load_explicit(&c->words[granule], memory_order_relaxed);
    do {
        if ((word & WORD_STATE) != WORD_READY)
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&c->words[granule], &word,
                                                    (word | mark) + WORD_PIN, memory_order_acquire,
                                                    memory_order_relaxed));
    return memory_view(&c->memory, granule * GRANULE_BYTES);
}

const void *cache_pin(struct cache *c, uint32_t granule)
{
    return pin(c, granule, WORD_USED);
}

const void *cache_peek(struct cache *c, uint32_t granule)
{
    return pin(c, granule, 0);
}

void cache_unpin(struct cache *c, uint32_t granule)
{
    _Atomic(uint32_t) *word = &c->words[granule];
    uint32_t was = atomic_fetch_sub_explicit(word, WORD_PIN, memory_order_release);

    assert(was >= WORD_READY + WORD_PIN);
    /* The last pin of a cache that is being closed; from here on it may be gone. */
    if ((was & ~(uint32_t)WORD_MARKS) == WORD_READY + WORD_CLOSED + WORD_PIN)
        word_wake(word);
}

int granules_read(struct cache *c, uint64_t off, void *buf, size_t len)
{
    while (len > 0) {
        uint32_t granule = (uint32_t)(off / GRANULE_BYTES);
        size_t n = MIN(len, GRANULE_BYTES - off % GRANULE_BYTES);
        int r;

        if (!cache_pin(c, granule))
            return -ENODATA;
        r = memory_read(&c->memory, off, buf, n);
        cache_unpin(c, granule);
        if (r < 0)
            return r;
        buf = (char *)buf + n;
        off += n;
        len -= n;
    }
    return 0;
}

bool granules_present(const struct cache *c, uint64_t off, uint64_t len)
{
    uint64_t end = div_round_up(off + len, GRANULE_BYTES);

    for (uint64_t g = off / GRANULE_BYTES; len > 0 && g < end; g++) {
        if (load(c, (uint32_t)g) != WORD_READY)
            return false;
    }
    return true;
}

/* Marks it, unless it is absent. It may be pinned, and in a pool be evicted, at the same time. */
static void mark_closed(struct cache *c, uint32_t granule)
{
    uint32_t word = atomic_load_explicit(&c->words[granule], memory_order_relaxed);

    do {
        if ((word & WORD_STATE) != WORD_READY)
            return;
    } while (!atomic_compare_exchange_weak_explicit(&c->words[granule], &word, word | WORD_CLOSED,
                                                    memory_order_relaxed, memory_order_relaxed));
}

void granules_close(struct cache *c)
{
    /* Those which are absent stay so: nobody can reserve them any more. */
    for (uint32_t g = 0; g < c->granules; g++)
        mark_closed(c, g);
    for (uint32_t g = 0; g < c->granules; g++) {
        word_wait(&c->words[g], ~(uint32_t)(WORD_PIN - 1));
        if (c->memory.pool && load(c, g) == (WORD_READY | WORD_CLOSED))
            pool_forget(c->memory.pool, tiered_slot(&c->memory, g));
    }
    if (c->memory.pool)
        pool_settle(c->memory.pool);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* A read-through cache: the words of its granules. */
#include "cache/internal.h"

#include <assert.h>
#include <errno.h>

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

/* --- filling: a fill counts as a user of the cache until it is published or abandoned --- */

int cache_reserve(struct cache *c, uint32_t granule, void **ret)
{
    uint32_t word = WORD_ABSENT;
    int r = cache_enter(c);

    if (r < 0)
        return r;
    assert(granule < c->granules);
    if (c->kind != CACHE_KIND_READ_THROUGH)
        r = -EROFS;
    /* Acquire pairs with the release of an abandon: the memory is ours alone again. */
    else if (!atomic_compare_exchange_strong_explicit(&c->words[granule], &word, WORD_FILLING,
                                                      memory_order_acquire, memory_order_relaxed))
        r = word == WORD_FILLING ? -EBUSY : -EALREADY;
    if (r < 0) {
        cache_leave(c);
        return r;
    }
    *ret = c->memory.fill + granule * GRANULE_BYTES;
    return 0;
}

static void leave_filling(struct cache *c, uint32_t granule, uint32_t word)
{
    uint32_t was = atomic_exchange_explicit(&c->words[granule], word, memory_order_release);

    assert(was == WORD_FILLING);
    (void)was;
    cache_leave(c);
}

void cache_publish(struct cache *c, uint32_t granule)
{
    /* Here, as the thread that fills has time, and the one that serves a fault has none. */
    memfd_map(&c->memory, granule * GRANULE_BYTES,
              round_up(cache_granule_bytes(c, granule), PAGE_BYTES));
    leave_filling(c, granule, WORD_READY);
}

void cache_abandon(struct cache *c, uint32_t granule)
{
    leave_filling(c, granule, WORD_ABSENT);
}

/* --- reading --- */

const void *cache_pin(struct cache *c, uint32_t granule)
{
    uint32_t word;

    assert(granule < c->granules);
    word = atomic_load_explicit(&c->words[granule], memory_order_relaxed);
    do {
        if ((word & WORD_STATE) != WORD_READY)
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&c->words[granule], &word, word + WORD_PIN,
                                                    memory_order_acquire, memory_order_relaxed));
    return c->memory.view + granule * GRANULE_BYTES;
}

void cache_unpin(struct cache *c, uint32_t granule)
{
    _Atomic(uint32_t) *word = &c->words[granule];
    uint32_t was = atomic_fetch_sub_explicit(word, WORD_PIN, memory_order_release);

    assert(was >= WORD_READY + WORD_PIN);
    /* The last pin of a cache that is being closed; from here on it may be gone. */
    if (was == WORD_READY + WORD_CLOSED + WORD_PIN)
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
        r = memfd_read(&c->memory, off, buf, n);
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

void granules_close(struct cache *c)
{
    /* Those which are absent stay so: nobody can reserve them any more. */
    for (uint32_t g = 0; g < c->granules; g++) {
        if (load(c, g) == WORD_READY)
            atomic_fetch_or_explicit(&c->words[g], WORD_CLOSED, memory_order_relaxed);
    }
    for (uint32_t g = 0; g < c->granules; g++)
        word_wait(&c->words[g], ~(uint32_t)WORD_STATE);
}

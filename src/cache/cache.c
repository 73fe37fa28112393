/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/cache.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/mman.h>

#include "base/error.h"
#include "base/units.h"
#include "cache/memfd.h"

/* The state word: absent, filling, or ready with the number of pins in the bits above. */
enum { WORD_ABSENT = 0, WORD_FILLING = 1, WORD_READY = 2, WORD_PIN = 4 };

struct cache {
    struct memfd memory;
    uint64_t size_bytes;
    uint32_t granules;
    _Atomic(uint32_t) *words; /* [a] one per granule; publish releases, pin acquires */
};

/* Zeroed memory that costs nothing until it is touched: a 32 GiB object has half a million words.
 */
static int words_create(uint32_t granules, _Atomic(uint32_t) **ret)
{
    void *p = mmap(NULL, granules * sizeof(**ret), PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (p == MAP_FAILED)
        return -errno;
    *ret = p;
    return 0;
}

int cache_create(const struct uuid *build, const char *object, uint64_t size_bytes,
                 struct cache **ret, struct thaw_error *e)
{
    struct cache *c CLEANUP_CACHE = NULL;
    char id[UUID_TEXT_BYTES], name[128];
    int r;

    if (size_bytes > 16 * TIB)
        return err_set(e, -EFBIG, "object %s of %llu bytes: the limit is 16 TiB", object,
                       (unsigned long long)size_bytes);
    c = calloc(1, sizeof(*c));
    if (!c)
        return err_set(e, -ENOMEM, "no memory for a cache");
    c->memory = (struct memfd)MEMFD_INIT;
    c->size_bytes = size_bytes;
    c->granules = (uint32_t)div_round_up(size_bytes, GRANULE_BYTES);
    snprintf(name, sizeof(name), "thaw:%.8s:%s", uuid_format(build, id), object);
    r = memfd_init(&c->memory, name, round_up(size_bytes, GRANULE_BYTES));
    if (r == 0 && c->granules > 0)
        r = words_create(c->granules, &c->words);
    if (r < 0)
        return err_errno(e, r, "making the cache of %s", object);
    *ret = TAKE_PTR(c);
    return 0;
}

void cache_destroy(struct cache *c)
{
    if (!c)
        return;
    if (c->words)
        munmap(c->words, c->granules * sizeof(*c->words));
    memfd_finish(&c->memory);
    free(c);
}

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

enum cache_state cache_state(const struct cache *c, uint32_t granule)
{
    uint32_t word = atomic_load_explicit(&c->words[granule], memory_order_acquire);

    if (word == WORD_ABSENT)
        return CACHE_ABSENT;
    return word == WORD_FILLING ? CACHE_FILLING : CACHE_READY;
}

static void *granule_memory(const struct cache *c, uint32_t granule)
{
    return (char *)c->memory.map + granule * GRANULE_BYTES;
}

int cache_reserve(struct cache *c, uint32_t granule, void **ret)
{
    uint32_t word = WORD_ABSENT;

    assert(granule < c->granules);
    /* Acquire pairs with the release of an abandon: the memory is ours alone again. */
    if (!atomic_compare_exchange_strong_explicit(&c->words[granule], &word, WORD_FILLING,
                                                 memory_order_acquire, memory_order_relaxed))
        return word == WORD_FILLING ? -EBUSY : -EALREADY;
    *ret = granule_memory(c, granule);
    return 0;
}

static void leave_filling(struct cache *c, uint32_t granule, uint32_t word)
{
    uint32_t was = atomic_exchange_explicit(&c->words[granule], word, memory_order_release);

    assert(was == WORD_FILLING);
    (void)was;
}

void cache_publish(struct cache *c, uint32_t granule)
{
    leave_filling(c, granule, WORD_READY);
}

void cache_abandon(struct cache *c, uint32_t granule)
{
    leave_filling(c, granule, WORD_ABSENT);
}

const void *cache_pin(struct cache *c, uint32_t granule)
{
    uint32_t word = atomic_load_explicit(&c->words[granule], memory_order_relaxed);

    assert(granule < c->granules);
    do {
        if (word < WORD_READY)
            return NULL;
    } while (!atomic_compare_exchange_weak_explicit(&c->words[granule], &word, word + WORD_PIN,
                                                    memory_order_acquire, memory_order_relaxed));
    return granule_memory(c, granule);
}

void cache_unpin(struct cache *c, uint32_t granule)
{
    uint32_t was = atomic_fetch_sub_explicit(&c->words[granule], WORD_PIN, memory_order_release);

    assert(was >= WORD_READY + WORD_PIN);
    (void)was;
}

int64_t cache_allocated_bytes(const struct cache *c)
{
    return memfd_allocated_bytes(&c->memory);
}

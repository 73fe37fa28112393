/* SPDX-License-Identifier: Apache-2.0 */

/* What both kinds have in common: creating, counting use, closing. */
#include "cache/internal.h"

#include <assert.h>
#include <errno.h>
#include <linux/futex.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/error.h"
#include "cache/segments.h"

/* Zeroed memory that costs nothing until it is touched: 16 TiB have 2^28 words. */
static int table_create(size_t bytes, void **ret)
{
    void *p;

    if (bytes == 0)
        return 0;
    p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1,
             0);
    if (p == MAP_FAILED)
        return -errno;
    *ret = p;
    return 0;
}

static void table_destroy(void *table, size_t bytes)
{
    if (table)
        munmap(table, bytes);
}

static int cache_init(struct cache *c, const struct cache_options *o)
{
    bool overlay = c->kind == CACHE_KIND_OVERLAY;
    struct memory_options memory = {
        .backing = c->set->backing,
        .folder = c->set->folder,
        .pool = c->set->pool,
        .build = o->build,
        .object = o->object,
        .bytes = round_up(c->size_bytes, GRANULE_BYTES),
        .granules = !overlay,
    };
    void *words = NULL, *states = NULL;
    int r = memory_init(&c->memory, &memory);

    if (r < 0)
        return r;
    c->guarded = c->memory.guarded;
    r = table_create(c->granules * sizeof(*c->words), &words);
    c->words = words;
    if (r == 0 && overlay)
        r = table_create(c->blocks * sizeof(*c->states), &states);
    c->states = states;
    return r;
}

static int create(struct cache_set *set, enum cache_kind kind, const struct cache_options *o,
                  struct cache **ret, struct thaw_error *e)
{
    /* Blocks are counted in 32 bits, as everywhere in a build. */
    uint64_t max = kind == CACHE_KIND_OVERLAY ? UINT32_MAX * PAGE_BYTES : 16 * TIB;
    struct cache *c CLEANUP_CACHE = NULL;
    int r;

    if (o->size_bytes > max)
        return err_set(e, -EFBIG, "object %s of %llu bytes: the limit is %llu", o->object,
                       (unsigned long long)o->size_bytes, (unsigned long long)max);
    c = aligned_alloc(_Alignof(struct cache), sizeof(*c));
    if (!c)
        return err_set(e, -ENOMEM, "no memory for a cache");
    memset(c, 0, sizeof(*c));
    c->memory = (struct memory)MEMORY_INIT;
    c->set = set;
    c->kind = kind;
    c->size_bytes = o->size_bytes;
    c->granules = (uint32_t)div_round_up(o->size_bytes, GRANULE_BYTES);
    if (kind == CACHE_KIND_OVERLAY) {
        c->blocks = (uint32_t)div_round_up(o->size_bytes, PAGE_BYTES);
        atomic_fetch_add_explicit(&set->overlays, 1, memory_order_relaxed); /* until it is closed */
    }
    r = cache_init(c, o);
    if (r < 0)
        return err_errno(e, r, "making the cache of %s (backing %s)", o->object,
                         cache_backing_name(set->backing));
    *ret = TAKE_PTR(c);
    return 0;
}

int cache_create(struct cache_set *set, const struct cache_options *options, struct cache **ret,
                 struct thaw_error *e)
{
    return create(set, CACHE_KIND_READ_THROUGH, options, ret, e);
}

int cache_create_overlay(struct cache_set *set, const struct cache_options *options,
                         struct cache **ret, struct thaw_error *e)
{
    return create(set, CACHE_KIND_OVERLAY, options, ret, e);
}

/* --- use, and its end --- */

void word_wait(_Atomic(uint32_t) *word, uint32_t busy)
{
    uint32_t value;

    /* Acquire pairs with the release of whoever clears the last of these bits. */
    while ((value = atomic_load_explicit(word, memory_order_acquire)) & busy)
        syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, value, NULL);
}

void word_wake(_Atomic(uint32_t) *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT32_MAX);
}

int cache_enter(struct cache *c)
{
    uint32_t users = atomic_load_explicit(&c->users, memory_order_relaxed);

    /* Not counted first and taken back if closed: that could keep a close waiting for ever. */
    do {
        if (users & USERS_CLOSED)
            return -ESHUTDOWN;
    } while (!atomic_compare_exchange_weak_explicit(&c->users, &users, users + 1,
                                                    memory_order_acquire, memory_order_relaxed));
    return 0;
}

void cache_leave(struct cache *c)
{
    _Atomic(uint32_t) *users = &c->users;

    /* After the subtraction the cache may be gone. */
    if (atomic_fetch_sub_explicit(users, 1, memory_order_release) == (USERS_CLOSED | 1))
        word_wake(users);
}

int cache_enter_overlay(struct cache *c)
{
    int r = cache_enter(c);

    if (r == 0 && c->kind != CACHE_KIND_OVERLAY) {
        cache_leave(c);
        return -EROFS;
    }
    return r;
}

bool cache_is_closed(const struct cache *c)
{
    return atomic_load_explicit(&c->users, memory_order_acquire) & USERS_CLOSED;
}

/* The accounts are exact as long as there is a file descriptor; with it all is given back. */
static void cache_discharge_all(struct cache *c)
{
    uint64_t kept = atomic_exchange_explicit(&c->kept_bytes, 0, memory_order_relaxed);
    uint64_t passing = atomic_exchange_explicit(&c->passing_bytes, 0, memory_order_relaxed);

    set_discharge(c->set, kept);
    set_count(&c->set->passing_bytes, -(int64_t)passing);
    set_count(&c->set->bytes[c->kind], -(int64_t)(kept + passing));
}

int cache_close(struct cache *c)
{
    uint32_t was = atomic_fetch_or_explicit(&c->users, USERS_CLOSED, memory_order_acq_rel);

    if (was & USERS_CLOSED)
        return -ESHUTDOWN;
    word_wait(&c->users, ~USERS_CLOSED);
    /* Whoever drops a granule for another one has been a user, and finds none from here on. */
    passing_forget(c->set, c);
    if (c->words) /* NULL: it could only be made by half */
        granules_close(c);
    memory_finish(&c->memory);
    cache_discharge_all(c);
    if (c->kind == CACHE_KIND_OVERLAY)
        atomic_fetch_sub_explicit(&c->set->overlays, 1, memory_order_relaxed);
    return 0;
}

void cache_destroy(struct cache *c)
{
    if (!c)
        return;
    cache_close(c);
    table_destroy(c->words, c->granules * sizeof(*c->words));
    table_destroy(c->states, c->blocks * sizeof(*c->states));
    free(c);
}

/* --- operations of both kinds --- */

int64_t cache_size(const struct cache *c)
{
    return cache_is_closed(c) ? -ESHUTDOWN : (int64_t)c->size_bytes;
}

int64_t cache_allocated_bytes(struct cache *c)
{
    int64_t r = cache_enter(c);

    if (r < 0)
        return r;
    if (!c->memory.pool)
        r = memory_allocated_bytes(&c->memory);
    else if (c->kind == CACHE_KIND_OVERLAY)
        r = log_bytes(&c->memory);
    else
        r = (int64_t)atomic_load_explicit(&c->kept_bytes, memory_order_relaxed);
    cache_leave(c);
    return r;
}

bool cache_guarded(const struct cache *c)
{
    return c->guarded;
}

uint64_t cache_clip(const struct cache *c, uint64_t off, uint64_t len)
{
    return off < c->size_bytes ? MIN(len, c->size_bytes - off) : 0;
}

ssize_t cache_read(struct cache *c, uint64_t off, void *buf, size_t len)
{
    int r = cache_enter(c);

    if (r < 0)
        return r;
    len = cache_clip(c, off, len);
    if (c->kind == CACHE_KIND_OVERLAY)
        r = overlay_read(c, off, buf, len);
    else
        r = granules_read(c, off, buf, len);
    cache_leave(c);
    return r < 0 ? r : (ssize_t)len;
}

int cache_present(struct cache *c, uint64_t off, uint64_t len_bytes)
{
    int r = cache_enter(c);

    if (r < 0)
        return r;
    len_bytes = cache_clip(c, off, len_bytes);
    if (c->kind == CACHE_KIND_OVERLAY)
        r = overlay_present(c, off, len_bytes);
    else
        r = granules_present(c, off, len_bytes);
    cache_leave(c);
    return r;
}

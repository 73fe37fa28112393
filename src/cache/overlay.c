/* SPDX-License-Identifier: Apache-2.0 */

/* An overlay: what its one owner has written, block by block. */
#include "cache/internal.h"

#include <errno.h>
#include <string.h>

#include "cache/segments.h"
#include "cache/spill_internal.h"
#include "cache/tiered.h"

static enum cache_block load(const struct cache *c, uint32_t block)
{
    /* Acquire pairs with the release in set_states(): who sees it dirty sees the data. */
    return (enum cache_block)atomic_load_explicit(&c->states[block], memory_order_acquire);
}

enum cache_block overlay_run(const struct cache *c, uint32_t block, uint32_t end, uint32_t *ret_end)
{
    enum cache_block state = load(c, block);

    do
        block++;
    while (block < end && load(c, block) == state);
    *ret_end = block;
    return state;
}

static uint32_t block_of(uint64_t off)
{
    return (uint32_t)(off / PAGE_BYTES);
}

static uint32_t block_end(uint64_t off, uint64_t len)
{
    return (uint32_t)div_round_up(off + len, PAGE_BYTES);
}

int cache_block_run(struct cache *c, uint64_t off, uint64_t len_bytes, uint64_t *ret_bytes)
{
    int r = cache_enter_overlay(c);
    uint32_t end;

    if (r < 0)
        return r;
    if (len_bytes == 0 || cache_clip(c, off, len_bytes) < len_bytes) {
        r = -EINVAL;
    } else {
        r = (int)overlay_run(c, block_of(off), block_end(off, len_bytes), &end);
        *ret_bytes = MIN(end * PAGE_BYTES - off, len_bytes);
    }
    cache_leave(c);
    return r;
}

int cache_dirty_memory(struct cache *c, uint64_t off, uint64_t len_bytes, const void **ret,
                       uint64_t *ret_bytes)
{
    int r = cache_block_run(c, off, len_bytes, ret_bytes);

    if (r < 0)
        return r;
    if (r != CACHE_BLOCK_DIRTY)
        return -ENODATA;
    *ret = memory_dirty(&c->memory, off, *ret_bytes, ret_bytes);
    return *ret ? 0 : -ENODATA;
}

bool overlay_present(const struct cache *c, uint64_t off, uint64_t len)
{
    uint32_t end = block_end(off, len);

    for (uint32_t b = block_of(off); len > 0 && b < end;) {
        if (overlay_run(c, b, end, &b) == CACHE_BLOCK_CLEAN)
            return false;
    }
    return true;
}

/*
 * The first of *@len bytes of dirty blocks, up to where they lie somewhere else: *@len. What has
 * been spilled is there if it is in memory. -EAGAIN if the owner has moved them.
 */
static int read_placed(const struct cache *c, uint64_t off, void *buf, size_t *len)
{
    const struct memory *m = &c->memory;
    uint64_t run, still;
    uint32_t place = tiered_run(m, off, *len, &run);
    int r;

    if (place == 0)
        return -EAGAIN;
    if (place & PLACE_SPILLED) {
        struct cache_spilled at = spilled_at(place, off);

        run = MIN(run, GRANULE_BYTES - at.offset);
        r = spill_copy(log_spill(m), at, buf, run);
        /* It may have been another one's granule by the time it was pinned. */
        if (tiered_run(m, off, run, &still) != place || still < run)
            r = -EAGAIN;
    } else {
        /* The owner gives no slot up while we are in a call. */
        r = memory_copy(m->view + (place - 1) * PAGE_BYTES + off % PAGE_BYTES, buf, run);
    }
    *len = run;
    return r;
}

/* Bytes of dirty blocks up to @end, which may be given back while we copy. */
static int read_dirty(const struct cache *c, uint64_t off, void *buf, size_t len, uint32_t end)
{
    uint64_t changes = atomic_load_explicit(&c->changes, memory_order_acquire);
    int r = memory_read(&c->memory, off, buf, len);
    uint32_t still;

    if (r != -EFAULT)
        return r;
    /* A hole that the owner has just made is no mistake: look at the states again. */
    if (atomic_load_explicit(&c->changes, memory_order_acquire) != changes)
        return -EAGAIN;
    if (overlay_run(c, block_of(off), end, &still) != CACHE_BLOCK_DIRTY || still < end)
        return -EAGAIN;
    return r;
}

int overlay_read(const struct cache *c, uint64_t off, void *buf, size_t len)
{
    while (len > 0) {
        uint32_t end;
        enum cache_block state = overlay_run(c, block_of(off), block_end(off, len), &end);
        size_t n = MIN(len, end * PAGE_BYTES - off);
        int r = 0;

        if (state == CACHE_BLOCK_CLEAN)
            return -ENODATA;
        if (state == CACHE_BLOCK_DIRTY && c->memory.pool)
            r = read_placed(c, off, buf, &n);
        else if (state == CACHE_BLOCK_DIRTY)
            r = read_dirty(c, off, buf, n, end);
        else
            memset(buf, 0, n);
        if (r == -EAGAIN)
            continue;
        if (r < 0)
            return r;
        buf = (char *)buf + n;
        off += n;
        len -= n;
    }
    return 0;
}

/* --- the owner --- */

/* Whole blocks within the cache; the last one ends where the cache does. */
static bool whole_blocks(const struct cache *c, uint64_t off, uint64_t len)
{
    if (off > c->size_bytes || len > c->size_bytes - off || off % PAGE_BYTES != 0)
        return false;
    return len % PAGE_BYTES == 0 || off + len == c->size_bytes;
}

static int begin(struct cache *c, uint64_t off, uint64_t len)
{
    int r = cache_enter_overlay(c);

    if (r < 0)
        return r;
    if (!whole_blocks(c, off, len)) {
        cache_leave(c);
        return -EINVAL;
    }
    /* The states that follow are releases: who sees one of them sees this. */
    atomic_fetch_add_explicit(&c->changes, 1, memory_order_acq_rel);
    return 0;
}

/*
 * Whether nobody is in a call but us. Whoever comes later sees the states that we have set: his
 * change of `users` acquires what ours releases. What those read who have gone was read before.
 */
static bool alone(struct cache *c)
{
    uint32_t users = atomic_fetch_add_explicit(&c->users, 0, memory_order_acq_rel);

    return (users & ~USERS_CLOSED) == 1;
}

void overlay_settle(struct cache *c)
{
    if (!log_waits(&c->memory) || !alone(c))
        return;
    log_settle(&c->memory);
    if (log_spill(&c->memory))
        spill_settled(log_spill(&c->memory));
}

static int end(struct cache *c, int r)
{
    struct spill *s = log_spill(&c->memory);

    overlay_settle(c);
    if (s)
        spill_pump(s);
    atomic_fetch_add_explicit(&c->changes, 1, memory_order_release);
    cache_leave(c);
    return r;
}

static void set_states(struct cache *c, uint64_t off, uint64_t len, enum cache_block state)
{
    uint32_t last = block_end(off, len);

    for (uint32_t b = block_of(off); b < last; b++)
        atomic_store_explicit(&c->states[b], (uint8_t)state, memory_order_release);
}

/* --- accounts: a block that is dirty takes its memory, and no other one does --- */

/* The bytes of the blocks in the range that are, or are not, dirty. */
static uint64_t block_bytes(const struct cache *c, uint64_t off, uint64_t len, bool dirty)
{
    uint32_t last = block_end(off, len), n = 0;

    for (uint32_t b = block_of(off); b < last; b++)
        n += (load(c, b) == CACHE_BLOCK_DIRTY) == dirty;
    return n * PAGE_BYTES;
}

static int charge(struct cache *c, uint64_t bytes)
{
    if (bytes == 0)
        return 0;
    if (!set_charge(c->set, bytes)) {
        set_count(&c->set->refused, 1);
        return -ENOSPC;
    }
    set_count(&c->kept_bytes, (int64_t)bytes);
    set_count(&c->set->bytes[c->kind], (int64_t)bytes);
    return 0;
}

static void discharge(struct cache *c, uint64_t bytes)
{
    if (bytes == 0)
        return;
    set_count(&c->kept_bytes, -(int64_t)bytes);
    set_count(&c->set->bytes[c->kind], -(int64_t)bytes);
    set_discharge(c->set, bytes);
}

/* A write has failed half way: blocks that have not become dirty take no memory either. */
static void undo_write(struct cache *c, uint64_t off, uint64_t len)
{
    uint32_t last = block_end(off, len), end;

    for (uint32_t b = block_of(off); b < last; b = end) {
        if (overlay_run(c, b, last, &end) != CACHE_BLOCK_DIRTY)
            (void)!memory_drop(&c->memory, b * PAGE_BYTES, (end - b) * PAGE_BYTES);
    }
}

/* --- */

int cache_write(struct cache *c, uint64_t off, const void *buf, size_t len)
{
    int r = begin(c, off, len);
    uint64_t fresh;

    if (r < 0)
        return r;
    fresh = block_bytes(c, off, len, false);
    r = charge(c, fresh);
    if (r < 0)
        return end(c, r);
    if (fresh > 0)
        r = memory_write(&c->memory, off, buf, len);
    else
        r = memory_overwrite(&c->memory, off, buf, len);
    if (r == 0) {
        set_states(c, off, len, CACHE_BLOCK_DIRTY);
    } else {
        undo_write(c, off, len);
        discharge(c, fresh);
        if (c->memory.pool && !log_spill(&c->memory)) /* else it may wait: cache_await_room() */
            set_count(&c->set->refused, 1);
    }
    return end(c, r);
}

int cache_write_zeroes(struct cache *c, uint64_t off, uint64_t len_bytes)
{
    int r = begin(c, off, len_bytes);
    uint64_t dirty;

    if (r < 0)
        return r;
    if (len_bytes > 0) {
        dirty = block_bytes(c, off, len_bytes, true);
        /* First the state: whoever then runs into the hole finds out why. */
        set_states(c, off, len_bytes, CACHE_BLOCK_ZERO);
        r = memory_drop(&c->memory, off, round_up(len_bytes, PAGE_BYTES));
        /* What cannot be given back stays charged, until the cache is closed. */
        if (r == 0)
            discharge(c, dirty);
    }
    return end(c, r);
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_INTERNAL_H
#define THAW_CACHE_INTERNAL_H

/* Shared between the files of src/cache: what a cache is made of, and how its use is counted. */

#include <stdatomic.h>

#include "base/units.h"
#include "cache/cache.h"
#include "cache/memory.h"
#include "cache/pool.h"
#include "cache/set_internal.h"

/*
 * The word of a granule: its state, whether the cache is being closed, whether it will not be kept,
 * whether it was pinned since the pool's clock passed, and in the bits above how often it is
 * pinned. Only a ready granule is pinned, and only a ready one is marked as closed.
 */
enum {
    WORD_ABSENT = 0,
    WORD_FILLING = 1, /* or being dropped */
    WORD_READY = 2,
    WORD_CLOSED = 4,
    WORD_STATE = 7, /* all of the above */
    WORD_PASSING = 8,
    WORD_USED = 16,
    WORD_MARKS = WORD_PASSING | WORD_USED,
    WORD_PIN = 32
};

/* Builds that look for mistakes overwrite what they free (pool.c): those for debugging, which meson
 * tells, and those with sanitizers. */
#if defined(THAW_DEBUG_BUILD)
#define POOL_SCRIBBLES 1
#elif defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
#define POOL_SCRIBBLES 1
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
#define POOL_SCRIBBLES 1
#endif
#endif
#ifndef POOL_SCRIBBLES
#define POOL_SCRIBBLES 0
#endif
#define POOL_SCRIBBLE 0xfe

/* In cache.users: closed; the bits below count calls and fills under way. */
#define USERS_CLOSED (UINT32_C(1) << 31)

struct cache {
    /* [a] apart from what a pin reads, as every call and every fill changes it. */
    _Alignas(64) _Atomic(uint32_t) users;
    enum cache_kind kind;
    struct cache_set *set; /* borrowed */
    uint64_t size_bytes;
    uint32_t blocks; /* of an overlay; 0 otherwise */
    bool guarded;
    _Atomic(uint8_t) *states;        /* owned: [a] enum cache_block, one per block; NULL without */
    _Atomic(uint64_t) changes;       /* [a] odd while the owner writes, another number after it */
    _Atomic(uint64_t) kept_bytes;    /* [a] taken, and charged to the set's budget if it has one */
    _Atomic(uint64_t) passing_bytes; /* [a] taken besides */

    _Alignas(64) struct memory memory; /* owned: touched by users and under pins only */
    _Atomic(uint32_t) *words;          /* owned: [a] one per granule; of an overlay all absent */
    uint32_t granules;
};

/** cache_enter() - begin to use the cache; 0, to be ended with cache_leave(), or -ESHUTDOWN */
[[gnu::warn_unused_result]] int cache_enter(struct cache *c);

void cache_leave(struct cache *c);

/** cache_enter_overlay() - the same where the operation is one of overlays; or -EROFS */
[[gnu::warn_unused_result]] int cache_enter_overlay(struct cache *c);

bool cache_is_closed(const struct cache *c);

/** cache_clip() - how much of [off, off + len) lies within the cache */
uint64_t cache_clip(const struct cache *c, uint64_t off, uint64_t len);

/** word_wait() - sleep until no bit of @busy is set in @word (acquire) */
void word_wait(_Atomic(uint32_t) *word, uint32_t busy);

/** word_wake() - wake who waits for @word, which may be gone already: it is not looked at */
void word_wake(_Atomic(uint32_t) *word);

/* --- granules.c; the caller has entered the cache, or is closing it --- */

[[gnu::warn_unused_result]] int granules_read(struct cache *c, uint64_t off, void *buf, size_t len);
bool granules_present(const struct cache *c, uint64_t off, uint64_t len);

/** granules_close() - nothing can be pinned any more, and nothing is. No fill is under way. */
void granules_close(struct cache *c);

/**
 * granule_begin_drop() - let nobody pin a passing granule any more
 *
 * For whoever sees to it that the cache is not destroyed until this has returned. Makes no system
 * call. Returns false if it is pinned or the cache is closed; otherwise granule_end_drop() follows.
 */
[[gnu::warn_unused_result]] bool granule_begin_drop(struct cache *c, uint32_t granule);

/** granule_end_drop() - give its memory back; then it is absent */
void granule_end_drop(struct cache *c, uint32_t granule);

enum granule_eviction { GRANULE_EVICTED, GRANULE_SPARED, GRANULE_BUSY };

/**
 * granule_evict() - a granule in a pool, for the pool: make it absent, if it is not pinned
 * @spare: not if it has been used since it was last asked; that is forgotten then
 *
 * For whoever sees to it that the cache is not destroyed until this has returned. Returns
 * GRANULE_EVICTED and its slot is the caller's, GRANULE_SPARED, or GRANULE_BUSY: pinned, or its
 * cache is being closed.
 */
[[gnu::warn_unused_result]] enum granule_eviction granule_evict(struct cache *c, uint32_t granule,
                                                                bool spare);

/* For spill.c: a segment that has been written to a file becomes a granule of that file's cache. */

/**
 * granule_claim() - let nobody fill @granule, of a cache in a pool, or find it there
 *
 * Returns false if it is pinned or being filled, or in a slot that is still dirty: try again.
 */
[[gnu::warn_unused_result]] bool granule_claim(struct cache *c, uint32_t granule);

/** granule_unclaim() - it is absent, and whoever likes may fill it */
void granule_unclaim(struct cache *c, uint32_t granule);

/** granule_keep() - it is ready, in @slot, which pool_adopt() shall put into the queue later */
void granule_keep(struct cache *c, uint32_t granule, uint32_t slot);

/* --- overlay.c; the same --- */

/** overlay_settle() - give up what nobody looks at any more. The owner, while in a call. */
void overlay_settle(struct cache *c);

/** overlay_run() - the state of @block; *@ret_end is the first one from there to @end unlike it */
enum cache_block overlay_run(const struct cache *c, uint32_t block, uint32_t end,
                             uint32_t *ret_end);

[[gnu::warn_unused_result]] int overlay_read(const struct cache *c, uint64_t off, void *buf,
                                             size_t len);
bool overlay_present(const struct cache *c, uint64_t off, uint64_t len);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_CACHE_H
#define THAW_CACHE_CACHE_H

/*
 * A cache holds the U-space of one stored object, granule by granule. It knows nothing of stores
 * and does no I/O: whoever fills a granule reserves it, writes its memory, and publishes it.
 *
 * Each granule has one atomic word:
 *
 *     absent --reserve--> filling --publish--> ready(pins)
 *        ^                   |
 *        +-----abandon-------+
 *
 * A granule's memory is read only between cache_pin() and cache_unpin(), and written only between
 * cache_reserve() and cache_publish() or cache_abandon(), by the one who reserved it. That is the
 * whole contract between those who fill and those who serve; no lock is involved.
 *
 * Any thread may call anything but create and destroy.
 *
 * This backing keeps the object in a sparse memfd named "thaw:<build8>:<object>", sealed against
 * growing and shrinking; memory is taken when a granule is filled.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/uuid.h"

struct cache;
struct thaw_error;

/**
 * cache_create() - an empty cache
 * @build, @object: what it is a cache of, for the name of its memory
 * @size_bytes: of the object's U-space; 0 is allowed and takes no memory
 */
[[gnu::warn_unused_result]] int cache_create(const struct uuid *build, const char *object,
                                             uint64_t size_bytes, struct cache **ret,
                                             struct thaw_error *e);

/** cache_destroy() - release all memory; nothing may be pinned or being filled. NULL is allowed. */
void cache_destroy(struct cache *c);

DEFINE_CLEANUP(struct cache, cache_destroy);
#define CLEANUP_CACHE CLEANUP(cleanup_cache_destroy)

/** cache_granules() - how many granules the object has; the last one may be short */
uint32_t cache_granules(const struct cache *c);

/** cache_granule_bytes() - how many bytes of @granule belong to the object */
size_t cache_granule_bytes(const struct cache *c, uint32_t granule);

enum cache_state { CACHE_ABSENT, CACHE_FILLING, CACHE_READY };

/** cache_state() - what @granule was a moment ago */
enum cache_state cache_state(const struct cache *c, uint32_t granule);

/**
 * cache_reserve() - claim an absent granule for filling
 *
 * Returns: 0 and the memory to fill (GRANULE_BYTES, page-aligned; granules that follow each other
 * follow each other in memory) in *@ret, or -EALREADY if it is ready, -EBUSY if it is being filled.
 */
[[gnu::warn_unused_result]] int cache_reserve(struct cache *c, uint32_t granule, void **ret);

/** cache_publish() - filled and verified: from now on it can be pinned */
void cache_publish(struct cache *c, uint32_t granule);

/** cache_abandon() - could not be filled: absent again, its memory may hold anything */
void cache_abandon(struct cache *c, uint32_t granule);

/** cache_pin() - the memory of a ready granule, which stays as it is until unpinned; else NULL */
const void *cache_pin(struct cache *c, uint32_t granule);

void cache_unpin(struct cache *c, uint32_t granule);

/** cache_allocated_bytes() - memory taken now, as the kernel counts it; or -errno */
int64_t cache_allocated_bytes(const struct cache *c);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_CACHE_H
#define THAW_CACHE_CACHE_H

/*
 * A cache holds the U-space of one stored object, or what one overlay has changed. It knows nothing
 * of stores and fetches nothing. There are two kinds; src/cache/README.md has the whole theory.
 *
 * A read-through cache is filled granule by granule by whoever fetches:
 *
 *     absent --reserve--> filling --publish--> ready(pins)
 *        ^                   |
 *        +-----abandon-------+
 *
 * A granule's memory is read only between cache_pin() and cache_unpin(), and written only between
 * cache_reserve() and cache_publish() or cache_abandon(), by the one who reserved it. That is the
 * whole contract between those who fill and those who serve; no lock is involved.
 *
 * An overlay is written block by block, by one thread at a time, its owner; a block is clean (what
 * lies below shows), dirty, or zero. Operations of the other kind are -EROFS.
 *
 * Any thread may call anything (of an overlay: anything that does not write), also while another
 * closes the cache; from then on everything is -ESHUTDOWN. Nobody may be in a call when it is
 * destroyed. cache_close(), cache_destroy() and cache_export() block; nothing else does.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/uuid.h"
#include "cache/set.h"

struct cache;
struct page_set;
struct thaw_error;

/**
 * struct cache_options - what a cache is of
 * @build, @object: for the name of its memory, "thaw:<build8>:<object>", or of its file,
 *                  "thaw-<build8>-<object>-<random>"
 * @size_bytes: of the object's U-space, up to 16 TiB; 0 is allowed and takes no memory
 */
struct cache_options {
    const struct uuid *build;
    const char *object;
    uint64_t size_bytes;
};

/** cache_create() - an empty read-through cache. @set must outlive it. */
[[gnu::warn_unused_result]] int cache_create(struct cache_set *set,
                                             const struct cache_options *options,
                                             struct cache **ret, struct thaw_error *e);

/** cache_create_overlay() - the same for an overlay, all of it clean */
[[gnu::warn_unused_result]] int cache_create_overlay(struct cache_set *set,
                                                     const struct cache_options *options,
                                                     struct cache **ret, struct thaw_error *e);

/**
 * cache_close() - refuse all further use, wait for what is in use, release the memory
 *
 * Waits for pins, fills under way and calls that have begun. The caller has none of these itself.
 *
 * Returns: 0, or -ESHUTDOWN when it was closed before (by whoever may still be waiting).
 */
int cache_close(struct cache *c);

/** cache_destroy() - close it unless somebody has, and free the rest. NULL is allowed. */
void cache_destroy(struct cache *c);

DEFINE_CLEANUP(struct cache, cache_destroy);
#define CLEANUP_CACHE CLEANUP(cleanup_cache_destroy)

/* --- both kinds --- */

/** cache_size() - bytes, as it was created; or -ESHUTDOWN */
int64_t cache_size(const struct cache *c);

/** cache_allocated_bytes() - memory or disk taken now, as the kernel counts it; or -errno */
int64_t cache_allocated_bytes(struct cache *c);

/**
 * cache_guarded() - whether a hole in its memory is an error to whoever reads it, never zeros
 *
 * A file has no such guard: see "a lost page" in README.md.
 */
bool cache_guarded(const struct cache *c);

/**
 * cache_read() - copy bytes out
 *
 * Returns: how many, short at the end of the object and 0 beyond it. -ENODATA when something in
 * the range is absent or clean, -EFAULT when its memory has a hole or the disk under it fails,
 * -ESHUTDOWN; on failure @buf may hold anything.
 */
[[gnu::warn_unused_result]] ssize_t cache_read(struct cache *c, uint64_t off, void *buf,
                                               size_t len);

/** cache_present() - 1 if cache_read() has all of the range (what of it there is), 0 or -ESHUTDOWN
 */
[[gnu::warn_unused_result]] int cache_present(struct cache *c, uint64_t off, uint64_t len_bytes);

/* --- read-through caches --- */

/** cache_granules() - how many granules the object has; the last one may be short. Also if closed.
 */
uint32_t cache_granules(const struct cache *c);

/** cache_granule_bytes() - how many bytes of @granule belong to the object. Also if closed. */
size_t cache_granule_bytes(const struct cache *c, uint32_t granule);

enum cache_state { CACHE_ABSENT, CACHE_FILLING, CACHE_READY, CACHE_CLOSED };

/** cache_state() - what @granule was a moment ago; CACHE_CLOSED for all of them after a close */
enum cache_state cache_state(const struct cache *c, uint32_t granule);

/**
 * cache_reserve() - claim an absent granule for filling
 * @room: from cache_room_take(); on success one granule less of it
 *
 * Makes no system call and takes no lock.
 *
 * Returns: 0 and the memory to fill (GRANULE_BYTES, page-aligned; where another granule's is says
 * nothing about it; what is in it means nothing) in *@ret; -EALREADY if it is ready, -EBUSY if it
 * is being filled or dropped, -ESHUTDOWN, -EROFS.
 */
[[gnu::warn_unused_result]] int cache_reserve(struct cache *c, uint32_t granule,
                                              struct cache_room *room, void **ret);

/**
 * cache_publish() - filled and verified: from now on it can be pinned. Not under a lock.
 *
 * All bytes must have been written, zeros too: what never was is a hole.
 *
 * Returns: a hold to be put back, if it is a passing granule: else it may be gone at once.
 */
struct cache_hold cache_publish(struct cache *c, uint32_t granule);

/** cache_unreserve() - take back a reservation in a pool: the room is @room's again */
void cache_unreserve(struct cache *c, uint32_t granule, struct cache_room *room);

/** cache_abandon() - could not be filled: absent again, without memory. Not under a lock. */
void cache_abandon(struct cache *c, uint32_t granule);

/**
 * cache_fill_error() - why a reserved granule could not be filled
 * @error: of the system call that should have; or -EFAULT for a store that bus_call() broke off
 *
 * Returns: @error, but for -EFAULT what is behind it: the file system has no room (-ENOSPC), fails
 * (-EIO), or whatever it says. May block.
 */
int cache_fill_error(const struct cache *c, uint32_t granule, int error);

/**
 * cache_pin() - the memory of a ready granule, to read
 *
 * It stays as it is until it is unpinned, which should be soon. If the cache is guarded and the
 * memory has a hole after all, a system call that reads it gets -EFAULT, and a load is a SIGBUS; so
 * it is if the disk under a file fails. See bus_copy() in cache/bus.h.
 *
 * Returns: NULL if @granule is not ready; cache_state() knows why.
 */
const void *cache_pin(struct cache *c, uint32_t granule);

/** cache_peek() - the same for who does not use it: that keeps nothing in memory any longer */
const void *cache_peek(struct cache *c, uint32_t granule);

/** cache_unpin() - after cache_pin() or cache_peek() */
void cache_unpin(struct cache *c, uint32_t granule);

/* --- overlays: blocks are of PAGE_BYTES --- */

enum cache_block { CACHE_BLOCK_CLEAN, CACHE_BLOCK_DIRTY, CACHE_BLOCK_ZERO };

/**
 * cache_block_run() - how the block at @off is
 * @ret_bytes: up to where in [off, off + len_bytes) all blocks are the same
 *
 * Returns: enum cache_block, -EINVAL if the range is empty or not within the cache, -ESHUTDOWN or
 * -EROFS. Whoever sees a block dirty sees what was written.
 */
[[gnu::warn_unused_result]] int cache_block_run(struct cache *c, uint64_t off, uint64_t len_bytes,
                                                uint64_t *ret_bytes);

/**
 * cache_dirty_memory() - where the bytes of dirty blocks lie, to read. The owner only.
 * @ret_bytes: how many bytes from @off on lie there, up to @len_bytes
 *
 * For an owner that hands them on at once, as to sendmsg(2): they stay until it writes, zeroes or
 * closes. Holes are as for cache_pin().
 *
 * Returns: 0; -ENODATA if the block at @off is not dirty, -EINVAL, -ESHUTDOWN or -EROFS.
 */
[[gnu::warn_unused_result]] int cache_dirty_memory(struct cache *c, uint64_t off,
                                                   uint64_t len_bytes, const void **ret,
                                                   uint64_t *ret_bytes);

/**
 * cache_write() - write whole blocks, which are dirty from then on. The owner only.
 *
 * The last block of an overlay whose size is not a multiple of the block ends with it.
 *
 * Returns: 0; -EINVAL if the range is not of whole blocks or not within the cache, -ENOSPC when the
 * budget is spent or the disk is full, -ENOMEM or -EIO (blocks that were dirty before may have
 * changed then), -ESHUTDOWN or -EROFS.
 */
[[gnu::warn_unused_result]] int cache_write(struct cache *c, uint64_t off, const void *buf,
                                            size_t len);

/**
 * cache_write_zeroes() - make whole blocks zero and give their memory back. The owner only.
 *
 * A trim is the same: what lies below must not show again.
 *
 * Returns: as cache_write(). If memory could not be given back it reads as zeros all the same.
 */
[[gnu::warn_unused_result]] int cache_write_zeroes(struct cache *c, uint64_t off,
                                                   uint64_t len_bytes);

/**
 * cache_export() - write the dirty blocks, one after the other, to a new file
 * @dir_fd: the folder, open; @name: of the file in it
 * @ret_dirty: the blocks that are in the file, in its order
 * @ret_empty: the blocks that are zero; both the caller's to finish
 *
 * The owner must be at rest: if it writes meanwhile this fails with -EBUSY. A cache of backing
 * `file` whose file system can share blocks with the new file does that; else the data goes past
 * the page cache (O_DIRECT). It is on the disk, as is the name, on return. On failure there is no
 * file.
 *
 * Returns: 0, -EEXIST, -EINVAL where the file system knows no O_DIRECT, -EBUSY, -ESHUTDOWN, -EROFS,
 * or another -errno of the file system; all with their reason in @e.
 */
[[gnu::warn_unused_result]] int cache_export(struct cache *c, int dir_fd, const char *name,
                                             struct page_set *ret_dirty, struct page_set *ret_empty,
                                             struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_OVERLAY_H
#define THAW_IMAGE_OVERLAY_H

/*
 * A writable layer over an image: what has been changed lies in an overlay cache, in blocks of
 * PAGE_BYTES, everything else in the image, which is never written. A block is
 *
 *     CLEAN   as the image has it
 *     DIRTY   in the cache, whatever the image says; or in a file that the cache spills to
 *     ZERO    zeros, whatever the image says; takes no memory
 *
 * and never becomes clean again. What the overlay has of a block hides the image: it is not even
 * asked for there.
 *
 * An overlay belongs to one thread, which makes all calls but those that say otherwise. None of
 * them blocks but create, spill_to, destroy and export. What is not there is for the caller to ask
 * for, be it of the image or of what was spilled.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/uuid.h"
#include "image/image.h"

struct cache_spill_counters;
struct mailbox;
struct overlay;
struct page_set;
struct thaw_error;

/**
 * overlay_create() - an overlay that has changed nothing yet
 * @image: what lies below; borrowed, must outlive the overlay
 * @build, @name: for the name of the memory, "thaw:<build8>:<name>"
 */
[[gnu::warn_unused_result]] int overlay_create(struct image *image, const struct uuid *build,
                                               const char *name, struct overlay **ret,
                                               struct thaw_error *e);

/**
 * overlay_spill_to() - let it write what memory has no room for to the disk tier
 * @inbox: of the thread that it belongs to
 * @resume: called on that thread: who awaits room tries again
 *
 * Before anything is written. If the caches have no disk tier, or it makes no file, everything is
 * as before, and a write without room gets -ENOSPC. Blocks.
 * Returns: 0, or -ENOMEM with the reason in @e.
 */
[[gnu::warn_unused_result]] int overlay_spill_to(struct overlay *o, struct mailbox *inbox,
                                                 void (*resume)(void *arg), void *arg,
                                                 struct thaw_error *e);

/** overlay_stop() - nothing is written any more: what is under way will end, and nothing begins */
void overlay_stop(struct overlay *o);

/** overlay_under_way() - messages that will still come to the inbox; 0 before it is destroyed */
unsigned overlay_under_way(const struct overlay *o);

/** overlay_spill_counters() - all 0 if it does not spill. Any thread. */
struct cache_spill_counters overlay_spill_counters(const struct overlay *o);

/** overlay_destroy() - forget what was written. NULL is allowed. */
void overlay_destroy(struct overlay *o);
DEFINE_CLEANUP(struct overlay, overlay_destroy);
#define CLEANUP_OVERLAY CLEANUP(cleanup_overlay_destroy)

/** overlay_bytes() - the size, which is the image's. Any thread. */
uint64_t overlay_bytes(const struct overlay *o);

/** overlay_allocated_bytes() - memory and disk that the changes take; or -errno. Any thread. */
int64_t overlay_allocated_bytes(const struct overlay *o);

enum overlay_source { OVERLAY_CHANGED, OVERLAY_SPILLED, OVERLAY_ZEROS, OVERLAY_IMAGE };

/**
 * struct overlay_extent - what is at an offset, and how far that goes
 * @off, @len_bytes: which part of the disk
 * @at: for OVERLAY_IMAGE: where the image has it; may go further than @len_bytes. For
 *      OVERLAY_SPILLED: granule and offset in what has been spilled
 */
struct overlay_extent {
    enum overlay_source source;
    uint64_t off;
    uint64_t len_bytes;
    struct image_extent at;
};

/**
 * overlay_lookup() - what is at @off
 * @len_bytes: how much of it matters, more than 0; the extent is not longer
 *
 * Returns: 0, -EINVAL if the range is not within the overlay, -ESHUTDOWN.
 */
[[gnu::warn_unused_result]] int overlay_lookup(struct overlay *o, uint64_t off, uint64_t len_bytes,
                                               struct overlay_extent *ret);

/**
 * overlay_copy() - copy the first @len_bytes of an extent, which has as many, to @buf
 *
 * Reads through system calls, so that memory that was lost is an error of this read alone: a load
 * would be a SIGBUS, and that the end of all guests of this process.
 *
 * Returns: 0; -EAGAIN if it is not in memory now: ask with overlay_want(); -EFAULT if memory
 * was lost; -ESHUTDOWN. On failure @buf may hold anything.
 */
[[gnu::warn_unused_result]] int overlay_copy(struct overlay *o, const struct overlay_extent *x,
                                             void *buf, size_t len_bytes);

/**
 * overlay_pin() - the memory of an OVERLAY_IMAGE or OVERLAY_SPILLED extent, to be unpinned soon
 *
 * Returns: where its first byte is, or NULL if it is not in memory.
 */
const void *overlay_pin(struct overlay *o, const struct overlay_extent *x);

/** overlay_unpin() - source, layer and granule of @x are enough */
void overlay_unpin(struct overlay *o, const struct overlay_extent *x);

/** overlay_want() - ask for what could not be pinned; as image_want(). Then look it up again. */
[[gnu::warn_unused_result]] int overlay_want(struct overlay *o, const struct overlay_extent *x,
                                             enum io_priority priority, struct fetch_waiter *w);

/**
 * overlay_memory() - where the bytes of an OVERLAY_CHANGED extent lie
 * @ret_bytes: how many lie there, from the first one on: not always all of them
 *
 * To be handed to a system call at once: they stay until the next write. Holes are as for
 * cache_pin(). Returns: 0; -ENODATA if the extent is not changed, -ESHUTDOWN.
 */
[[gnu::warn_unused_result]] int overlay_memory(struct overlay *o, const struct overlay_extent *x,
                                               const void **ret, uint64_t *ret_bytes);

/**
 * overlay_write() - write whole blocks; the last one ends where the overlay does
 *
 * Returns: 0; -EINVAL if the range is not of whole blocks or not within the overlay; -ENOSPC or
 * -ENOMEM when there is no room (of blocks that were dirty before, some may have changed then),
 * which overlay_await_room() may know more of; -ESHUTDOWN.
 */
[[gnu::warn_unused_result]] int overlay_write(struct overlay *o, uint64_t off, const void *buf,
                                              size_t len_bytes);

/**
 * overlay_await_room() - whether a write that got -ENOSPC shall be tried again
 * @patience: of that write: 0 when it asks for the first time
 *
 * Returns: true, and resume() will be called; false: there is no hope. See cache/spill.h.
 */
[[gnu::warn_unused_result]] bool overlay_await_room(struct overlay *o, uint64_t *patience);

/** overlay_zero() - make whole blocks zero and give their memory back; as overlay_write() */
[[gnu::warn_unused_result]] int overlay_zero(struct overlay *o, uint64_t off, uint64_t len_bytes);

/** overlay_export() - write what is dirty to a new file: see cache_export(). Any thread. */
[[gnu::warn_unused_result]] int overlay_export(struct overlay *o, int dir_fd, const char *name,
                                               struct page_set *ret_dirty,
                                               struct page_set *ret_zero, struct thaw_error *e);

#endif

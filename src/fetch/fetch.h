/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FETCH_FETCH_H
#define THAW_FETCH_FETCH_H

/*
 * Bringing granules of stored objects into their caches, once for all who want them.
 *
 * A flight is one read of a run of granules that nobody else is reading. Whoever wants a granule
 * that is not there joins the flight that carries it, or makes one; when the granule has been
 * verified and published (or has failed), every waiter gets a message in the mailbox of its own
 * thread. Nobody waits inside a call.
 *
 *     fetch_pin() != NULL  ->  serve it, fetch_unpin()
 *     fetch_want() == 0    ->  a message will come; then pin (or see why not) again
 *     fetch_want() < 0     ->  -EALREADY: it has just become ready, pin now
 *
 * Invariants. A granule that no flight of its object carries is not FILLING, but for the moment in
 * which the cache drops it; it begins to be, and is listed, under the object's lock. Publishing and
 * abandoning come before the flight is taken off the list: whoever misses the flight finds how it
 * ended. The lock is a leaf: no system call and no callback under it. A failed granule is absent
 * again before its waiters are told, so the next request tries anew. A granule is published only
 * when its sum holds (or when the object has no sums: see below).
 *
 * Flights come from a fixed pool, and take room in the cache with them. When there is neither, a
 * waiter is parked, and told -EAGAIN when that may have changed. Nothing is allocated after
 * fetch_create() and fetch_object_open().
 *
 * When the memory budget is spent a granule is served, but not kept (cache/set.h). It stays until
 * the messages of all who waited for it have been delivered: who pins it in his deliver function
 * finds it there. Later it may be gone, and has to be asked for again.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/mailbox.h"
#include "base/units.h"
#include "cache/set.h"
#include "kernel/io.h"
#include "store/store.h"

struct cache;
struct fetch;
struct fetch_object;
struct thaw_error;
struct tier_file;

/**
 * struct fetch_waiter - somebody who waits for one granule
 * @msg: its deliver is called on the thread that reads @to
 * @to: where to send the message
 * @result: set before the message is sent: 0, the cause of the failure as -errno, or -EAGAIN when
 *          the request must be made again
 */
struct fetch_waiter {
    struct message msg;
    struct mailbox *to;
    int result;

    /* Fetch only. */
    uint32_t granule;
    struct fetch_waiter *next;
    struct fetch *fetch;
    struct cache_hold hold; /* on the granule, until deliver has returned */
    void (*deliver)(struct message *self);
};

/**
 * struct fetch_counters - what was read from the store, since the start
 * @read_bytes: bytes of objects read, sums not included; @disk_bytes: from the disk tier instead
 * @behind: granules that wait to be written to the disk tier
 * @not_written: granules that were not: they were gone by then, or the disk had no room or failed
 * @failed: granules that could not be read or did not verify
 */
struct fetch_counters {
    uint64_t flights;
    uint64_t read_bytes;
    uint64_t disk_bytes;
    uint64_t behind;
    uint64_t not_written;
    uint64_t failed;
    uint64_t unverified_bytes;
};

/**
 * fetch_create() - the machinery that all objects of a process share
 * @caches: what their caches are made with; borrowed, must outlive it
 */
[[gnu::warn_unused_result]] int fetch_create(struct cache_set *caches, struct fetch **ret,
                                             struct thaw_error *e);

/** fetch_caches() - what it was created with */
struct cache_set *fetch_caches(const struct fetch *f);

/** fetch_destroy() - all objects must be closed and all messages delivered. NULL is allowed. */
void fetch_destroy(struct fetch *f);

/** fetch_counters() - a snapshot. Any thread. */
struct fetch_counters fetch_counters(const struct fetch *f);

/**
 * struct fetch_object_options - which object
 * @name: of the data; @sums_name: of its granule sums, NULL or "" when there are none: then what is
 *        read is served unverified, and counted
 * @size_bytes: of the object, uncompressed
 * @content: a number that says what is in it, such as a part of its digest: a build may be deleted
 *           and made anew under its name. 0: not known
 */
struct fetch_object_options {
    struct store *store;
    struct uuid build;
    const char *name;
    const char *sums_name;
    uint64_t size_bytes;
    uint64_t content;
};

/**
 * fetch_object_open() - an object with its cache, empty unless somebody has it open. Reads nothing.
 *
 * Whoever opens the same object of the same store shares it; while the last one who had it closes
 * it, that is waited for. Any thread; blocks. Returns: 0, or -errno; -ESTALE when it is open with
 * another size or content.
 */
[[gnu::warn_unused_result]] int fetch_object_open(struct fetch *f,
                                                  const struct fetch_object_options *options,
                                                  struct fetch_object **ret, struct thaw_error *e);

/**
 * fetch_object_close() - have no more to do with it; NULL is allowed
 *
 * The caller awaits no message. The last one to close waits for flights to land, and releases it.
 */
void fetch_object_close(struct fetch_object *o);

/**
 * fetch_spill_open() - an object that no store has: what an overlay has spilled to @file
 * @file: borrowed, must outlive the object; of @granules granules
 *
 * Its granules are put into its cache (fetch_cache()) by whoever spills, and into the file. One
 * that is not in memory any more is read from there; if that fails, or its sum does not hold, the
 * message says why. fetch_object_close() it.
 */
[[gnu::warn_unused_result]] int fetch_spill_open(struct fetch *f, const struct uuid *build,
                                                 const char *name, struct tier_file *file,
                                                 uint32_t granules, struct fetch_object **ret,
                                                 struct thaw_error *e);

/** fetch_cache() - its cache, borrowed */
struct cache *fetch_cache(struct fetch_object *o);

/** fetch_pin() - the memory of @granule if it is ready, to be unpinned soon; NULL otherwise */
const void *fetch_pin(struct fetch_object *o, uint32_t granule);

void fetch_unpin(struct fetch_object *o, uint32_t granule);

/** fetch_on_disk() - whether a fetch of @granule would ask the disk tier a moment ago */
bool fetch_on_disk(const struct fetch_object *o, uint32_t granule);

/** fetch_ready() - whether @granule could have been pinned a moment ago */
bool fetch_ready(const struct fetch_object *o, uint32_t granule);

/**
 * fetch_want() - ask for a granule that could not be pinned
 * @w: with msg.deliver and to set; fetch's until its message is delivered
 *
 * Asking for the granule where one of the last flights ended reads a few more ahead. In a closed
 * cache the message says -ESHUTDOWN.
 *
 * Returns: 0 when @w will get a message, -EALREADY when the granule became ready meanwhile (@w is
 * then free at once). Any thread.
 */
[[gnu::warn_unused_result]] int fetch_want(struct fetch_object *o, uint32_t granule,
                                           enum io_priority priority, struct fetch_waiter *w);

/** fetch_allocated_bytes() - memory that the cache of @o takes now */
int64_t fetch_allocated_bytes(const struct fetch_object *o);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_TIER_H
#define THAW_CACHE_TIER_H

/*
 * The disk tier: granules in files of the cache folder, for when their slot in the pool is needed
 * by another one, and for after a restart. Its files bypass the page cache (O_DIRECT), so that
 * nothing of it is ever dirty there.
 *
 * Of each object there are two files: its data, sparse, each granule at its own offset; and the
 * sums of what is in there, one XXH3 a granule, in pages as in format/sums.h behind a page that
 * says whose they are (format/tier.h). A granule is there if its sum is and the file has data for
 * all of it (SEEK_DATA). Nothing else is recorded, and nothing is ever synced: after the process
 * was killed, what was written is there, but for the sums of the last few writes. After a power
 * loss anything may be missing or wrong. So whoever reads a granule compares its sum, and nobody is
 * surprised when it differs: it is fetched from the store then. Files of overlays have no name and
 * no file of sums, and end with the process.
 *
 * One process at a time writes into a folder, which it has locked. Others read what is there.
 *
 * The folder is bounded, in bytes and by what stays free on its file system. To make room, files
 * that nobody has open go first, those unused for the longest time before others; then regions of
 * open ones, by a clock. Files of overlays are no copies of anything: they count, and stay. A
 * process without the lock counts its overlays only, and leaves half as much free.
 *
 * Reads are asynchronous, by the I/O engine; those that a guest waits for by a direct one in front
 * of it, which is the tier's own. Writes are done by a thread of the tier, `thaw-tier`, which
 * blocks in them: at idle I/O priority and one at a time, those of overlays first. It also makes
 * room and writes sums.
 *
 * When the disk fails, the tier gives up, first writing and then reading; one line in the log and
 * metrics say so. Nobody depends on it, but overlays that have spilled. While it hangs, what the
 * store has is not asked of it: tier_serves(). Reads that are under way wait.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/uuid.h"
#include "kernel/io.h"

struct thaw_error;
struct tier;
struct tier_file;

/**
 * struct tier_options - all zero but @io is a good choice
 * @folder: absolute or relative path, made if it is not there; NULL: the usual one (set.h)
 * @io: carries the reads that no direct engine takes; must outlive the tier
 * @max_bytes: for all files together; 0: a quarter of the file system; UINT64_MAX: no bound
 * @keep_free_percent: of the file system, that thaw leaves free; 0: TIER_KEEP_FREE_PERCENT
 */
struct tier_options {
    const char *folder;
    struct io_engine *io;
    uint64_t max_bytes;
    unsigned keep_free_percent;
};

#define TIER_KEEP_FREE_PERCENT 10u
/**
 * tier_create() - open the folder, lock it if nobody else has, start the thread. Control thread.
 *
 * Returns: 0, or -errno with the reason in @e: the folder cannot be made or opened, or its file
 * system knows no O_DIRECT (-EINVAL). That another process has locked it is no error:
 * tier_writable().
 */
[[gnu::warn_unused_result]] int tier_create(const struct tier_options *options, struct tier **ret,
                                            struct thaw_error *e);

/**
 * tier_destroy() - end with the write that is under way. NULL is allowed.
 *
 * What is queued is done with -ECANCELED. Files must have been closed, or their last done() does
 * it.
 */
void tier_destroy(struct tier *t);

DEFINE_CLEANUP(struct tier, tier_destroy);
#define CLEANUP_TIER CLEANUP(cleanup_tier_destroy)

/** tier_writable() - whether this process has the lock, and the disk has not failed. Any thread. */
bool tier_writable(const struct tier *t);

/**
 * tier_only_reads() - whether another process had the lock at the start, and what it has written
 * can be read: also after its end. Any thread.
 */
bool tier_only_reads(const struct tier *t);

/** tier_owner() - the process that has the lock, if it is another one; 0 if not known. Blocks. */
int tier_owner(const struct tier *t);

/* --- files --- */

/**
 * struct tier_file_options - which object
 * @origin: tells apart what different stores have under the same names
 */
struct tier_file_options {
    const struct uuid *build;
    const char *name;
    uint64_t size_bytes;
    uint64_t origin;
};

/**
 * tier_file_open() - the files of an object, and what is in them. Blocks; any thread.
 *
 * Files that cannot be read, or are another object's, are as good as none: they are replaced; but
 * not where descriptors or memory were short. A process without the lock sees what is there now,
 * not what comes later.
 *
 * Returns: 0, or -errno; -EROFS where there is none and none can be written, -EBUSY if this tier
 * has it open, -EINVAL for a name that no file can have (format/tier.h). The caller can do without.
 */
[[gnu::warn_unused_result]] int tier_file_open(struct tier *t, const struct tier_file_options *o,
                                               struct tier_file **ret);

/**
 * tier_file_create() - a file without a name, of @granules granules, for what must not be lost
 *
 * Needs no lock on the folder. Blocks; any thread. Returns: 0 or -errno.
 */
[[gnu::warn_unused_result]] int tier_file_create(struct tier *t, uint32_t granules,
                                                 struct tier_file **ret);

/** tier_file_close() - no read or write is under way; done() of the last one may call it. NULL is
 * allowed. Blocks. */
void tier_file_close(struct tier_file *f);

/** tier_has() - whether a read of @granule is worth while. Any thread; costs two loads. */
bool tier_has(const struct tier_file *f, uint32_t granule);

/**
 * tier_serves() - whether a read of @granule, which the store has, too, may be expected to end soon
 *
 * It is false where tier_has() is, while reads hang (none has been over for a second), and while
 * there are very many. Any thread; says in the log when they begin to hang.
 */
bool tier_serves(const struct tier_file *f, uint32_t granule);

/**
 * tier_forget() - what was read of @granule does not hold, or it is not needed any more
 *
 * Any thread; makes no system call but to wake the tier's thread, which gives back the room of
 * granules of an overlay. Of an object it counts as damage, and will not be there after a restart.
 */
void tier_forget(struct tier_file *f, uint32_t granule);

/** tier_file_bytes() - on the disk, as thaw counts them */
uint64_t tier_file_bytes(const struct tier_file *f);

/* --- reading --- */

#define TIER_READ_GRANULES 8u

/**
 * struct tier_read - a run of granules
 * @iov, @iov_count: page-aligned, as much together as the granules have bytes, the last one rounded
 *                   up to whole pages; changed by the engine
 * @sums: set before @done: what XXH3 (sums_of()) must give of each granule
 * @done: on an I/O thread: 0, or -errno; the struct is the caller's again. -ENODATA: one of the
 *        granules is not there any more. Of an object, what could not be read is forgotten
 *
 * The caller compares the sums, and calls tier_forget() for what does not hold.
 */
struct tier_read {
    struct tier_file *file;
    uint32_t first, count;
    struct iovec *iov;
    unsigned iov_count;
    enum io_priority priority;
    uint64_t sums[TIER_READ_GRANULES];
    void (*done)(struct tier_read *self, int result);

    struct io_request io; /* tier only */
};

/** tier_read() - start @r. Any thread; neither blocks nor fails. */
void tier_read(struct tier_read *r);

/* --- writing --- */

#define TIER_WRITE_GRANULES 16u

/**
 * struct tier_write - a run of granules, which stay as they are until @done
 * @iov: one for each granule; page-aligned, of as many bytes as the granule has, rounded up to
 * whole pages
 * @sums: sums_of() each granule
 * @done: on the tier's thread: 0, -ENOSPC (the disk is full, or the bounds are reached and nothing
 *        can be evicted), -ECANCELED (the tier is being destroyed), -EIO and the like, which all
 * get when the tier has given up; the struct is the caller's again. Of a failed one nothing is
 *        there, and of what it was to replace, neither
 */
struct tier_write {
    struct tier_file *file;
    uint32_t first, count;
    struct iovec iov[TIER_WRITE_GRANULES];
    uint64_t sums[TIER_WRITE_GRANULES];
    void (*done)(struct tier_write *self, int result);
    void *context; /* the caller's */

    struct tier_write *next; /* tier only */
};

/** tier_write() - queue @w, for an overlay. Any thread; neither blocks nor fails. */
void tier_write(struct tier *t, struct tier_write *w);

/**
 * struct tier_behind - where to get what is written when there is nothing better to do
 * @next: called on the tier's thread when no demand read of the tier is under way and nothing of an
 *        overlay is queued: fill in @w, pinned, and return true; false: there is nothing before
 *        tier_wake()
 *
 * Not called when the tier is not writable, nor after a write got -ENOSPC, before there is room.
 * What @next gave is written at once. @w is the tier's, and lasts until its done() returns.
 */
struct tier_behind {
    bool (*next)(struct tier_behind *self, struct tier_write *w);
};

/**
 * tier_set_behind() - NULL: none. Not on the tier's thread.
 *
 * On return, the one before is not called any more, and what it gave is done.
 */
void tier_set_behind(struct tier *t, struct tier_behind *b);

/** tier_at_rest() - nothing is left to be written of what it was given, nor are sums. Any thread.
 */
bool tier_at_rest(struct tier *t);

/** tier_wake() - next() has something now. Any thread, cheap; not under a lock that next() takes.
 */
void tier_wake(struct tier *t);

#endif

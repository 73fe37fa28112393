/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_DISK_H
#define THAW_DISK_DISK_H

/*
 * A virtual disk of one guest: what the guest has written lies in an overlay, everything else in a
 * read-only image. It belongs to one thread, whose mailbox it is given; all calls are that
 * thread's, and none of them blocks. Servers of a protocol (NBD) stand on this.
 *
 * A request that can be answered at once is; else it waits for what it needs (granules of the image
 * that have to be fetched, or a write to the same block that came before it) and is completed by a
 * message in the thread's mailbox. Requests complete in any order. Nothing is allocated after
 * disk_create().
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "base/cleanup.h"
#include "base/mailbox.h"
#include "base/uuid.h"

struct disk;
struct disk_bounce;
struct image;
struct overlay;
struct thaw_error;

/**
 * struct disk_options - what the disk is made of
 * @image: what it holds before anything is written; must outlive the disk
 * @build: for the name of the overlay's memory
 * @inbox: of the thread that the disk belongs to; must outlive it
 * @read_only: writes are -EROFS
 */
struct disk_options {
    struct image *image;
    struct uuid build;
    struct mailbox *inbox;
    bool read_only;
};

[[gnu::warn_unused_result]] int disk_create(const struct disk_options *options, struct disk **ret,
                                            struct thaw_error *e);

/** disk_destroy() - nothing may be under way: see disk_under_way(). NULL is allowed. */
void disk_destroy(struct disk *d);
DEFINE_CLEANUP(struct disk, disk_destroy);
#define CLEANUP_DISK CLEANUP(cleanup_disk_destroy)

/** disk_bytes() - its size. Any thread. */
uint64_t disk_bytes(const struct disk *d);

/** disk_overlay() - what the guest has changed, to be exported while no request is under way */
struct overlay *disk_overlay(struct disk *d);

enum disk_op { DISK_READ, DISK_WRITE, DISK_ZERO, DISK_TRIM, DISK_FLUSH };

/**
 * struct disk_request - one read, write, zeroing, trim or flush of any alignment
 * @off, @len_bytes: which part of the disk; neither means anything for DISK_FLUSH
 * @data: len_bytes of memory, to be filled or to be written; the disk's until the request is done
 * @done: called on the disk's thread once @result is set; never from within disk_submit(). The
 *        request is the caller's again, who may free or submit it, and others
 * @result: 0; -EINVAL (not within the disk), -EROFS, -ENOSPC, -ENOMEM, -EIO, -ECANCELED, -ESHUTDOWN
 *          (after disk_cancel_all()). On failure, what was to be filled may hold anything
 * @cause: of an -EIO: why the image's bytes could not be had, as -errno; 0 otherwise
 *
 * A write, zeroing or trim of -EIO has changed nothing: the bytes around its edges, if they have to
 * be fetched, are there before the first block is changed. One of -ENOSPC, -ENOMEM or -ECANCELED
 * may have been done in part. Of writes, zeroings and trims that overlap, the one submitted first
 * is done first. A read sees whatever was answered before it was submitted.
 *
 * A trim is a zeroing: what lies below must not show again. But it leaves blocks alone of which it
 * has only a part. Whoever has got the answer to a flush finds all writes that were answered before
 * it after thaw has died, as long as the host lives; a flush is always done at once.
 */
struct disk_request {
    enum disk_op op;
    uint64_t off;
    uint32_t len_bytes;
    void *data;
    void (*done)(struct disk_request *r);
    int result;
    int cause;

    /* the disk's own fields follow */
    uint64_t start, end;              /* what is to be read or changed */
    uint64_t at, stop;                /* what is left of that, without the blocks at the edges */
    uint64_t edge_blocks[2];          /* those that are changed in part */
    uint8_t edges[2];                 /* enum disk_edge */
    uint8_t queue;                    /* enum disk_queue */
    bool counted;                     /* as one that waited for the store */
    bool starved;                     /* it lacks something of the disk's pools */
    uint64_t patience;                /* overlay_await_room() */
    unsigned waits;                   /* granules asked for */
    unsigned blockers;                /* earlier requests under way that overlap */
    struct disk_bounce *bounce;       /* for the blocks at the edges, or NULL */
    struct disk_request *prev, *next; /* among all that are under way, oldest first */
    struct disk_request *queue_next;
};

/**
 * disk_submit() - begin a request
 *
 * Returns: 1 when it is done already (result is set, done will not be called), 0 when done() will
 * be called later.
 */
[[gnu::warn_unused_result]] int disk_submit(struct disk *d, struct disk_request *r);

/**
 * disk_cancel() - give up a request that is under way, and call its done() with -ECANCELED
 *
 * The request is the caller's again, with its memory, whatever it has asked the store for.
 */
void disk_cancel(struct disk *d, struct disk_request *r);

/**
 * disk_cancel_all() - give up all requests, and take no more: the end of the disk
 *
 * Messages of the fetcher may still be under way then. They must arrive before disk_destroy():
 *
 *     disk_cancel_all(d);
 *     while (disk_under_way(d) > 0) {
 *         poll the inbox's event_fd, mailbox_deliver()
 *     }
 *     disk_destroy(d);
 */
void disk_cancel_all(struct disk *d);

/** disk_under_way() - how many messages of the disk will still arrive in the inbox */
unsigned disk_under_way(const struct disk *d);

#define DISK_VIEW_PIECES 64

/**
 * struct disk_view - memory that holds a part of the disk now
 * @iov, @pieces: the bytes, in order; zeros too are memory
 */
struct disk_view {
    struct iovec iov[DISK_VIEW_PIECES];
    unsigned pieces;

    /* the disk's own fields follow */
    unsigned pins;
    struct disk_view_pin {
        uint32_t granule;
        uint16_t layer;
        bool spilled;
    } pinned[DISK_VIEW_PIECES];
};

/**
 * disk_view() - look at a part of the disk in place, to hand it on without copying it
 *
 * The view is to be ended with disk_view_end() before anything else is asked of the disk and before
 * its thread waits for anything. A system call that reads it may fail with -EFAULT, which stands
 * for an I/O error; a load may be a SIGBUS.
 *
 * Returns: 0; -EAGAIN when not all of it is there, or it lies in too many pieces: submit a
 * DISK_READ then. -EINVAL when it is not within the disk; -ESHUTDOWN. A view counts as a read;
 * unless this succeeds, there is nothing to end.
 */
[[gnu::warn_unused_result]] int disk_view(struct disk *d, uint64_t off, uint32_t len_bytes,
                                          struct disk_view *ret);
void disk_view_end(struct disk *d, struct disk_view *v);

/**
 * disk_zeros() - whether the disk is known to have zeros at @off; costs a lookup, reads nothing
 * @ret_bytes: up to where in [off, off + len_bytes) the answer holds; at least 1
 *
 * Returns: 1: zeros; 0: something else, which may be zeros all the same; -EINVAL if the range is
 * empty or not within the disk, -ESHUTDOWN.
 */
[[gnu::warn_unused_result]] int disk_zeros(struct disk *d, uint64_t off, uint64_t len_bytes,
                                           uint64_t *ret_bytes);

/**
 * struct disk_counters - what has been done so far
 *
 * All of them only grow, but for dirty_bytes and disk_bytes. Any thread may read them through
 * disk_counters().
 */
struct disk_counters {
    uint64_t reads, writes, zeroes, trims, flushes, failed;
    uint64_t read_bytes, written_bytes;
    uint64_t waited;        /* requests that had to wait for the store */
    uint64_t paced;         /* times that a write had to wait for room in memory */
    uint64_t dirty_bytes;   /* in the overlay's memory now, not spilled */
    uint64_t disk_bytes;    /* spilled, on the disk now */
    uint64_t spilled_bytes; /* spilled since the start */
};

/** disk_counters() - a snapshot. Any thread. */
struct disk_counters disk_counters(const struct disk *d);

#endif

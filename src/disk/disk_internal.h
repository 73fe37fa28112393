/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_DISK_INTERNAL_H
#define THAW_DISK_DISK_INTERNAL_H

/*
 * Between the files of the disk, whose theory of operation is in README.md:
 *
 *   disk.c        requests: which run, which wait, and their end
 *   disk_fetch.c  granules that have to be fetched for a request
 *   disk_read.c   reading, views
 *   disk_write.c  writing, zeroing, the blocks at the edges
 *
 * All of it runs on the thread of the disk's inbox, but for disk_counters().
 */

#include <stdatomic.h>

#include "base/units.h"
#include "disk/disk.h"
#include "fetch/fetch.h"
#include "image/overlay.h"

#define DISK_WAITS         256u /* granules asked for, of one disk */
#define DISK_REQUEST_WAITS 64u  /* of one request: a chunk of the image */
#define DISK_BOUNCES       64u  /* requests that change a part of a block, at a time */

/* How much of a request is done before others get a turn: about a millisecond's work. */
#define DISK_COPY_SLICE MIB
#define DISK_ZERO_SLICE (16 * MIB)

#define DISK_ZEROS_BYTES MIB

enum disk_queue {
    QUEUE_NONE,    /* runs, waits for granules or for earlier requests */
    QUEUE_READY,   /* runs at the next turn */
    QUEUE_STARVED, /* runs when something comes back to a pool */
    QUEUE_PACED,   /* a write that runs when there is room in memory */
};

/* A block at the edge of a request that changes only a part of it. */
enum disk_edge {
    EDGE_NONE,   /* there is none: the block is changed as a whole, or has been */
    EDGE_OPEN,   /* what it holds is to be found out */
    EDGE_ASKED,  /* a granule has been asked for */
    EDGE_READ,   /* what it held is in the bounce */
    EDGE_MERGED, /* what it shall hold is, and there was no room for it */
};

/* The blocks at the edges of one request. */
struct disk_bounce {
    char blocks[2][PAGE_BYTES];
    struct disk_bounce *next; /* free list */
};

/* A part of a request that needs a granule. */
struct disk_wait {
    struct fetch_waiter waiter;
    struct disk *disk;
    struct disk_request *request; /* NULL: given up */
    uint64_t off, end;            /* still to be copied */
    char *to;                     /* where @off goes */
    uint8_t *edge;                /* of the request, if that is what is copied; or NULL */
    struct disk_wait *next;       /* free list */
};

/* First in, first out. */
struct request_queue {
    struct disk_request *first, *last;
};

struct disk_books {
    _Atomic(uint64_t) ops[DISK_FLUSH + 1];
    _Atomic(uint64_t) failed, read_bytes, written_bytes, waited;
};

struct disk {
    struct overlay *overlay; /* owned */
    struct image *image;     /* borrowed */
    struct mailbox *inbox;   /* borrowed */
    uint64_t size_bytes;
    bool read_only;
    bool ended;        /* by disk_cancel_all() */
    bool turn_posted;  /* to ourselves: see `turn` */
    unsigned starving; /* requests with starved set, in whichever queue */

    struct disk_request *oldest, *newest; /* all under way */
    struct request_queue ready;
    struct request_queue starved;
    struct request_queue paced;
    unsigned ready_count;
    unsigned paced_count;
    struct message turn; /* to ourselves: run what is ready */

    struct disk_wait *waits; /* owned: DISK_WAITS */
    struct disk_wait *free_waits;
    struct disk_bounce *bounces; /* owned: DISK_BOUNCES */
    struct disk_bounce *free_bounces;
    unsigned waits_out;
    unsigned bounces_used; /* the others have never been, and take no memory */
    void *zeros;           /* owned: DISK_ZEROS_BYTES, cannot be written */

    struct disk_books books; /* [a] written by the disk's thread, read by any: relaxed */
};

static inline void book(_Atomic(uint64_t) *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/* --- disk.c --- */

/** disk_resume() - something that @r waited for has come: let it go on, complete it */
void disk_resume(struct disk *d, struct disk_request *r);

/** disk_yield() - let @r go on after the others had their turn */
void disk_yield(struct disk *d, struct disk_request *r);

/** disk_may_take() - whether it is @r's turn to take something from a pool */
bool disk_may_take(const struct disk *d, const struct disk_request *r);

/** disk_starve() - @r, which waits for nothing else, lacks something of a pool */
void disk_starve(struct disk *d, struct disk_request *r);

/** disk_fed() - @r has got what it lacked */
void disk_fed(struct disk *d, struct disk_request *r);

/** disk_gave_back() - something is in a pool again: let those try who lack it */
void disk_gave_back(struct disk *d);

/** disk_pace() - @r has to wait for room in memory */
void disk_pace(struct disk *d, struct disk_request *r);

/** disk_fail() - @r has failed, if it has not before: its result is set */
void disk_fail(struct disk_request *r, int result, int cause);

/* --- disk_fetch.c --- */

[[gnu::warn_unused_result]] int disk_waits_create(struct disk *d);
void disk_waits_destroy(struct disk *d);

/**
 * disk_fetch() - copy [off, end) of the disk to @to, which lacks a granule of the image
 * @edge: set to EDGE_READ when it is done; or NULL
 *
 * It goes on by messages, of which @r->waits counts those to come.
 * Returns: 0, or -EAGAIN if there is no wait to be had.
 */
[[gnu::warn_unused_result]] int disk_fetch(struct disk *d, struct disk_request *r, uint64_t off,
                                           uint64_t end, char *to, uint8_t *edge);

/** disk_forget() - @r does not wait for anything any more */
void disk_forget(struct disk *d, struct disk_request *r);

/* --- disk_read.c, disk_write.c --- */

/**
 * disk_read_step() - go on with a read as far as it gets, or for a slice
 *
 * Returns: whether it is over. If not, it will be told of a granule, or is in a queue.
 */
[[gnu::warn_unused_result]] bool disk_read_step(struct disk *d, struct disk_request *r);

/** disk_write_begin() - find the edges of a new request */
void disk_write_begin(struct disk *d, struct disk_request *r);

/** disk_write_step() - the same as disk_read_step() for writes, zeroings and trims */
[[gnu::warn_unused_result]] bool disk_write_step(struct disk *d, struct disk_request *r);

/** disk_bounce_put() - give back what @r has of the pool, if it has */
void disk_bounce_put(struct disk *d, struct disk_request *r);

#endif

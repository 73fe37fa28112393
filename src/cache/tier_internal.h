/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_TIER_INTERNAL_H
#define THAW_CACHE_TIER_INTERNAL_H

/*
 * The parts of the disk tier: the folder's lock and the accounts (tier.c), files (tier_file.c), the
 * list of those that are open (tier_list.c), their granules (tier_granules.c) and sums
 * (tier_sums.c), reads and writes (tier_io.c), the thread (tier_thread.c), room (tier_evict.c) and
 * what is in the folder (tier_survey.c).
 *
 * A granule's bit in `present` is set after its data is in the file and its sum in memory
 * (release), and looked at before either is read (acquire). Whoever makes room clears the bit
 * first. A reader that comes in between reads zeros, or something newer, and finds that the sum
 * differs.
 *
 * Two locks. folder_mu: which names are open, and what is in the folder; system calls are made
 * under it, by those who open and close files and by the thread. mu: a leaf, that serving threads
 * take. What the thread works on without a lock it has marked as busy, and close waits for that.
 */

#include <stdatomic.h>

#include "base/thread.h"
#include "base/units.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "cache/tier_files.h"
#include "kernel/aio.h"

#define TIER_REGION_GRANULES CHUNK_GRANULES /* given back at a time; as many as a word has bits */
#define TIER_SUMS_EVERY      32u            /* batches, after which sums are written */
#define TIER_LOOK_EVERY      (16 * MIB)     /* written, after which statvfs(3) is asked again */
#define TIER_OWED_NS         (60 * NS_PER_SEC) /* longer than file systems take to free something */
#define TIER_SUMS_MARGIN     (256 * KIB) /* of max_bytes, for sums that are still to be written */
#define TIER_FAILURES        4u          /* in a row, after which the disk is given up */
#define TIER_STALL_NS        NS_PER_SEC  /* without any read being over: the disk hangs */
#define TIER_READS_MOST      192u        /* under way, of what the store has, too */

static_assert(TIER_REGION_GRANULES == 64, "a region is a word of bits");

enum tier_failing { TIER_READS, TIER_WRITES, TIER_FAILINGS };

struct tier {
    struct io_engine *io;     /* borrowed */
    struct io_engine *direct; /* owned: in front of it; NULL: not to be had */
    char *path;               /* owned: of the folder, to be told */
    int files;                /* owned: the folder in it where the files are */
    int lock;                 /* owned: the file that is locked */
    uint64_t max_bytes;       /* UINT64_MAX: no bound */
    unsigned keep_free_percent;
    bool owned;   /* this process has locked it */
    bool started; /* the thread was */
    pthread_t thread;

    pthread_mutex_t folder_mu;       /* before mu */
    pthread_mutex_t mu;              /* a leaf */
    pthread_cond_t work;             /* with mu: there is something for the thread */
    pthread_cond_t rest;             /* with mu: the thread is done with `busy`, or with `behind` */
    struct tier_file *list;          /* [m] mu, to change also folder_mu: what is open */
    struct tier_write *first, *last; /* [m] mu: of overlays, to be written */
    struct tier_behind *behind;      /* [m] mu: borrowed */
    struct tier_behind *asking;      /* [m] mu: it is being asked, or what it gave is written */
    struct tier_file *busy;          /* [m] mu: not to be closed now */
    struct tier_file *hand;          /* [m] mu: of the clock */
    bool sleeping;                   /* [m] mu: the thread waits for `work` */
    bool quitting;                   /* [m] mu */

    _Atomic(bool) behind_ready;  /* [a] its next() may have something */
    _Atomic(bool) give_back;     /* [a] granules of an overlay have been forgotten */
    _Atomic(bool) sums_due;      /* [a] some sums are newer than in their file */
    _Atomic(bool) stuck;         /* [a] there was no room for what is behind */
    _Atomic(bool) nothing_shut;  /* [a] no file in the folder that is not open */
    _Atomic(unsigned) demands;   /* [a] seq_cst with quiet_awaited: demand reads under way */
    _Atomic(bool) quiet_awaited; /* [a] the thread sleeps until there are none */
    _Atomic(unsigned) reads;     /* [a] under way; a release, so who sees one sees moved_ns */
    _Atomic(uint64_t) moved_ns;  /* [a] clock_now_ns(): when a read was over, or the first began */
    _Atomic(bool) stalled;       /* [a] it has been told that reads hang */

    _Atomic(int) failed[TIER_FAILINGS];                /* [a] why it was given up; 0: it was not */
    _Atomic(unsigned) in_a_row[TIER_FAILINGS];         /* [a] failures since the last success */
    _Atomic(uint64_t) errors[TIER_FAILINGS];           /* [a] relaxed, as all that follow */
    _Atomic(int64_t) shut_bytes;                       /* [a] in files that are not open */
    _Atomic(uint64_t) open_bytes, overlay_bytes;       /* [a] */
    _Atomic(uint64_t) read_bytes, written_bytes;       /* [a] */
    _Atomic(uint64_t) evicted_bytes, damaged, no_room; /* [a] */
    _Atomic(uint64_t) stalls;                          /* [a] */

    /* [t] thaw-tier only */
    unsigned batches;        /* written since sums were */
    uint64_t room_bytes;     /* that the file system had, when it was asked last, and `owed` */
    uint64_t unlooked_bytes; /* written since then */
    uint64_t refused_bytes;  /* were available when the disk refused a write for want of room; 0 */
    int64_t spare_bytes;     /* what it said then; less than 0: what it lacks */
    uint64_t owed[2];        /* bytes evicted of which it did not know then: lately, and before */
    uint64_t owed_turn_ns;   /* of clock_now_ns(): when `lately` becomes `before` */
    bool idle_priority;
    struct aio_writer writer; /* owned: so that reads of a file do not wait for writes to it */
};

/* --- tier.c --- */

/** tier_given_up() - 0, or why nothing is read or written any more: -errno */
static inline int tier_given_up(const struct tier *t, enum tier_failing what)
{
    return atomic_load_explicit(&t->failed[what], memory_order_acquire);
}

/** tier_succeeded() - the disk has done what it was asked to */
void tier_succeeded(struct tier *t, enum tier_failing what);

/** tier_failure() - it has not, @r being -errno; perhaps once too often */
void tier_failure(struct tier *t, enum tier_failing what, int r);

/** tier_room_given() - there may be room again for what is behind. Under no lock. */
void tier_room_given(struct tier *t);

/** tier_account() - @f has @bytes more in its file, or less, than it had. Thread or owner of @f. */
void tier_account(struct tier_file *f, int64_t bytes);

/* --- tier_io.c --- */

/** tier_write_now() - write @w; blocks. What it returns is for done(). */
[[gnu::warn_unused_result]] int tier_write_now(struct tier *t, const struct tier_write *w);

/** tier_missing_bytes() - by how much it makes its file grow. Thread only. */
uint64_t tier_missing_bytes(const struct tier_write *w);

/** tier_moves() - whether reads come back, as far as is known, and there are not too many */
bool tier_moves(struct tier *t);

/* --- tier_thread.c --- */

void *tier_thread(void *arg);

/** tier_rouse() - the thread shall look again what there is to do. Any thread, under no lock. */
void tier_rouse(struct tier *t);

/* --- tier_evict.c --- */

/** tier_has_room() - for @bytes more, by the bounds */
bool tier_has_room(struct tier *t, uint64_t bytes);

/** tier_make_room() - the same for @w, having evicted what is needed; the regions of @w stay */
bool tier_make_room(struct tier *t, const struct tier_write *w);

/**
 * tier_refused() - the disk said that it is full; has it more room since? Thread only.
 *
 * What it says to statvfs(3) need not be what it grants: there may be a quota.
 */
void tier_refused(struct tier *t);
bool tier_still_refuses(const struct tier *t);

/** tier_evict() - something, if there is anything; false if there is not */
bool tier_evict(struct tier *t, const struct tier_write *w);

/** tier_give_back() - the room of what has been forgotten of overlays. Thread only. */
void tier_give_back(struct tier *t);

/** tier_punch() - give back @count granules that are not present. Returns: 0 or -errno. */
[[gnu::warn_unused_result]] int tier_punch(struct tier_file *f, uint32_t first, uint32_t count);

/* --- tier_survey.c --- */

/**
 * tier_survey() - count what is in files that are not open. Under folder_mu.
 * @remove_oldest: and remove those of them that are of the object unused for the longest time
 *
 * Returns: whether any were removed.
 */
bool tier_survey(struct tier *t, bool remove_oldest);

/** tier_blocks() - what the file of that name takes on the disk; 0 if there is none */
uint64_t tier_blocks(const struct tier *t, const char *name);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FETCH_INTERNAL_H
#define THAW_FETCH_INTERNAL_H

/* Shared between the files of src/fetch: flights, their pool, the sums of an object. */

#include <stdatomic.h>

#include "base/thread.h"
#include "cache/cache.h"
#include "cache/tier.h"
#include "fetch/behind.h"
#include "fetch/fetch.h"
#include "format/sums.h"

#define FLIGHT_POOL         256u
#define FLIGHT_RESERVE      (FLIGHT_POOL / 8) /* flights that only a demand may take */
#define FLIGHT_BACKGROUND   16u
#define READ_AHEAD_GRANULES 8u
#define STREAM_ENDS         64u /* where readers may go on: two for each reader, or one */

/*
 * One read of granules [first, first + count) of an object, within one chunk and one page of sums.
 *
 *     free -> listed [-> queued] -> started (read from the disk tier, or data and, if needed, sums
 *          from the store) -> verify -> publish -> unlisted -> free
 *
 * All granules of a flight come from the same source. Those that the disk tier fails become absent,
 * and are no longer there for it: who waits for them asks again, and is given them by the store.
 *
 * Background flights beyond FLIGHT_BACKGROUND are queued, so that the store is never busy with many
 * of them; a demand that joins a queued one starts it at once.
 */
struct flight {
    struct flight *next;                    /* [m] fetch.mu when free, object.mu when listed */
    struct flight *queue_next, *queue_prev; /* [m] fetch.mu: while queued */
    bool queued;                            /* [m] fetch.mu: listed, but not started */
    bool background;                        /* [m] fetch.mu: one of fetch.background */
    _Atomic(bool) demanded;                 /* [a] somebody demands what it carries */
    struct cache_room room;                 /* owned: what it may still reserve */
    struct fetch_object *object;
    uint32_t first;
    uint32_t count;
    bool from_tier; /* it reads the disk tier, not the store */
    enum io_priority priority;
    struct fetch_waiter *waiters;             /* [m] object.mu */
    struct store_read data;                   /* into memory of the cache */
    char *memory[READ_AHEAD_GRANULES];        /* borrowed: of each granule */
    struct iovec pieces[READ_AHEAD_GRANULES]; /* of data, if it is in more than one piece */
    struct store_read sums;
    struct tier_read tier;
    int causes[READ_AHEAD_GRANULES];              /* why a granule is not what it should be, or 0 */
    bool unverified;                              /* there are no sums */
    struct cache_hold holds[READ_AHEAD_GRANULES]; /* owned: on what it has published */
    int64_t data_result;
    int64_t sums_result;
    uint64_t start_ns;         /* when its reads were begun */
    _Atomic(unsigned) pending; /* [a] reads not finished; the last one verifies */
    void *sums_page;           /* owned: SUMS_PAGE_BYTES, page-aligned */
    uint64_t *sums_decoded;    /* owned: SUMS_PER_PAGE, for when the table is being filled */
};

/* Waiters that found no free flight, oldest first. */
struct parking {
    struct fetch_waiter *first;
    struct fetch_waiter *last; /* valid while first is not NULL */
};

struct fetch {
    struct cache_set *caches; /* borrowed */
    struct behind *behind;    /* owned; NULL: there is no disk tier */
    pthread_mutex_t mu;
    struct flight *free;                     /* [m] mu */
    unsigned free_count;                     /* [m] mu */
    struct parking parked[IO_PRIORITIES];    /* [m] mu: waiters without a flight */
    struct flight *queue_first, *queue_last; /* [m] mu: background flights not started */
    unsigned background;                     /* [m] mu: background flights under way */
    struct flight *flights;                  /* owned: all FLIGHT_POOL of them */
    pthread_mutex_t objects_mu;
    pthread_cond_t released;        /* with objects_mu: an object has been closed */
    struct fetch_object *objects;   /* [m] objects_mu: those that are open, or being closed */
    _Atomic(uint64_t) flight_count; /* [a] counters: relaxed */
    _Atomic(uint64_t) read_bytes;
    _Atomic(uint64_t) disk_bytes;
    _Atomic(uint64_t) failed;
    _Atomic(uint64_t) unverified_bytes;
};

/* The sums of one object, page by page as they are needed. */
struct sums_table {
    struct store_object *object; /* owned; NULL: the object has no sums */
    uint64_t *sums;              /* owned: one per granule, valid where the page is loaded */
    _Atomic(uint8_t) *pages;     /* owned: [a] enum sums_page_state; LOADED is a release */
    uint64_t granules;
};

enum sums_page_state { SUMS_MISSING, SUMS_STORING, SUMS_LOADED };

struct fetch_object {
    struct fetch *fetch; /* borrowed */
    struct store
        *store; /* borrowed; known by this, build and name; NULL: what an overlay spilled */
    struct uuid build;
    char *name;                /* owned */
    uint64_t content;          /* as fetch_object_options has it */
    unsigned users;            /* [m] fetch.objects_mu: 0: it is being closed */
    struct fetch_object *next; /* [m] fetch.objects_mu */
    struct cache *cache;       /* owned */
    struct store_object *data; /* owned; NULL: it is in the disk tier or nowhere */
    struct tier_file *tier;    /* owned; NULL: it is not kept there */
    struct sums_table sums;
    pthread_mutex_t mu;
    pthread_cond_t landed;
    struct flight **chunks; /* [m] mu: the flights under way in each chunk */
    unsigned flights;       /* [m] mu: how many in all */
    /* The granules that follow the last flights, written in turn; 0 for none. [a] relaxed: who
     * misses one reads less ahead. */
    _Atomic(uint32_t) ends[STREAM_ENDS];
    unsigned next_end; /* [m] mu */
};

/* --- sums.c --- */

[[gnu::warn_unused_result]] int sums_table_init(struct sums_table *t, uint64_t size_bytes);
void sums_table_finish(struct sums_table *t);

/** sums_table_loaded() - whether the sums of @granule can be used without a read */
bool sums_table_loaded(const struct sums_table *t, uint32_t granule);

/**
 * sums_table_find() - the sums of the granules of a flight
 *
 * Uses the table where it is loaded, else the page that the flight has read, which is checked and
 * put into the table.
 *
 * Returns: 0 and a pointer to the sum of f->first, or -EBADMSG and the like.
 */
[[gnu::warn_unused_result]] int sums_table_find(struct sums_table *t, struct flight *f,
                                                const uint64_t **ret);

/* --- flight.c --- */

/**
 * flight_take() - one from the pool, with room for @granules, or less if it is no demand; or NULL.
 * Not under a lock.
 */
struct flight *flight_take(struct fetch *f, enum io_priority priority, uint32_t granules);

/**
 * flight_put() - give one back, and send a parked waiter for it; all of them when every flight is
 * free, since those who were sent before may not have come. NULL is allowed. Not under a lock.
 */
void flight_put(struct fetch *f, struct flight *fl);

/**
 * flight_park() - let @w wait for a flight and for room; it will be sent back with -EAGAIN
 *
 * Not under a lock. Nobody stays parked for ever: as long as he is, either a flight is out or room
 * or a hold is awaited. The end of each sends one who is parked, and the last one sends all. Where
 * none of these is, but all places are pinned, he is sent back at once, to ask until they are not.
 */
void flight_park(struct fetch *f, struct fetch_waiter *w, enum io_priority priority);

/**
 * flight_list_locked() - reserve granules and put @fl on the list of their chunk
 *
 * The run begins at @first and takes as many granules as it has room for and are absent too, in the
 * same chunk and page of sums.
 *
 * Returns: 0, or as cache_reserve() of @first.
 */
[[gnu::warn_unused_result]] int flight_list_locked(struct fetch_object *o, struct flight *fl,
                                                   uint32_t first);

/** flight_find_locked() - the flight that carries @granule, or NULL */
struct flight *flight_find_locked(const struct fetch_object *o, uint32_t granule);

/** flight_launch() - start a listed flight, or queue it. Not under a lock. */
void flight_launch(struct flight *fl, enum io_priority priority);

/**
 * flight_hurry() - somebody demands what @fl carries: start it if it is still queued
 *
 * @fl may have landed since the caller saw it, and be another flight by now: then that one starts
 * early, which does no harm. Not under a lock.
 */
void flight_hurry(struct fetch *f, struct flight *fl);

/** flight_room_made() - a hold has ended: somebody who is parked may find room now */
void flight_room_made(struct fetch *f);

/** waiter_finish() - set the result of @w and send its message; @w is gone afterwards */
void waiter_finish(struct fetch_waiter *w, int result);

/** waiter_serve() - the same with result 0: the granule stays until the message is delivered */
void waiter_serve(struct fetch *f, struct fetch_waiter *w, struct cache_hold hold);

/* --- source.c --- */

/** source_is_tier() - whether @granule is to be read from the disk tier now. Any thread. */
bool source_is_tier(const struct fetch_object *o, uint32_t granule);

/** flight_bytes() - how many bytes of its object a flight is to bring */
size_t flight_bytes(const struct flight *fl);

/** flight_start() - begin to read, from where fl->from_tier says. Not under a lock. */
void flight_start(struct flight *fl, enum io_priority priority);

/* --- landing.c --- */

/** flight_land() - its reads are over. On an I/O thread. */
void flight_land(struct flight *fl);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_TIER_FILES_H
#define THAW_CACHE_TIER_FILES_H

/* A file of the disk tier as its parts see it: see tier_internal.h. */

#include <stdatomic.h>

#include "base/units.h"
#include "cache/tier.h"
#include "format/sums.h"
#include "format/tier.h"

#define TIER_FILE_NAME_BYTES 256

struct tier_file {
    struct tier *tier; /* borrowed */
    struct tier_file *next;
    bool ready;   /* [m] mu: the thread may work on it */
    bool overlay; /* has no name and no file of sums */
    bool writable;
    bool identified; /* [t] its page is in the file of sums */
    int data;        /* owned */
    int sums_file;   /* owned; -1: none */
    uint32_t granules;
    uint64_t size_bytes;
    struct tier_identity identity;
    char data_name[TIER_FILE_NAME_BYTES], sums_name[TIER_FILE_NAME_BYTES];

    void *tables; /* owned: all that follows, zeros at first; costs memory where it is used */
    size_t tables_bytes;
    _Atomic(uint64_t) *sums;    /* [a] one for each granule */
    _Atomic(uint64_t) *present; /* [a] a bit for each granule */
    _Atomic(uint64_t) *used;  /* [a] relaxed: a bit for each region: read since the clock passed */
    _Atomic(uint64_t) *dirty; /* [a] a bit for each page of sums: newer than in the file */
    uint64_t *allocated;      /* [t] a bit for each granule: something of it is in the file */
    uint32_t clock;           /* [t] the region to look at next, when there is no room */
    _Atomic(uint64_t) bytes;  /* [a] relaxed: allocated, and the file of sums */
    uint64_t sums_bytes;      /* [t] of these, the latter */
    _Atomic(bool) forgotten;  /* [a] of an overlay: some of `allocated` is not present */
};

/* --- tables --- */

static inline bool tier_bit(const _Atomic(uint64_t) *bits, uint32_t i)
{
    return atomic_load_explicit(&bits[i / 64], memory_order_acquire) >> i % 64 & 1;
}

/** tier_bit_set() - returns whether it was set before */
static inline bool tier_bit_set(_Atomic(uint64_t) *bits, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << i % 64;

    return (atomic_fetch_or_explicit(&bits[i / 64], bit, memory_order_acq_rel) & bit) != 0;
}

/** tier_bit_clear() - returns whether it was set before */
static inline bool tier_bit_clear(_Atomic(uint64_t) *bits, uint32_t i)
{
    uint64_t bit = UINT64_C(1) << i % 64;

    return (atomic_fetch_and_explicit(&bits[i / 64], ~bit, memory_order_acq_rel) & bit) != 0;
}

static inline void tier_count(_Atomic(uint64_t) *counter, uint64_t n)
{
    atomic_fetch_add_explicit(counter, n, memory_order_relaxed);
}

/** tier_end_of() - where the @count granules from @first on end in the file */
static inline uint64_t tier_end_of(const struct tier_file *f, uint32_t first, uint32_t count)
{
    return MIN((first + (uint64_t)count) * GRANULE_BYTES, round_up(f->size_bytes, PAGE_BYTES));
}

/** tier_bytes_of() - what they take there */
static inline uint64_t tier_bytes_of(const struct tier_file *f, uint32_t first, uint32_t count)
{
    return tier_end_of(f, first, count) - first * GRANULE_BYTES;
}

/* --- tier_list.c --- */

/** tier_enlist() - a name that is to be open. Under folder_mu. */
void tier_enlist(struct tier_file *f);

/** tier_set_ready() - the thread may work on it */
void tier_set_ready(struct tier_file *f);

/** tier_set_closing() - it may not, and does not any more. Blocks. */
void tier_set_closing(struct tier_file *f);

/** tier_unlist() - its name is not open any more. Under folder_mu. */
void tier_unlist(struct tier_file *f);

/** tier_is_open() - whether a file of that name is. Under folder_mu, if that is to last. */
bool tier_is_open(struct tier *t, const char *name);

/**
 * tier_next_busy() - the file after @f that is open; if that is NULL, the first one. Thread only.
 *
 * It is busy instead of @f, which is not to be used any more. To be called until it returns NULL.
 */
struct tier_file *tier_next_busy(struct tier *t, const struct tier_file *f);

/* --- tier_granules.c --- */

/** tier_tables_make() - for all granules of @f; nothing is there. Returns: 0 or -errno. */
[[gnu::warn_unused_result]] int tier_tables_make(struct tier_file *f);

/** tier_find() - what of it is in the file, and has a sum. Blocks. */
void tier_find(struct tier_file *f);

/** tier_drop() - what tier_forget() does, but for the count. Returns whether it was there. */
bool tier_drop(struct tier_file *f, uint32_t granule);

/* --- tier_sums.c --- */

/** tier_sums_identify() - whether @f->sums_file is of the object that @f says: 0 or -errno */
[[gnu::warn_unused_result]] int tier_sums_identify(const struct tier_file *f);

/** tier_sums_load() - read those that are there */
void tier_sums_load(struct tier_file *f);

/** tier_sums_write() - those of @f that are newer than in its file. Thread, or the closer. */
void tier_sums_write(struct tier_file *f);

/** tier_sums_write_all() - of all files. Thread only. */
void tier_sums_write_all(struct tier *t);

#endif

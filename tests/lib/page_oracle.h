/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_PAGE_ORACLE_H
#define THAW_TESTS_PAGE_ORACLE_H

/*
 * What every page of a guest's memory may hold while some threads read it, some write it and some
 * give it back with madvise(MADV_DONTNEED).
 *
 * A page lives through these phases, never backwards:
 *
 *   IMAGE > WRITING > WRITTEN > REMOVING > ZERO > REWRITING > REWRITTEN
 *   IMAGE > ------------------- REMOVING
 *
 * A ZERO page may be removed again. A REWRITTEN page is left alone, so that "it keeps what was
 * written" is tested after a removal too. Who writes or removes a page claims it first: these two
 * never overlap on one page. Readers claim nothing and overlap with everything.
 *
 * A write fills one mark, MARK_WORDS words at a place that depends on the page, with a pattern; all
 * other words keep what they held.
 *
 * The rule. A reader loads the phase (p0), reads the words of the page in ascending order, each by
 * one load, then loads the phase again (p1).
 *   - Outside of the mark, a word holds either the image's value, possible if p0 <= REMOVING, or
 *     zero, possible if p1 >= REMOVING. Once a reader has seen the zero, every later word that it
 *     reads is zero: memory does not come back. Hence: removal over before the read began: all
 *     zeros. No removal begun when the read ended: all image. In between: image up to some word,
 *     zeros from there on, and nothing else.
 *   - In the mark, a word holds the image's value if p0 <= WRITING, or if p0 <= REMOVING and the
 *     page was never written; the first pattern if it was written, p1 >= WRITING and
 *     p0 <= REMOVING; zero if p1 >= REMOVING and p0 <= REWRITING; the second pattern if
 *     p1 >= REWRITING.
 * With p0 = p1 outside of the ...ING phases this leaves exactly one value for every byte.
 *
 * Any thread may call any function.
 */

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "client_util.h"

#define MARK_WORDS 8

enum page_phase {
    PAGE_IMAGE,
    PAGE_WRITING,
    PAGE_WRITTEN,
    PAGE_REMOVING,
    PAGE_ZERO,
    PAGE_REWRITING,
    PAGE_REWRITTEN,
};

/* Bits beside the phase in the state of a page. */
#define PAGE_PHASE_MASK 0x07u
#define PAGE_MARKED     0x08u /* was in WRITING: says which way REMOVING was reached */
#define PAGE_CLAIMED    0x10u /* somebody writes or removes it */
#define PAGE_TOUCHED    0x20u /* somebody has read or written it */
#define PAGE_ERROR      0x40u /* an access raised SIGBUS */

struct page_oracle {
    struct image image;
    uint64_t page_bytes;
    uint32_t n_pages;
    uint64_t seed;
    _Atomic uint8_t *states; /* owned; the atomics order phase changes against memory accesses */
};

/* One read of one page, and what was seen. The words belong to the reading thread. */
struct page_read {
    uint32_t page;
    uint8_t before, after; /* states around the read */
    size_t first_word;     /* the access that came first and may have faulted */
    uint64_t first_value;
    uint64_t *words; /* page_bytes / 8 values, borrowed from the thread */
};

/* A byte that is not what it must be. */
struct page_wrong {
    uint32_t page;
    uint64_t offset; /* in the memory file */
    uint8_t expected, got;
    uint8_t before, after; /* states around the read */
};

/** page_oracle_init() - all pages of @image hold the image; -EINVAL if it is no whole pages */
[[gnu::warn_unused_result]] int page_oracle_init(struct page_oracle *ret, const struct image *image,
                                                 uint64_t page_bytes, uint64_t seed);

void page_oracle_finish(struct page_oracle *o);

/** page_oracle_state() - the state of @page now */
uint8_t page_oracle_state(const struct page_oracle *o, uint32_t page);

/** page_oracle_flag() - set PAGE_TOUCHED or PAGE_ERROR; true if this call was the first */
bool page_oracle_flag(struct page_oracle *o, uint32_t page, uint8_t flag);

/**
 * page_oracle_claim_write() - become the only one who writes or removes @page, and announce a write
 *
 * Returns: false when the page is claimed or in a phase in which it is not written.
 */
bool page_oracle_claim_write(struct page_oracle *o, uint32_t page);

/** page_oracle_claim_remove() - the same for a removal */
bool page_oracle_claim_remove(struct page_oracle *o, uint32_t page);

/** page_oracle_settle() - the write or removal that was claimed is over; gives up the claim */
void page_oracle_settle(struct page_oracle *o, uint32_t page);

/** page_oracle_abandon_write() - the claimed write hit SIGBUS and changed nothing */
void page_oracle_abandon_write(struct page_oracle *o, uint32_t page);

/** page_oracle_write_mark() - do the claimed write; the page is mapped at @host */
void page_oracle_write_mark(const struct page_oracle *o, uint32_t page, char *host);

/** page_oracle_begin() - first access of a read; the caller has set @page, @first_word, @words */
void page_oracle_begin(const struct page_oracle *o, const char *host, struct page_read *read);

/** page_oracle_read() - all words of the page, in ascending order, after page_oracle_begin() */
void page_oracle_read(const struct page_oracle *o, const char *host, struct page_read *read);

/** page_oracle_check() - judge a read by the rule above; false leaves the first wrong byte */
bool page_oracle_check(const struct page_oracle *o, const struct page_read *read,
                       struct page_wrong *ret_wrong);

#endif

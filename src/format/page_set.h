/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_PAGE_SET_H
#define THAW_FORMAT_PAGE_SET_H

/*
 * A set of pages of an image, as ascending ranges: what a new layer changes. Filled front to back
 * by whoever compares or scans an image. One thread.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"

struct page_range {
    uint32_t start;
    uint32_t pages; /* at least 1; the end stays within UINT32_MAX */
};

/* Zero-initialised is empty; release with page_set_finish(). */
struct page_set {
    struct page_range *ranges; /* owned; ascending, neither overlapping nor touching */
    size_t count;
    size_t cap;
};

#define CLEANUP_PAGE_SET CLEANUP(page_set_finish)

/**
 * page_set_add() - add @pages from @start on, which is not before the end of the last range
 *
 * Returns: 0, -ENOMEM, -EINVAL when out of order, -EOVERFLOW past UINT32_MAX; unchanged then.
 */
[[gnu::warn_unused_result]] int page_set_add(struct page_set *s, uint32_t start, uint32_t pages);

/** page_set_pages() - how many pages the set holds */
uint64_t page_set_pages(const struct page_set *s);

/** page_set_finish() - release the ranges; @s is an empty set afterwards */
void page_set_finish(struct page_set *s);

#endif

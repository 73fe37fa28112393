/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_THROTTLE_IMAGE_H
#define THAW_BENCH_THROTTLE_IMAGE_H

/* The build that `thaw bench throttle`, `bounded` and `restart` resume. */

#include <stdint.h>

#include "thaw/build.h"

struct thaw_error;

/**
 * throttle_image_create() - memory without zeros, each page known by run_page_word(), and a disk of
 *                           zeros, which costs nothing to fetch; blocks
 * @scratch: for the raw files, which are removed again
 */
[[gnu::warn_unused_result]] int throttle_image_create(const char *scratch, const char *store,
                                                      uint64_t memory_bytes, uint64_t disk_bytes,
                                                      char ret_build[THAW_BUILD_ID_BYTES],
                                                      struct thaw_error *e);

/** throttle_image_page() - what page @page of its memory holds, into the PAGE_BYTES at @words */
void throttle_image_page(uint64_t *words, uint64_t page);

#endif

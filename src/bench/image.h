/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_IMAGE_H
#define THAW_BENCH_IMAGE_H

/* The memory that the benchmarks resume: random bytes, as one object or as eight layers. */

#include "bench/server.h"

/**
 * bench_image_create() - random memory, and a build of it in folder @store
 * @layers: 0: one build, one run. n: a build whose map takes page after page from n other builds
 */
[[gnu::warn_unused_result]] int bench_image_create(const char *store, uint64_t size_bytes,
                                                   unsigned layers, struct bench_image *ret,
                                                   struct thaw_error *e);

void bench_image_finish(struct bench_image *image);

#endif

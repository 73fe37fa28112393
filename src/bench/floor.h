/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_FLOOR_H
#define THAW_BENCH_FLOOR_H

/* The floor of the memory benchmarks: what any program that serves faults has to do, and no more.
 */

#include <stdbool.h>

struct bench_image;
struct thaw_error;

/**
 * bench_floor_main() - serve one VM from memory until it ends
 *
 * Answering faults: poll(2), read(2), UFFDIO_COPY of one page. Populating: UFFDIO_COPY of 64 KiB
 * from end to end; where pages come from several buffers, after gathering them with memcpy.
 */
[[gnu::warn_unused_result]] int bench_floor_main(const struct bench_image *image, bool populate,
                                                 const char *socket_path, int pipe,
                                                 struct thaw_error *e);

#endif

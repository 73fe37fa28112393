/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_ROOM_H
#define THAW_BENCH_ROOM_H

/* Memory and disk that a benchmark takes. One thread. */

#include <stdint.h>

struct thaw_error;

/**
 * room_check() - whether there are so many bytes of memory, and in the folder @scratch
 *
 * Returns: 0, -ENOMEM or -ENOSPC with what to do about it in @e.
 */
[[gnu::warn_unused_result]] int room_check(const char *scratch, uint64_t memory_bytes,
                                           uint64_t disk_bytes, struct thaw_error *e);

/** room_empty() - remove all that is in @folder, and have nothing of it left to be written */
void room_empty(const char *folder);

#endif

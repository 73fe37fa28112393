/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_TIER_COUNTERS_H
#define THAW_CACHE_TIER_COUNTERS_H

/* What a disk tier has done, and has. */

#include <stdbool.h>
#include <stdint.h>

struct tier;

/**
 * struct tier_counters
 * @bytes: in the folder's files of objects, be they open or not; of a tier that has no lock, as
 * they were when it was created
 * @overlay_bytes: in files of this tier's overlays
 * @max_bytes: for both together; 0: no bound
 * @read_bytes, @written_bytes, @evicted_bytes: since the start
 * @damaged: granules of objects that were not what their sum says
 * @read_errors, @write_errors: what failed by the disk's fault
 * @no_room: writes that got -ENOSPC
 * @stalls: how often reads hung: none was over for a second
 */
struct tier_counters {
    uint64_t bytes;
    uint64_t overlay_bytes;
    uint64_t max_bytes;
    uint64_t read_bytes;
    uint64_t written_bytes;
    uint64_t evicted_bytes;
    uint64_t damaged;
    uint64_t read_errors, write_errors, no_room, stalls;
    bool writable;
};

/** tier_counters() - a snapshot. Any thread. */
struct tier_counters tier_counters(const struct tier *t);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_HOST_MEMORY_H
#define THAW_CLI_HOST_MEMORY_H

/* What this process and its host have in memory, from /proc. */

#include <stdint.h>

/**
 * struct host_memory - the most that was seen
 * @pss_bytes: of this process, its share of what it shares (/proc/self/smaps_rollup)
 * @memfd_bytes: its memfds, whether they are mapped or not
 * @dirty_bytes, @writeback_bytes: of the whole host (/proc/meminfo)
 */
struct host_memory {
    uint64_t pss_bytes;
    uint64_t memfd_bytes;
    uint64_t dirty_bytes;
    uint64_t writeback_bytes;
};

/** host_memory_take() - look now, and keep what is more than before; what cannot be read is 0 */
void host_memory_take(struct host_memory *peak);

#endif

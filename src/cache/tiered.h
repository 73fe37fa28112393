/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_TIERED_H
#define THAW_CACHE_TIERED_H

/* What memory in a pool has beyond what every backing has: see tiered.c. */

#include <stdbool.h>
#include <stdint.h>

#include "cache/memory.h"

/** tiered_set_slot() - a granule that is being filled is in @slot, from now on; its memory */
void *tiered_set_slot(const struct memory *m, uint32_t granule, uint32_t slot);

/** tiered_slot() - where a granule is, that is being filled or ready */
uint32_t tiered_slot(const struct memory *m, uint32_t granule);

/** tiered_idle() - whether an overlay has slots without blocks. The owner only. */
bool tiered_idle(const struct memory *m);

/** tiered_reclaim() - free them. The owner only, while nobody else is in a call. */
void tiered_reclaim(const struct memory *m);

/** tiered_log_bytes() - the slots of an overlay */
int64_t tiered_log_bytes(const struct memory *m);

#endif

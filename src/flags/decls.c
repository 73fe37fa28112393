/* SPDX-License-Identifier: Apache-2.0 */

/* The flags that thaw has. A new one enters enum flag_id, this table and docs/man/thaw-flags.5. */
#include "flags/flags.h"

const struct flag_decl flag_decls[FLAG_COUNT] = {
    [FLAG_LOCAL_CACHE_MEMFD] =
        {
            .name = "local-cache-memfd",
            .help = "keep the caches and overlays made from now on in memfds of their own",
            .initial.boolean = false,
            .type = FLAG_BOOL,
            .run_time = true,
        },
    [FLAG_MEMORY_BUDGET] =
        {
            .name = "memory-budget",
            .help = "how much memory the caches may take; 0: as when thaw was started",
            .initial.bytes = 0,
            .type = FLAG_SIZE,
            .run_time = true,
        },
};

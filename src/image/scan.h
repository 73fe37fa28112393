/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_SCAN_H
#define THAW_IMAGE_SCAN_H

/*
 * Reading much of stored objects, once and in order, for those who check or copy builds: several
 * reads are under way while the bytes of an earlier one are used. Nothing is cached.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

struct store_object;

#define SCAN_RANGE_BYTES MIB /* of one read, at most */

/* One read. */
struct scan_range {
    struct store_object *object;
    struct c_off offset; /* a multiple of PAGE_BYTES */
    size_t len_bytes;    /* 1 to SCAN_RANGE_BYTES */
    const void *context; /* the source's */
};

/**
 * struct scan_source - what to read, and what to do with it
 * @next: fills *@ret and returns true, or returns false when there is nothing more to read
 * @take: called for each range in the order of @next with what was read: @result bytes, short at
 *        the end of the object, or -errno. It may change the bytes. A failure ends the scan.
 */
struct scan_source {
    bool (*next)(void *arg, struct scan_range *ret);
    int (*take)(void *arg, const struct scan_range *range, void *bytes, int64_t result);
    void *arg;
};

/** scan_run() - read it all; 0, the failure of @take, or -errno. Any thread; it waits. */
[[gnu::warn_unused_result]] int scan_run(const struct scan_source *source);

/* Told now and then how far the work is, from any thread, one at a time. */
struct scan_progress {
    void (*report)(void *arg, uint64_t done_bytes, uint64_t total_bytes); /* NULL: nobody asks */
    void *arg;
};

/** scan_crew() - call @work(@arg) on a few threads at once, and wait until all have returned */
void scan_crew(void (*work)(void *arg), void *arg);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FUZZ_HEADER_H
#define THAW_TESTS_FUZZ_HEADER_H

/* What must hold for every header, however it came to be; for the targets header, header_block. */

#include <errno.h>
#include <stddef.h>
#include <stdint.h>

#include "../lib/header_same.h"
#include "format/header.h"
#include "fuzz.h"

/* Every offset is answered, and the answers follow each other without a gap. */
static inline void fuzz_header_walk(const struct header *h)
{
    uint64_t end = map_page_count(h->map) * PAGE_BYTES;
    struct image_off off = {0};
    struct map_extent x;

    while (off.v < end) {
        FUZZ_REQUIRE(map_lookup(h->map, off, &x) == 0);
        FUZZ_REQUIRE(x.len_bytes > 0 && x.len_bytes <= end - off.v);
        FUZZ_REQUIRE(x.zero || x.build < h->build_count);
        off.v += x.len_bytes;
    }
    FUZZ_REQUIRE(map_lookup(h->map, off, &x) == -ERANGE);
}

/* A V3 header keeps the map and no more; a V4 header all, but for frames that it may trim. */
static inline void fuzz_header_again(const struct header *h)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct header *again CLEANUP_HEADER = NULL, *third CLEANUP_HEADER = NULL;
    struct buf b CLEANUP_BUF = {0}, c CLEANUP_BUF = {0};

    FUZZ_REQUIRE(header_encode(h, &b, &e) == 0);
    FUZZ_REQUIRE(header_decode(b.data, b.len, &again, &e) == 0);
    FUZZ_REQUIRE(header_meta_same(h, again) && header_runs_same(h, again));
    FUZZ_REQUIRE(header_encode(again, &c, &e) == 0);
    FUZZ_REQUIRE(c.len == b.len && memcmp(c.data, b.data, b.len) == 0);
    FUZZ_REQUIRE(header_decode(c.data, c.len, &third, &e) == 0);
    FUZZ_REQUIRE(header_same(again, third));
}

static inline void fuzz_header_one(const uint8_t *data, size_t size)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct header *h CLEANUP_HEADER = NULL;
    int r = header_decode(data, size, &h, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EBADMSG && !h && e.code == r && e.text[0] != '\0'));
    if (r < 0)
        return;
    fuzz_header_walk(h);
    FUZZ_REQUIRE(header_check(h, &e) == 0);
    /* V1, V2 and V5 are only read: written as the version next to them. */
    h->version = (h->version & ~HEADER_FORMAT_MASK) |
                 (header_format(h) >= HEADER_V4 ? HEADER_V4 : HEADER_V3);
    fuzz_header_again(h);
}

#endif

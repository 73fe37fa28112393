/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "format/handover.h"
#include "fuzz.h"

/* Any host address lies in one region at most, and none of them wraps around. */
static void require_sound(const struct handover *h)
{
    FUZZ_REQUIRE(h->region_count > 0);
    FUZZ_REQUIRE(h->page_bytes == PAGE_BYTES || h->page_bytes == 2 * MIB);
    for (size_t i = 0; i < h->region_count; i++) {
        const struct handover_region *a = &h->regions[i];

        FUZZ_REQUIRE(a->size_bytes > 0 && a->size_bytes % h->page_bytes == 0);
        FUZZ_REQUIRE(a->base.v % h->page_bytes == 0 && a->offset.v % h->page_bytes == 0);
        FUZZ_REQUIRE(a->base.v + a->size_bytes > a->base.v);
        FUZZ_REQUIRE(a->offset.v + a->size_bytes > a->offset.v);
        for (size_t j = 0; j < i; j++) {
            const struct handover_region *b = &h->regions[j];

            FUZZ_REQUIRE(a->base.v + a->size_bytes <= b->base.v ||
                         b->base.v + b->size_bytes <= a->base.v);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct handover *h CLEANUP_HANDOVER = NULL, *again CLEANUP_HANDOVER = NULL;
    int r = handover_decode(data, size, &h, &e);
    size_t cap;
    char *text CLEANUP_FREE = NULL;

    FUZZ_REQUIRE(r == 0 || ((r == -EPROTO || r == -EAGAIN) && !h && e.code == r));
    FUZZ_REQUIRE(r == 0 || e.text[0] != '\0');
    if (r < 0)
        return 0;
    require_sound(h);
    cap = 2 + 200 * h->region_count; /* more than the keys and five numbers of 20 digits take */
    text = malloc(cap);
    FUZZ_REQUIRE(text != NULL);
    r = handover_encode(h->regions, h->region_count, h->page_bytes, text, cap);
    FUZZ_REQUIRE(r > 0);
    if ((size_t)r > HANDOVER_MAX_BYTES)
        return 0; /* the input left out what it could */
    FUZZ_REQUIRE(handover_decode(text, (size_t)r, &again, &e) == 0);
    FUZZ_REQUIRE(again->page_bytes == h->page_bytes && again->region_count == h->region_count);
    FUZZ_REQUIRE(memcmp(again->regions, h->regions, h->region_count * sizeof(*h->regions)) == 0);
    return 0;
}

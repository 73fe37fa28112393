/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "base/bytes.h"
#include "format/tier.h"
#include "fuzz.h"

/* A page that is accepted is the page that its identity makes, to the byte. */
static void try_page(const uint8_t *page)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct tier_identity id, same;
    uint8_t again[TIER_PAGE_BYTES];
    int r = tier_page_decode(page, &id, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EBADMSG && e.code == r && e.text[0] != '\0'));
    if (r < 0)
        return;
    FUZZ_REQUIRE(tier_identity_init(&same, &id.build, id.name, id.size_bytes, id.origin) == 0);
    FUZZ_REQUIRE(tier_identity_same(&same, &id));
    tier_page_encode(&id, again);
    FUZZ_REQUIRE(memcmp(page, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t page[TIER_PAGE_BYTES] = {0};

    memcpy(page, data, size < sizeof(page) ? size : sizeof(page));
    try_page(page);
    /* And with its checksum in order, so that the fields before it are reached. */
    store_le(page + TIER_PAGE_BYTES - 8, XXH3_64bits(page, TIER_PAGE_BYTES - 8), 8);
    try_page(page);
    return 0;
}

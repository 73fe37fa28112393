/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "base/bytes.h"
#include "format/sums.h"
#include "fuzz.h"

/* A page that is accepted is the page that its sums make, to the byte. */
static void try_page(const uint8_t *page, uint32_t number)
{
    struct thaw_error e = THAW_ERROR_INIT;
    uint64_t sums[SUMS_PER_PAGE];
    uint8_t again[SUMS_PAGE_BYTES];
    int r = sums_page_decode(page, number, sums, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EBADMSG && e.code == r && e.text[0] != '\0'));
    if (r < 0)
        return;
    sums_page_encode(number, sums, SUMS_PER_PAGE, again);
    FUZZ_REQUIRE(memcmp(page, again, sizeof(again)) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    uint8_t page[SUMS_PAGE_BYTES] = {0};
    uint32_t number;

    memcpy(page, data, size < sizeof(page) ? size : sizeof(page));
    number = (uint32_t)load_le(page + 8, 4);
    try_page(page, 0);
    try_page(page, number);
    /* And with its checksum in order, so that the fields before it are reached. */
    store_le(page + SUMS_PAGE_BYTES - 8, XXH3_64bits(page, SUMS_PAGE_BYTES - 8), 8);
    try_page(page, number);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "format/sums.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#include <xxhash.h>

#include "base/bytes.h"

/* Byte offsets of the fields of a page. */
#define AT_MAGIC     0
#define AT_NUMBER    8
#define AT_ALGORITHM 12
#define AT_SUMS      16
#define AT_CHECK     (SUMS_PAGE_BYTES - 8)

#define ALGORITHM_XXH3_64 1

static const char magic[8] = {'T', 'H', 'A', 'W', 'S', 'U', 'M', '1'};

static_assert(AT_SUMS + SUMS_PER_PAGE * 8 == AT_CHECK, "a page is exactly full");

uint64_t sums_of(const void *granule, size_t len)
{
    return XXH3_64bits(granule, len);
}

void sums_page_encode(uint32_t page, const uint64_t *sums, size_t n, void *ret_page)
{
    uint8_t *p = ret_page;

    assert(n <= SUMS_PER_PAGE);
    memset(p, 0, SUMS_PAGE_BYTES);
    memcpy(p + AT_MAGIC, magic, sizeof(magic));
    store_le(p + AT_NUMBER, page, 4);
    store_le(p + AT_ALGORITHM, ALGORITHM_XXH3_64, 4);
    for (size_t i = 0; i < n; i++)
        store_le(p + AT_SUMS + 8 * i, sums[i], 8);
    store_le(p + AT_CHECK, XXH3_64bits(p, AT_CHECK), 8);
}

int sums_page_decode(const void *page, uint32_t expect_page, uint64_t *ret_sums,
                     struct thaw_error *e)
{
    const uint8_t *p = page;
    uint64_t number = load_le(p + AT_NUMBER, 4);
    uint64_t algorithm = load_le(p + AT_ALGORITHM, 4);
    uint64_t check = load_le(p + AT_CHECK, 8);
    uint64_t actual = XXH3_64bits(p, AT_CHECK);

    if (memcmp(p + AT_MAGIC, magic, sizeof(magic)) != 0)
        return err_set(e, -EBADMSG, "sums page %u: no THAWSUM1 at byte 0", expect_page);
    if (check != actual)
        return err_set(e, -EBADMSG,
                       "sums page %u: checksum at byte %d is %016" PRIx64
                       ", the page's content has %016" PRIx64,
                       expect_page, AT_CHECK, check, actual);
    if (number != expect_page)
        return err_set(e, -EBADMSG,
                       "sums page %u: page number at byte %d is %" PRIu64
                       ": the page is of another place",
                       expect_page, AT_NUMBER, number);
    if (algorithm != ALGORITHM_XXH3_64)
        return err_set(e, -EBADMSG,
                       "sums page %u: algorithm at byte %d is %" PRIu64
                       ", this thaw knows only 1 (XXH3-64)",
                       expect_page, AT_ALGORITHM, algorithm);
    for (size_t i = 0; i < SUMS_PER_PAGE; i++)
        ret_sums[i] = load_le(p + AT_SUMS + 8 * i, 8);
    return 0;
}

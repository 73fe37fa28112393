/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "base/bytes.h"
#include "format/sums.h"
#include "unit.h"

/* A page put together from the description alone. */
static void golden_page(uint8_t page[4096], uint32_t number, uint64_t first_sum)
{
    memset(page, 0, 4096);
    memcpy(page, "THAWSUM1", 8);
    page[8] = (uint8_t)number;
    page[9] = (uint8_t)(number >> 8);
    page[12] = 1;
    for (int i = 0; i < 8; i++)
        page[16 + i] = (uint8_t)(first_sum >> 8 * i);
    store_le(page + 4088, XXH3_64bits(page, 4088), 8);
}

static void page_is_as_described(void **state)
{
    const uint64_t sum = UINT64_C(0x0123456789abcdef);
    uint8_t golden[4096], page[4096];
    uint64_t sums[SUMS_PER_PAGE];

    (void)state;
    golden_page(golden, 515, sum);
    sums_page_encode(515, &sum, 1, page);
    assert_memory_equal(page, golden, sizeof(page));
    assert_int_equal(sums_page_decode(golden, 515, sums, NULL), 0);
    assert_int_equal(sums[0], sum);
    for (size_t i = 1; i < SUMS_PER_PAGE; i++)
        assert_int_equal(sums[i], 0);
}

static void full_page_round_trips(void **state)
{
    uint64_t sums[SUMS_PER_PAGE], again[SUMS_PER_PAGE];
    uint8_t page[SUMS_PAGE_BYTES];

    (void)state;
    for (size_t i = 0; i < SUMS_PER_PAGE; i++)
        sums[i] = sums_of(&i, sizeof(i));
    sums_page_encode(UINT32_MAX, sums, SUMS_PER_PAGE, page);
    assert_int_equal(sums_page_decode(page, UINT32_MAX, again, NULL), 0);
    assert_memory_equal(sums, again, sizeof(sums));
}

/* The known answer for no input, from xxHash's own tests. */
static void sum_is_xxh3_64(void **state)
{
    (void)state;
    assert_int_equal(sums_of("", 0), UINT64_C(0x2d06800538d394c2));
}

static void every_flipped_byte_is_seen(void **state)
{
    const uint64_t sum = 42;
    uint8_t page[SUMS_PAGE_BYTES];
    uint64_t sums[SUMS_PER_PAGE] = {7};

    (void)state;
    sums_page_encode(3, &sum, 1, page);
    for (size_t i = 0; i < sizeof(page); i++) {
        struct thaw_error e = THAW_ERROR_INIT;

        page[i] ^= 0x10;
        assert_int_equal(sums_page_decode(page, 3, sums, &e), -EBADMSG);
        assert_int_equal(e.code, -EBADMSG);
        assert_non_null(strstr(e.text, "sums page 3"));
        page[i] ^= 0x10;
    }
    assert_int_equal(sums[0], 7);                                      /* untouched on failure */
    assert_int_equal(sums_page_decode(page, 4, sums, NULL), -EBADMSG); /* a page of another place */
    assert_int_equal(sums_page_decode(page, 3, sums, NULL), 0);
}

static void unknown_algorithm_is_named(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    uint8_t page[4096];
    uint64_t sums[SUMS_PER_PAGE];

    (void)state;
    golden_page(page, 0, 1);
    page[12] = 2;
    store_le(page + 4088, XXH3_64bits(page, 4088), 8);
    assert_int_equal(sums_page_decode(page, 0, sums, &e), -EBADMSG);
    assert_non_null(strstr(e.text, "algorithm at byte 12 is 2"));
}

static void sizes_follow_the_object(void **state)
{
    (void)state;
    assert_int_equal(sums_object_bytes(0), 0);
    assert_int_equal(sums_granule_count(1), 1);
    assert_int_equal(sums_object_bytes(1), 4096);
    assert_int_equal(sums_object_bytes(509 * GRANULE_BYTES), 4096);
    assert_int_equal(sums_object_bytes(509 * GRANULE_BYTES + 1), 8192);
    assert_int_equal(sums_page_count(32 * GIB), 1031); /* 4 MiB and a bit, as documented */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_is_as_described),
        cmocka_unit_test(full_page_round_trips),
        cmocka_unit_test(sum_is_xxh3_64),
        cmocka_unit_test(every_flipped_byte_is_seen),
        cmocka_unit_test(unknown_algorithm_is_named),
        cmocka_unit_test(sizes_follow_the_object),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <xxhash.h>

#include "base/bytes.h"
#include "format/tier.h"
#include "unit.h"

static const struct uuid build = {{0x12, 0x34, 0x56, 0x78, 0x9a}};

/* A page put together from the description alone. */
static void golden_page(uint8_t page[4096])
{
    memset(page, 0, 4096);
    memcpy(page, "THAWTIER", 8);
    page[8] = 1;
    page[12] = 7;
    memcpy(page + 16, build.b, 16);
    store_le(page + 32, UINT64_C(0x1122334455), 8);
    store_le(page + 40, UINT64_C(0xfedcba9876543210), 8);
    memcpy(page + 48, "memfile", 7);
    store_le(page + 4088, XXH3_64bits(page, 4088), 8);
}

static void seal(uint8_t page[4096])
{
    store_le(page + 4088, XXH3_64bits(page, 4088), 8);
}

static void expect_bad(const uint8_t *page, const char *text)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct tier_identity id = {.size_bytes = 7};

    assert_int_equal(tier_page_decode(page, &id, &e), -EBADMSG);
    assert_int_equal(e.code, -EBADMSG);
    assert_non_null(strstr(e.text, text));
    assert_int_equal(id.size_bytes, 7); /* untouched */
}

static void page_is_as_described(void **state)
{
    uint8_t golden[4096], page[4096];
    struct tier_identity id;

    (void)state;
    golden_page(golden);
    assert_int_equal(tier_identity_init(&id, &build, "memfile", UINT64_C(0x1122334455),
                                        UINT64_C(0xfedcba9876543210)),
                     0);
    tier_page_encode(&id, page);
    assert_memory_equal(page, golden, sizeof(page));
    memset(&id, 0xff, sizeof(id));
    assert_int_equal(tier_page_decode(golden, &id, NULL), 0);
    assert_memory_equal(id.build.b, build.b, sizeof(build.b));
    assert_int_equal(id.size_bytes, UINT64_C(0x1122334455));
    assert_int_equal(id.origin, UINT64_C(0xfedcba9876543210));
    assert_string_equal(id.name, "memfile");
}

static void the_longest_name_round_trips(void **state)
{
    char name[TIER_NAME_MAX + 2] = "";
    uint8_t page[TIER_PAGE_BYTES];
    struct tier_identity id, again;

    (void)state;
    memset(name, 'n', TIER_NAME_MAX);
    assert_int_equal(tier_identity_init(&id, &build, name, 1, 2), 0);
    tier_page_encode(&id, page);
    assert_int_equal(tier_page_decode(page, &again, NULL), 0);
    assert_true(tier_identity_same(&again, &id));
    name[TIER_NAME_MAX] = 'n';
    assert_int_equal(tier_identity_init(&id, &build, name, 1, 2), -EINVAL);
}

static void what_is_no_name_of_a_file_is_refused(void **state)
{
    struct tier_identity id = {.size_bytes = 7};

    (void)state;
    assert_int_equal(tier_identity_init(&id, &build, "", 1, 2), -EINVAL);
    assert_int_equal(tier_identity_init(&id, &build, "../x", 1, 2), -EINVAL);
    assert_int_equal(id.size_bytes, 7);
}

static void what_differs_is_another_object(void **state)
{
    static const struct uuid other = {{0x12, 0x34, 0x56, 0x78, 0x9b}};
    struct tier_identity id, not [4];

    (void)state;
    assert_int_equal(tier_identity_init(&id, &build, "memfile", 1, 2), 0);
    assert_int_equal(tier_identity_init(&not [0], &other, "memfile", 1, 2), 0);
    assert_int_equal(tier_identity_init(&not [1], &build, "memfil", 1, 2), 0);
    assert_int_equal(tier_identity_init(&not [2], &build, "memfile", 3, 2), 0);
    assert_int_equal(tier_identity_init(&not [3], &build, "memfile", 1, 3), 0);
    assert_true(tier_identity_same(&id, &id));
    for (unsigned i = 0; i < 4; i++)
        assert_false(tier_identity_same(&id, &not [i]));
}

static void every_flipped_byte_is_seen(void **state)
{
    struct tier_identity id = {0};
    uint8_t page[4096];

    (void)state;
    golden_page(page);
    for (size_t i = 0; i < sizeof(page); i++) {
        page[i] ^= 0x10;
        assert_int_equal(tier_page_decode(page, &id, NULL), -EBADMSG);
        page[i] ^= 0x10;
    }
    assert_int_equal(tier_page_decode(page, &id, NULL), 0);
}

/* Pages whose checksum is in order. */
static void what_does_not_hold_is_named(void **state)
{
    uint8_t page[4096];

    (void)state;
    memset(page, 0, sizeof(page));
    expect_bad(page, "no THAWTIER at byte 0");
    golden_page(page);
    page[100] = 1;
    expect_bad(page, "checksum at byte 4088");
    seal(page);
    expect_bad(page, "something follows the name");
    golden_page(page);
    page[8] = 2;
    seal(page);
    expect_bad(page, "version at byte 8 is 2");
    golden_page(page);
    page[12] = 0;
    seal(page);
    expect_bad(page, "no name of 0 bytes");
    store_le(page + 12, UINT32_MAX, 4);
    seal(page);
    expect_bad(page, "no name of 4294967295 bytes");
    golden_page(page);
    page[50] = '/';
    seal(page);
    expect_bad(page, "no name of 7 bytes");
    page[50] = 0;
    seal(page);
    expect_bad(page, "no name of 7 bytes");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(page_is_as_described),
        cmocka_unit_test(the_longest_name_round_trips),
        cmocka_unit_test(what_is_no_name_of_a_file_is_refused),
        cmocka_unit_test(what_differs_is_another_object),
        cmocka_unit_test(every_flipped_byte_is_seen),
        cmocka_unit_test(what_does_not_hold_is_named),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

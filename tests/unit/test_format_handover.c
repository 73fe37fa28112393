/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/test_random.h"
#include "format/handover.h"
#include "unit.h"

static struct handover *decode(const char *text)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct handover *h = NULL;

    if (handover_decode(text, strlen(text), &h, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(e.code, 0);
    return h;
}

/* Two regions as Firecracker 1.12 sends them. */
#define FIRECRACKER                                                                                \
    "[{\"base_host_virt_addr\":139870000001024,\"size\":3221225472,\"offset\":0,"                  \
    "\"page_size\":4096,\"page_size_kib\":4096},"                                                  \
    "{\"base_host_virt_addr\":139880000000000,\"size\":31138512896,\"offset\":3221225472,"         \
    "\"page_size\":4096,\"page_size_kib\":4096}]"

static void firecracker_body_is_read(void **state)
{
    struct handover *h CLEANUP_HANDOVER = decode(FIRECRACKER);

    (void)state;
    assert_int_equal(h->region_count, 2);
    assert_int_equal(h->page_bytes, 4096);
    assert_int_equal(h->regions[0].base.v, 139870000001024);
    assert_int_equal(h->regions[0].size_bytes, 3221225472);
    assert_int_equal(h->regions[0].offset.v, 0);
    assert_int_equal(h->regions[1].base.v, 139880000000000);
    assert_int_equal(h->regions[1].size_bytes, 31138512896);
    assert_int_equal(h->regions[1].offset.v, 3221225472);
}

static void encoder_writes_firecracker_body(void **state)
{
    static const struct handover_region regions[] = {
        {{139870000001024}, 3221225472, {0}},
        {{139880000000000}, 31138512896, {3221225472}},
    };
    char text[sizeof(FIRECRACKER)];

    (void)state;
    assert_int_equal(handover_encode(regions, 2, 4096, text, sizeof(text)),
                     sizeof(FIRECRACKER) - 1);
    assert_string_equal(text, FIRECRACKER);
    for (size_t cap = 0; cap < sizeof(text); cap++)
        assert_int_equal(handover_encode(regions, 2, 4096, text, cap), -ENOSPC);
}

static void variants_are_read(void **state)
{
    struct handover *h CLEANUP_HANDOVER = decode(
        "{\"type\":0,\"regions\":[{\"base_host_virt_addr\":9223372034707292160,\"size\":2097152,"
        "\"offset\":2097152,\"page_size_kib\":2097152,\"gpa_start\":0}],\"policy\":1,"
        "\"enable_prefault\":false}");
    struct handover *bare CLEANUP_HANDOVER =
        decode(" [ {\"offset\":4096,\"size\":4096,\"base_host_virt_addr\":0} ] ");
    /* Beyond 2^53 a double would round: the number above is 2^63 - 2^31. */

    (void)state;
    assert_int_equal(h->page_bytes, 2097152);
    assert_int_equal(h->regions[0].base.v, (UINT64_C(1) << 63) - (UINT64_C(1) << 31));
    assert_int_equal(bare->page_bytes, 4096);
    assert_int_equal(bare->regions[0].offset.v, 4096);
}

static void odd_numbers_above_2_53_are_exact(void **state)
{
    struct handover *h CLEANUP_HANDOVER =
        decode("[{\"base_host_virt_addr\":9007199254745088,\"size\":4096,\"offset\":0,"
               "\"id\":9007199254740993}]");

    (void)state;
    assert_int_equal(h->regions[0].base.v, (UINT64_C(1) << 53) + 4096);
}

#define REGION(base, size, offset)                                                                 \
    "{\"base_host_virt_addr\":" base ",\"size\":" size ",\"offset\":" offset "}"

static void bad_bodies_are_refused(void **state)
{
    static const struct {
        const char *text, *says;
        int code;
    } bad[] = {
        {"", "ends early", -EAGAIN},
        {"[{\"base_host", "ends early", -EAGAIN},
        {"[", "ends early", -EAGAIN},
        {"[]", "no regions", -EPROTO},
        {"{}", "neither an array", -EPROTO},
        {"{\"regions\":{}}", "neither an array", -EPROTO},
        {"7", "byte", -EPROTO},
        {"[7]", "region 0", -EPROTO},
        {"[] x", "byte", -EPROTO},
        {"[" REGION("4096", "4096", "0") ",{}]", "region 1: \"base_host_virt_addr\" is missing",
         -EPROTO},
        {"[" REGION("4096", "4096", "\"0\"") "]", "\"offset\" is not an integer", -EPROTO},
        {"[" REGION("4096", "4096.0", "0") "]", "\"size\" is not an integer", -EPROTO},
        {"[" REGION("-4096", "4096", "0") "]", "\"base_host_virt_addr\" is not an int", -EPROTO},
        {"[" REGION("9223372036854775808", "4096", "0") "]", "too big integer", -EPROTO},
        {"[" REGION("4096", "0", "0") "]", "\"size\" is 0", -EPROTO},
        {"[" REGION("4097", "4096", "0") "]", "multiples of the page size", -EPROTO},
        {"[" REGION("4096", "4095", "0") "]", "multiples of the page size", -EPROTO},
        {"[" REGION("4096", "4096", "1") "]", "multiples of the page size", -EPROTO},
        {"[" REGION("8192", "8192", "0") "," REGION("4096", "8192", "8192") "]", "overlap",
         -EPROTO},
        {"[" REGION("4096", "4096", "0") "," REGION("4096", "4096", "4096") "]", "overlap",
         -EPROTO},
        {"[{\"base_host_virt_addr\":0,\"size\":8192,\"offset\":0,\"page_size\":8192}]",
         "page size 8192", -EPROTO},
        {"[{\"base_host_virt_addr\":0,\"size\":2097152,\"offset\":0,\"page_size\":2097152},"
         "{\"base_host_virt_addr\":2097152,\"size\":4096,\"offset\":0}]",
         "region 1: page size 4096", -EPROTO},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct thaw_error e = THAW_ERROR_INIT;
        struct handover *h = NULL;

        if (handover_decode(bad[i].text, strlen(bad[i].text), &h, &e) != bad[i].code ||
            e.code != bad[i].code || h || !strstr(e.text, bad[i].says))
            fail_msg("%s\n gave %d: %s", bad[i].text, e.code, e.text);
    }
}

static void touching_regions_are_no_overlap(void **state)
{
    struct handover *h CLEANUP_HANDOVER =
        decode("[" REGION("8192", "4096", "0") "," REGION("4096", "4096", "4096") "]");

    (void)state;
    assert_int_equal(h->regions[0].base.v, 8192); /* the order is the sender's */
}

static void too_long_body_is_refused(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    size_t len = HANDOVER_MAX_BYTES + 1;
    char *text CLEANUP_FREE = malloc(len);
    struct handover *h = NULL;

    (void)state;
    assert_non_null(text);
    memset(text, ' ', len);
    memcpy(text, FIRECRACKER, strlen(FIRECRACKER));
    assert_int_equal(handover_decode(text, len, &h, &e), -EPROTO);
    assert_int_equal(handover_decode(text, len - 1, &h, &e), 0);
    handover_destroy(h);
}

/* What a stream socket may deliver first: every prefix says "not yet", never something else. */
static void every_prefix_asks_for_more(void **state)
{
    struct handover *h = NULL;

    (void)state;
    for (size_t len = 0; len < strlen(FIRECRACKER); len++)
        assert_int_equal(handover_decode(FIRECRACKER, len, &h, NULL), -EAGAIN);
}

static void many_regions_round_trip(void **state)
{
    struct test_random t = {.state = 4};
    char *text CLEANUP_FREE = malloc(HANDOVER_MAX_BYTES);

    (void)state;
    assert_non_null(text);
    for (size_t count = 1; count <= 400; count += 57) {
        struct handover_region regions[400];
        struct handover *h CLEANUP_HANDOVER = NULL;
        uint64_t base = 0;
        int len;

        for (size_t i = 0; i < count; i++) {
            uint64_t pages = 1 + test_random_below(&t, 1000);

            base += test_random_below(&t, UINT32_MAX) * PAGE_BYTES;
            regions[i] = (struct handover_region){
                {base}, pages * PAGE_BYTES, {test_random_below(&t, UINT32_MAX) * PAGE_BYTES}};
            base += pages * PAGE_BYTES;
        }
        len = handover_encode(regions, count, PAGE_BYTES, text, HANDOVER_MAX_BYTES);
        assert_true(len > 0);
        assert_int_equal(handover_decode(text, (size_t)len, &h, NULL), 0);
        assert_int_equal(h->region_count, count);
        assert_memory_equal(h->regions, regions, count * sizeof(regions[0]));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(firecracker_body_is_read),
        cmocka_unit_test(encoder_writes_firecracker_body),
        cmocka_unit_test(variants_are_read),
        cmocka_unit_test(odd_numbers_above_2_53_are_exact),
        cmocka_unit_test(bad_bodies_are_refused),
        cmocka_unit_test(touching_regions_are_no_overlap),
        cmocka_unit_test(too_long_body_is_refused),
        cmocka_unit_test(every_prefix_asks_for_more),
        cmocka_unit_test(many_regions_round_trip),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

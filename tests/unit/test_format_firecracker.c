/* SPDX-License-Identifier: Apache-2.0 */
/* Bodies of Firecracker's API against texts from its documents, and which versions go together. */
#include <errno.h>
#include <string.h>

#include <jansson.h>

#include "format/firecracker.h"
#include "unit.h"

static void encodes_a_load_request(void **state)
{
    struct buf b CLEANUP_BUF = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    json_t *got, *wanted;

    (void)state;
    buf_put(&b, "before", 6);
    assert_int_equal(firecracker_encode_load("/run/a \"b\"\\/state", "/run/m.sock", &b, &e), 0);
    got = json_loadb((const char *)b.data + 6, b.len - 6, 0, NULL);
    wanted = json_loads("{\"snapshot_path\": \"/run/a \\\"b\\\"\\\\/state\","
                        " \"mem_backend\": {\"backend_type\": \"Uffd\","
                        " \"backend_path\": \"/run/m.sock\"}, \"resume_vm\": false}",
                        0, NULL);
    assert_non_null(wanted);
    assert_true(json_equal(got, wanted));
    json_decref(got);
    json_decref(wanted);
}

static void refuses_a_path_that_is_not_utf8(void **state)
{
    struct buf b CLEANUP_BUF = {0};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(firecracker_encode_load("/run/\xff", "/run/m.sock", &b, &e), -EINVAL);
    assert_non_null(strstr(e.text, "UTF-8"));
    assert_int_equal(firecracker_encode_load("/run/s", "/run/\xc3", &b, &e), -EINVAL);
    assert_int_equal(b.len, 0);
}

static int decode(const char *text, char ret[FIRECRACKER_VERSION_BYTES])
{
    struct thaw_error e = THAW_ERROR_INIT;
    int r = firecracker_decode_version(text, strlen(text), ret, &e);

    assert_int_equal(e.code, r);
    return r;
}

static void decodes_a_version(void **state)
{
    static const char *const bad[] = {
        "",
        "1.12.1",
        "[]",
        "{}",
        "{\"firecracker_version\":1}",
        "{\"firecracker_version\":\"1.12.1\\u001b[31m\"}",
        "{\"firecracker_version\":\"1.12.1\"",
        "{\"firecracker_version\":"
        "\"0123456789012345678901234567890123456789012345678901234567890123"
        "\"}",
    };
    char text[FIRECRACKER_VERSION_BYTES] = "";

    (void)state;
    assert_int_equal(decode("{\"firecracker_version\":\"1.12.1\",\"more\":[]}", text), 0);
    assert_string_equal(text, "1.12.1");
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
        assert_int_equal(decode(bad[i], text), -EPROTO);
    assert_string_equal(text, "1.12.1");
}

static void decodes_a_fault(void **state)
{
    static const char *const silent[] = {"", "{", "[]", "{}", "{\"fault_message\":7}", "<html>"};
    char fault[FIRECRACKER_FAULT_BYTES], long_text[1000];
    const char *text = "{\"fault_message\":\"Block: \\u001b[31m No such file\\n\"}";

    (void)state;
    assert_string_equal(firecracker_decode_fault(text, strlen(text), fault),
                        "Block: ?[31m No such file?");
    for (size_t i = 0; i < ARRAY_SIZE(silent); i++)
        assert_string_equal(firecracker_decode_fault(silent[i], strlen(silent[i]), fault),
                            "it does not say why");
    memset(long_text, 'x', sizeof(long_text));
    memcpy(long_text, "{\"fault_message\":\"", 18);
    memcpy(long_text + sizeof(long_text) - 2, "\"}", 2);
    assert_int_equal(strlen(firecracker_decode_fault(long_text, sizeof(long_text), fault)),
                     FIRECRACKER_FAULT_BYTES - 1);
}

static void knows_which_versions_go_together(void **state)
{
    static const struct {
        const char *a, *b;
        enum firecracker_reads expected;
    } cases[] = {
        {"1.12.0", "1.12.0", FIRECRACKER_READS},
        {"1.12.1", "v1.12.0", FIRECRACKER_READS},
        {"1.13.0", "1.14.4", FIRECRACKER_READS}, /* format 8 */
        {"1.9.1", "1.10.0", FIRECRACKER_READS},  /* format 3 */
        {"1.14.1", "v1.14.1_458ca91", FIRECRACKER_READS},
        {"1.14.1+x", "1.13.0_y", FIRECRACKER_READS},
        {"1.10.0", "1.10.1", FIRECRACKER_READS_NOT},
        {"1.12.1", "1.13.0", FIRECRACKER_READS_NOT},
        {"1.14.4", "1.15.0", FIRECRACKER_READS_NOT},
        {"1.6.0", "1.7.0", FIRECRACKER_READS_NOT},
        {"0.25.2", "1.16.1", FIRECRACKER_READS_NOT},
        {"1.16.1", "1.16.9", FIRECRACKER_READS},
        {"1.0.0", "1.6.0", FIRECRACKER_READS_MAYBE}, /* some of these could convert */
        {"1.17.0", "1.16.0", FIRECRACKER_READS_MAYBE},
        {"1.17.0", "1.17.1", FIRECRACKER_READS_MAYBE},
        {"2.0.0", "1.12.0", FIRECRACKER_READS_MAYBE},
        {"1.15.0-dev", "1.14.0", FIRECRACKER_READS_MAYBE},
        {"1.15.0-dev", "1.15.0-dev", FIRECRACKER_READS},
        {"main", "main", FIRECRACKER_READS},
        {"main", "1.12.0", FIRECRACKER_READS_MAYBE},
        {"1.12", "1.12.0", FIRECRACKER_READS_MAYBE},
        {"1.12.0.1", "1.13.0", FIRECRACKER_READS_MAYBE},
        {"1.99999.0", "1.13.0", FIRECRACKER_READS_MAYBE},
        {"", "1.13.0", FIRECRACKER_READS_MAYBE},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        if (firecracker_reads(cases[i].a, cases[i].b) != cases[i].expected ||
            firecracker_reads(cases[i].b, cases[i].a) != cases[i].expected)
            fail_msg("%s and %s", cases[i].a, cases[i].b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(encodes_a_load_request),
        cmocka_unit_test(refuses_a_path_that_is_not_utf8),
        cmocka_unit_test(decodes_a_version),
        cmocka_unit_test(decodes_a_fault),
        cmocka_unit_test(knows_which_versions_go_together),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include "format/metadata.h"
#include "unit.h"

/* As E2B writes it: one line, and keys that are none of thaw's business. */
static const char e2b[] =
    "{\"version\":2,\"template\":{\"build_id\":\"b2\",\"kernel_version\":\"6.1\","
    "\"firecracker_version\":\"1.12\"},\"context\":{\"user\":\"u\",\"env_vars\":{\"A\":\"b\"}},"
    "\"prefetch\":{\"disk\":{\"z\":1},\"memory\":{\"indices\":[7,3,0,511],"
    "\"access_types\":[\"r\",\"w\",\"p\",\"r\"],\"block_size\":2097152}},"
    "\"filesystem_only\":true}";

/* As metadata_encode() must write it, to the byte. */
static const char golden[] = "{\n"
                             "  \"version\": 2,\n"
                             "  \"prefetch\": {\n"
                             "    \"memory\": {\n"
                             "      \"indices\": [\n"
                             "        3,\n"
                             "        1\n"
                             "      ],\n"
                             "      \"block_size\": 4096\n"
                             "    }\n"
                             "  },\n"
                             "  \"thaw\": {\n"
                             "    \"vmm\": {\n"
                             "      \"kind\": \"qemu\",\n"
                             "      \"version\": \"7.2.9\",\n"
                             "      \"args\": [\n"
                             "        \"-m\",\n"
                             "        \"256\"\n"
                             "      ]\n"
                             "    },\n"
                             "    \"memory_bytes\": 268435456,\n"
                             "    \"page_bytes\": 4096\n"
                             "  }\n"
                             "}\n";

static struct metadata *decode(const char *text)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct metadata *m = NULL;

    if (metadata_decode(text, strlen(text), &m, &e) < 0)
        fail_msg("%s", e.text);
    return m;
}

static void assert_encodes(const struct metadata *m, const char *text)
{
    struct buf b CLEANUP_BUF = {0};

    assert_int_equal(metadata_encode(m, &b, NULL), 0);
    buf_put_u8(&b, 0);
    assert_string_equal((const char *)b.data, text);
}

static void golden_is_read_and_written(void **state)
{
    struct metadata *m CLEANUP_METADATA = decode(golden);

    (void)state;
    assert_int_equal(m->version, 2);
    assert_int_equal(m->vmm.kind, VMM_QEMU);
    assert_string_equal(m->vmm.version, "7.2.9");
    assert_int_equal(m->vmm.arg_count, 2);
    assert_string_equal(m->vmm.args[1], "256");
    assert_int_equal(m->memory_bytes, 256 * MIB);
    assert_int_equal(m->page_bytes, 4096);
    assert_int_equal(m->prefetch.count, 2);
    assert_int_equal(m->prefetch.indices[0], 3); /* the order of the faults */
    assert_int_equal(m->prefetch.indices[1], 1);
    assert_null(m->prefetch.access);
    assert_encodes(m, golden);
}

static void made_from_scratch(void **state)
{
    struct metadata *m CLEANUP_METADATA = NULL;

    (void)state;
    assert_int_equal(metadata_create(&m), 0);
    m->vmm.kind = VMM_QEMU;
    m->vmm.version = strdup("7.2.9");
    assert_int_equal(metadata_add_arg(m, "-m"), 0);
    assert_int_equal(metadata_add_arg(m, "256"), 0);
    m->memory_bytes = 256 * MIB;
    m->page_bytes = 4096;
    m->prefetch.indices = calloc(2, sizeof(*m->prefetch.indices));
    assert_non_null(m->prefetch.indices);
    m->prefetch.indices[0] = 3;
    m->prefetch.indices[1] = 1;
    m->prefetch.count = 2;
    m->prefetch.block_bytes = 4096;
    assert_encodes(m, golden);
}

/* All that E2B wrote is still there, and its own reader would find it; thaw's part is added. */
static void foreign_keys_survive(void **state)
{
    struct metadata *m CLEANUP_METADATA = decode(e2b);
    struct buf b CLEANUP_BUF = {0};
    json_t *before, *after;

    (void)state;
    assert_int_equal(m->prefetch.count, 4);
    assert_int_equal(m->prefetch.indices[3], 511);
    assert_string_equal(m->prefetch.access, "rwpr");
    assert_int_equal(m->prefetch.block_bytes, 2 * MIB);
    assert_int_equal(m->vmm.kind, VMM_NONE);
    assert_int_equal(metadata_encode(m, &b, NULL), 0);
    before = json_loads(e2b, 0, NULL);
    after = json_loadb((const char *)b.data, b.len, 0, NULL);
    assert_non_null(json_object_get(after, "thaw"));
    json_object_del(after, "thaw");
    assert_true(json_equal(before, after));
    json_decref(before);
    json_decref(after);

    /* The working set is thaw's to change, what is beside it is not. */
    m->prefetch.count = 0;
    b.len = 0;
    assert_int_equal(metadata_encode(m, &b, NULL), 0);
    after = json_loadb((const char *)b.data, b.len, 0, NULL);
    assert_null(json_object_get(json_object_get(after, "prefetch"), "memory"));
    assert_non_null(json_object_get(json_object_get(after, "prefetch"), "disk"));
    json_decref(after);
}

static void old_versions_are_stripped(void **state)
{
    static const char *const old[] = {
        "{}",
        "{\"version\":1,\"thaw\":{\"memory_bytes\":4096}}",
        "{\"version\":0.5}",
        "{\"version\":-7,\"prefetch\":7}",
        "{\"version\":\"2\",\"thaw\":7}",
        "{\"version\":null,\"a\":\"b\"}",
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(old); i++) {
        struct metadata *m CLEANUP_METADATA = decode(old[i]);

        assert_int_equal(m->version, 1);
        assert_int_equal(m->memory_bytes, 0);
        assert_null(m->foreign);
        assert_encodes(m, "{\n  \"version\": 1\n}\n");
    }
}

static void what_go_writes_as_null_is_missing(void **state)
{
    struct metadata *m CLEANUP_METADATA =
        decode("{\"version\":3,\"prefetch\":{\"memory\":null},\"thaw\":null}");
    struct metadata *n CLEANUP_METADATA =
        decode("{\"version\":2,\"prefetch\":{\"memory\":{\"indices\":null,\"block_size\":0}}}");

    (void)state;
    assert_int_equal(m->version, 3);
    assert_int_equal(m->prefetch.count, 0);
    assert_int_equal(n->prefetch.count, 0);
}

#define THAW(t)     "{\"version\":2,\"thaw\":{" t "}}"
#define PREFETCH(p) "{\"version\":2,\"prefetch\":{\"memory\":{" p "}}}"

static void bad_metadata_is_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "line 1"},
        {"[]", "not a JSON object"},
        {"{\"version\":2", "line 1"},
        {"{\"version\":2,\"version\":2}", "duplicate"},
        {"{\"version\":2.5}", "\"version\" is not an integer"},
        {"{\"version\":2,\"thaw\":7}", "\"thaw\" is not a JSON object"},
        {THAW("\"vmm\":7"), "\"thaw\": \"vmm\" is not a JSON object"},
        {THAW("\"vmm\":{}"), "\"thaw\": \"vmm\": \"kind\" is missing"},
        {THAW("\"vmm\":{\"kind\":\"xen\"}"), "\"kind\" is none of"},
        {THAW("\"vmm\":{\"kind\":\"qemu\",\"version\":7}"), "\"version\" is not a string"},
        {THAW("\"vmm\":{\"kind\":\"qemu\",\"args\":\"x\"}"), "\"args\" is not an array"},
        {THAW("\"vmm\":{\"kind\":\"qemu\",\"args\":[\"x\",7]}"), "entry 1 is not a string"},
        {THAW("\"memory_bytes\":-1"), "\"memory_bytes\" is not an integer"},
        {THAW("\"memory_bytes\":17592186044417"), "above 16 TiB"},
        {THAW("\"page_bytes\":4095"), "\"page_bytes\" is not a power"},
        {"{\"version\":2,\"prefetch\":7}", "\"prefetch\" is not a JSON object"},
        {"{\"version\":2,\"prefetch\":{\"memory\":[]}}", "\"memory\" is not a JSON object"},
        {PREFETCH("\"indices\":7,\"block_size\":4096"), "\"indices\" is not an array"},
        {PREFETCH("\"indices\":[1]"), "\"block_size\" is missing"},
        {PREFETCH("\"indices\":[1],\"block_size\":0"), "\"block_size\" is not a power"},
        {PREFETCH("\"indices\":[1,-1],\"block_size\":4096"), "entry 1 is not the number"},
        {PREFETCH("\"indices\":[1,\"2\"],\"block_size\":4096"), "entry 1 is not the number"},
        {PREFETCH("\"indices\":[4294967296],\"block_size\":4096"), "entry 0 is not the number"},
        {PREFETCH("\"indices\":[1],\"block_size\":4096,\"access_types\":[]"), "as long as"},
        {PREFETCH("\"indices\":[1],\"block_size\":4096,\"access_types\":[\"x\"]"), "none of r, w"},
        {PREFETCH("\"indices\":[1],\"block_size\":4096,\"access_types\":[\"rw\"]"), "none of r, w"},
        {"{\"version\":2,\"thaw\":{\"memory_bytes\":8192},"
         "\"prefetch\":{\"memory\":{\"indices\":[2],\"block_size\":4096}}}",
         "entry 0 is not the number"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct thaw_error e = THAW_ERROR_INIT;
        struct metadata *m = NULL;

        if (metadata_decode(bad[i].text, strlen(bad[i].text), &m, &e) != -EBADMSG ||
            e.code != -EBADMSG || m || !strstr(e.text, bad[i].says) ||
            strncmp(e.text, "metadata.json", 13) != 0)
            fail_msg("%s\n gave %d: %s", bad[i].text, e.code, e.text);
    }
}

static void encoder_refuses_what_the_decoder_would(void **state)
{
    struct metadata *m CLEANUP_METADATA = decode(golden);
    struct thaw_error e = THAW_ERROR_INIT;
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    m->version = 1;
    assert_int_equal(metadata_encode(m, &b, &e), -EINVAL);
    m->version = 2;
    m->page_bytes = 5000;
    assert_int_equal(metadata_encode(m, &b, &e), -EINVAL);
    m->page_bytes = 4096;
    m->prefetch.indices[1] = 65536;
    assert_int_equal(metadata_encode(m, &b, &e), -EINVAL);
    assert_non_null(strstr(e.text, "prefetch index 1, 65536"));
    m->prefetch.indices[1] = 65535;
    assert_int_equal(metadata_encode(m, &b, &e), 0);
}

static void vmm_kinds_have_names(void **state)
{
    enum vmm_kind kind = VMM_NONE;

    (void)state;
    for (int i = VMM_NONE; i <= VMM_FIRECRACKER; i++) {
        assert_int_equal(vmm_kind_parse(vmm_kind_name((enum vmm_kind)i), &kind), 0);
        assert_int_equal(kind, i);
    }
    assert_int_equal(vmm_kind_parse("QEMU", &kind), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_is_read_and_written),
        cmocka_unit_test(made_from_scratch),
        cmocka_unit_test(foreign_keys_survive),
        cmocka_unit_test(old_versions_are_stripped),
        cmocka_unit_test(what_go_writes_as_null_is_missing),
        cmocka_unit_test(bad_metadata_is_refused),
        cmocka_unit_test(encoder_refuses_what_the_decoder_would),
        cmocka_unit_test(vmm_kinds_have_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

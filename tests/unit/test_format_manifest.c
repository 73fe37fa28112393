/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/manifest.h"
#include "unit.h"

#define ID_A  "a1a1a1a1-a1a1-a1a1-a1a1-a1a1a1a1a1a1"
#define ID_B  "b2b2b2b2-b2b2-b2b2-b2b2-b2b2b2b2b2b2"
#define SUM_0 "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
#define SUM_F "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"

/* The text as manifest_encode() must write it, to the byte. */
static const char golden[] = "{\n"
                             "  \"format\": 1,\n"
                             "  \"build\": \"" ID_B "\",\n"
                             "  \"parent\": \"" ID_A "\",\n"
                             "  \"created\": \"2026-08-07T12:34:56Z\",\n"
                             "  \"objects\": [\n"
                             "    {\n"
                             "      \"name\": \"memfile.zstd\",\n"
                             "      \"size\": 5700,\n"
                             "      \"uncompressed_size\": 8192,\n"
                             "      \"codec\": \"zstd\",\n"
                             "      \"sha256\": \"" SUM_0 "\",\n"
                             "      \"sums\": \"memfile.zstd.sums\"\n"
                             "    },\n"
                             "    {\n"
                             "      \"name\": \"memfile.zstd.sums\",\n"
                             "      \"size\": 4096,\n"
                             "      \"uncompressed_size\": 4096,\n"
                             "      \"codec\": \"none\",\n"
                             "      \"sha256\": \"" SUM_F "\"\n"
                             "    }\n"
                             "  ]\n"
                             "}\n";

static struct manifest *decode(const char *text)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct manifest *m = NULL;

    if (manifest_decode(text, strlen(text), &m, &e) < 0)
        fail_msg("%s", e.text);
    return m;
}

static void golden_is_read(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = decode(golden);
    char text[UUID_TEXT_BYTES];

    (void)state;
    assert_string_equal(uuid_format(&m->build, text), ID_B);
    assert_true(m->has_parent);
    assert_string_equal(uuid_format(&m->parent, text), ID_A);
    assert_int_equal(m->created_s, 1786106096); /* date -u -d 2026-08-07T12:34:56Z +%s */
    assert_int_equal(m->object_count, 2);
    assert_string_equal(m->objects[0].name, "memfile.zstd");
    assert_int_equal(m->objects[0].size_bytes, 5700);
    assert_int_equal(m->objects[0].uncompressed_bytes, 8192);
    assert_int_equal(m->objects[0].codec, CODEC_ZSTD);
    for (unsigned i = 0; i < MANIFEST_SHA256_BYTES; i++)
        assert_int_equal(m->objects[0].sha256[i], i);
    assert_string_equal(m->objects[0].sums, "memfile.zstd.sums");
    assert_string_equal(m->objects[1].sums, "");
    assert_int_equal(m->objects[1].sha256[31], 0xff);
    assert_ptr_equal(manifest_find(m, "memfile.zstd.sums"), &m->objects[1]);
    assert_null(manifest_find(m, "snapfile"));
}

static void golden_is_written(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = decode(golden);
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(manifest_encode(m, &b, NULL), 0);
    assert_int_equal(b.len, strlen(golden));
    assert_memory_equal(b.data, golden, b.len);
}

static void unknown_keys_are_ignored(void **state)
{
    struct manifest *m CLEANUP_MANIFEST =
        decode("{\"x\":{\"format\":9},\"format\":1,\"build\":\"" ID_B
               "\",\"created\":\"1970-01-01T00:00:00Z\",\"objects\":[{\"codec\":\"none\",\"y\":[],"
               "\"size\":1,\"uncompressed_size\":1,\"name\":\"a\",\"sha256\":\"" SUM_F "\"}]}");

    (void)state;
    assert_false(m->has_parent);
    assert_int_equal(m->created_s, 0);
    assert_int_equal(m->object_count, 1);
}

#define HEAD "{\"format\":1,\"build\":\"" ID_B "\",\"created\":\"2026-08-07T12:34:56Z\","
#define OBJECT(n)                                                                                  \
    "{\"name\":" n ",\"size\":1,\"uncompressed_size\":1,\"codec\":\"none\",\"sha256\":\"" SUM_F    \
    "\"}"
#define OBJECTS(o) HEAD "\"objects\":[" o "]}"

static void bad_manifests_are_refused(void **state)
{
    static const struct {
        const char *text, *says;
    } bad[] = {
        {"", "line 1"},
        {"[]", "not a JSON object"},
        {"{}", "\"format\" is missing"},
        {"{\"format\":2}", "\"format\" is 2"},
        {"{\"format\":\"1\"}", "\"format\" is not an integer"},
        {"{\"format\":1,\"format\":1}", "duplicate"},
        {"{\"format\":1,\"build\":7}", "\"build\" is not a string"},
        {"{\"format\":1,\"build\":\"x\"}", "\"build\" is not a UUID"},
        {"{\"format\":1,\"build\":\"00000000-0000-0000-0000-000000000000\"}", "\"build\" is not"},
        {"{\"format\":1,\"build\":\"" ID_B "\",\"parent\":null}", "\"parent\" is not a string"},
        {"{\"format\":1,\"build\":\"" ID_B "\"}", "\"created\" is missing"},
        {"{\"format\":1,\"build\":\"" ID_B "\",\"created\":\"2026-02-30T12:34:56Z\"}", "time like"},
        {"{\"format\":1,\"build\":\"" ID_B "\",\"created\":\"2026-02-03T12:34:56z\"}", "time like"},
        {"{\"format\":1,\"build\":\"" ID_B "\",\"created\":\"2026-2-03T12:34:56ZZ\"}", "time like"},
        {"{\"format\":1,\"build\":\"" ID_B "\",\"created\":\"2026-02-03T25:34:56Z\"}", "time like"},
        {HEAD "\"objects\":{}}", "\"objects\" is missing or not an array"},
        {OBJECTS("7"), "object 0: it is not a JSON object"},
        {OBJECTS(OBJECT("\"a\"") ",{}"), "object 1: \"name\" is missing"},
        {OBJECTS(OBJECT("\"\"")), "not an object name"},
        {OBJECTS(OBJECT("\"a/b\"")), "not an object name"},
        {OBJECTS(OBJECT("\"..\"")), "not an object name"},
        {OBJECTS(OBJECT("\".hidden\"")), "not an object name"},
        {OBJECTS(OBJECT("\"a b\"")), "not an object name"},
        {OBJECTS(OBJECT("\"aaaaaaaabbbbbbbbccccccccddddddddeeeeeeeeffffffffgggggggghhhhhhhh\"")),
         "not an object name"},
        {OBJECTS(OBJECT("\"a\"") "," OBJECT("\"a\"")), "object 1: \"a\" is there twice"},
        {OBJECTS("{\"name\":\"a\",\"size\":-1}"), "\"size\" is not an integer"},
        {OBJECTS("{\"name\":\"a\",\"size\":1.0}"), "\"size\" is not an integer"},
        {OBJECTS("{\"name\":\"a\",\"size\":9223372036854775808}"), "too big integer"},
        {OBJECTS("{\"name\":\"a\",\"size\":1,\"uncompressed_size\":1,\"codec\":\"zip\"}"),
         "\"codec\" is none of"},
        {OBJECTS("{\"name\":\"a\",\"size\":1,\"uncompressed_size\":1,\"codec\":\"none\","
                 "\"sha256\":\"00\"}"),
         "\"sha256\" is not 64"},
        {OBJECTS("{\"name\":\"a\",\"size\":1,\"uncompressed_size\":2,\"codec\":\"none\","
                 "\"sha256\":\"" SUM_F "\"}"),
         "though there is no codec"},
        {OBJECTS("{\"name\":\"a\",\"size\":1,\"uncompressed_size\":1,\"codec\":\"none\","
                 "\"sha256\":\"" SUM_F "\",\"sums\":\"b\"}"),
         "\"sums\" names \"b\", which is not among"},
        {OBJECTS("{\"name\":\"a\",\"size\":1,\"uncompressed_size\":1,\"codec\":\"none\","
                 "\"sha256\":\"" SUM_F "\",\"sums\":\"../b\"}"),
         "\"sums\" is not an object name"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct thaw_error e = THAW_ERROR_INIT;
        struct manifest *m = NULL;

        if (manifest_decode(bad[i].text, strlen(bad[i].text), &m, &e) != -EBADMSG ||
            e.code != -EBADMSG || m || !strstr(e.text, bad[i].says) ||
            strncmp(e.text, "manifest.json", 13) != 0)
            fail_msg("%s\n gave %d: %s", bad[i].text, e.code, e.text);
    }
}

static void truncated_at_every_length(void **state)
{
    struct manifest *m = NULL;

    (void)state;
    for (size_t len = 0; len + 2 < strlen(golden); len++) /* the last two: "}" and the newline */
        assert_int_equal(manifest_decode(golden, len, &m, NULL), -EBADMSG);
    assert_null(m);
}

static void objects_are_bounded(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = decode(OBJECTS(""));
    struct manifest_object o = {.name = "a", .sums = "../x"};
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(manifest_add(m, &o), -EINVAL);
    o.sums[0] = '\0';
    for (int i = 0; i < MANIFEST_MAX_OBJECTS; i++) {
        snprintf(o.name, sizeof(o.name), "object-%d", i);
        assert_int_equal(manifest_add(m, &o), 0);
        assert_int_equal(manifest_add(m, &o), -EEXIST);
    }
    snprintf(o.name, sizeof(o.name), "one-too-many");
    assert_int_equal(manifest_add(m, &o), -E2BIG);
    assert_int_equal(manifest_encode(m, &b, NULL), 0);
}

static void encoder_refuses_what_the_decoder_would(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = decode(golden);
    struct thaw_error e = THAW_ERROR_INIT;
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    m->objects[1].size_bytes = 1;
    assert_int_equal(manifest_encode(m, &b, &e), -EINVAL);
    assert_non_null(strstr(e.text, "memfile.zstd.sums"));
    m->objects[1].size_bytes = 4096;
    m->created_s = INT64_MAX;
    assert_int_equal(manifest_encode(m, &b, &e), -EINVAL);
    m->created_s = 0;
    m->parent = (struct uuid){0};
    assert_int_equal(manifest_encode(m, &b, &e), -EINVAL);
    m->has_parent = false;
    m->objects[0].size_bytes = UINT64_C(1) << 63;
    assert_int_equal(manifest_encode(m, &b, &e), -EINVAL);
    assert_int_equal(b.len, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_is_read),
        cmocka_unit_test(golden_is_written),
        cmocka_unit_test(unknown_keys_are_ignored),
        cmocka_unit_test(bad_manifests_are_refused),
        cmocka_unit_test(truncated_at_every_length),
        cmocka_unit_test(objects_are_bounded),
        cmocka_unit_test(encoder_refuses_what_the_decoder_would),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

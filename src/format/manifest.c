/* SPDX-License-Identifier: Apache-2.0 */
#include "format/manifest.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/hex.h"
#include "format/json.h"

#define WHAT            "manifest.json"
#define TIME_TEXT_BYTES 32
#define SHA256_TEXT     (2 * (size_t)MANIFEST_SHA256_BYTES)

bool object_name_valid(const char *name)
{
    static const char alphabet[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
                                   "._-";
    size_t len = strspn(name, alphabet);

    return len > 0 && len < OBJECT_NAME_BYTES && name[len] == '\0' && name[0] != '.';
}

/* Times: RFC 3339 in UTC, whole seconds, as in "2026-08-07T12:34:56Z". */

static const char *format_time(int64_t seconds, char ret[TIME_TEXT_BYTES])
{
    time_t t = (time_t)seconds;
    struct tm tm;

    if (!gmtime_r(&t, &tm) || tm.tm_year < -1900 || tm.tm_year > 9999 - 1900 ||
        strftime(ret, TIME_TEXT_BYTES, "%Y-%m-%dT%H:%M:%SZ", &tm) != 20)
        return NULL;
    return ret;
}

static int parse_time(const char *text, int64_t *ret)
{
    static const char shape[] = "dddd-dd-ddTdd:dd:ddZ";
    char again[TIME_TEXT_BYTES];
    struct tm tm = {0};
    int64_t seconds;

    if (strlen(text) != strlen(shape))
        return -EINVAL;
    for (size_t i = 0; shape[i] != '\0'; i++) {
        bool digit = text[i] >= '0' && text[i] <= '9';

        if (shape[i] == 'd' ? !digit : text[i] != shape[i])
            return -EINVAL;
    }
    if (sscanf(text, "%4d-%2d-%2dT%2d:%2d:%2dZ", &tm.tm_year, &tm.tm_mon, &tm.tm_mday, &tm.tm_hour,
               &tm.tm_min, &tm.tm_sec) != 6)
        return -EINVAL;
    tm.tm_year -= 1900;
    tm.tm_mon -= 1;
    seconds = timegm(&tm);
    /* timegm() accepts the 31st of February; only a time that exists comes back as it was. */
    if (!format_time(seconds, again) || strcmp(again, text) != 0)
        return -EINVAL;
    *ret = seconds;
    return 0;
}

static int parse_sha256(const char *text, uint8_t ret[MANIFEST_SHA256_BYTES])
{
    uint8_t sum[MANIFEST_SHA256_BYTES];

    if (strlen(text) != SHA256_TEXT)
        return -EINVAL;
    for (size_t i = 0; i < sizeof(sum); i++) {
        int hi = hex_value(text[2 * i]), lo = hex_value(text[2 * i + 1]);

        if (hi < 0 || lo < 0)
            return -EINVAL;
        sum[i] = (uint8_t)(hi << 4 | lo);
    }
    memcpy(ret, sum, sizeof(sum));
    return 0;
}

static const char *format_sha256(const uint8_t sum[MANIFEST_SHA256_BYTES],
                                 char ret[SHA256_TEXT + 1])
{
    for (size_t i = 0; i < MANIFEST_SHA256_BYTES; i++)
        snprintf(ret + 2 * i, 3, "%02x", sum[i]);
    return ret;
}

/* The rules that hold for a manifest in either direction. */

static int check_object(const struct manifest *m, const struct manifest_object *o, int code,
                        struct thaw_error *e)
{
    if (o->codec == CODEC_NONE && o->size_bytes != o->uncompressed_bytes)
        return err_set(e, code,
                       "\"size\" is %" PRIu64 " and \"uncompressed_size\" %" PRIu64
                       ", though there is no codec",
                       o->size_bytes, o->uncompressed_bytes);
    if (o->size_bytes > INT64_MAX || o->uncompressed_bytes > INT64_MAX)
        return err_set(e, code, "a size is above 2^63-1");
    if (o->sums[0] != '\0' && !manifest_find(m, o->sums))
        return err_set(e, code, "\"sums\" names \"%s\", which is not among the objects", o->sums);
    return 0;
}

static int check(const struct manifest *m, int code, struct thaw_error *e)
{
    for (size_t i = 0; i < m->object_count; i++) {
        int r = check_object(m, &m->objects[i], code, e);

        if (r < 0) {
            err_wrap(e, WHAT ": object \"%s\"", m->objects[i].name);
            return r;
        }
    }
    return 0;
}

/* Decoding. */

static int get_name(const json_t *object, const char *key, char ret[OBJECT_NAME_BYTES],
                    struct thaw_error *e)
{
    const char *text = NULL;
    int r = json_get_text(object, key, &text, e);

    if (r < 0)
        return r;
    if (!object_name_valid(text))
        return err_set(e, -EBADMSG,
                       "\"%s\" is not an object name: 1 to 63 of a-z A-Z 0-9 . _ -, not starting "
                       "with a dot",
                       key);
    memcpy(ret, text, strlen(text) + 1);
    return 0;
}

static int get_codec(const json_t *object, enum codec *ret, struct thaw_error *e)
{
    const char *text = NULL;
    int r = json_get_text(object, "codec", &text, e);

    if (r < 0)
        return r;
    if (codec_parse(text, ret) < 0)
        return err_set(e, -EBADMSG, "\"codec\" is none of \"none\", \"zstd\" and \"lz4\"");
    return 0;
}

static int get_sha256(const json_t *object, uint8_t ret[MANIFEST_SHA256_BYTES],
                      struct thaw_error *e)
{
    const char *text = NULL;
    int r = json_get_text(object, "sha256", &text, e);

    if (r < 0)
        return r;
    if (parse_sha256(text, ret) < 0)
        return err_set(e, -EBADMSG, "\"sha256\" is not 64 hexadecimal digits");
    return 0;
}

static int decode_object(const json_t *value, struct manifest_object *o, struct thaw_error *e)
{
    int r;

    if (!json_is_object(value))
        return err_set(e, -EBADMSG, "it is not a JSON object");
    r = get_name(value, "name", o->name, e);
    if (r == 0)
        r = json_get_u64(value, "size", &o->size_bytes, e);
    if (r == 0)
        r = json_get_u64(value, "uncompressed_size", &o->uncompressed_bytes, e);
    if (r == 0)
        r = get_codec(value, &o->codec, e);
    if (r == 0)
        r = get_sha256(value, o->sha256, e);
    if (r == 0 && json_object_get(value, "sums"))
        r = get_name(value, "sums", o->sums, e);
    return r;
}

static int decode_objects(const json_t *root, struct manifest *m, struct thaw_error *e)
{
    const json_t *array = json_object_get(root, "objects");

    if (!json_is_array(array))
        return err_set(e, -EBADMSG, "\"objects\" is missing or not an array");
    if (json_array_size(array) > MANIFEST_MAX_OBJECTS)
        return err_set(e, -EBADMSG, "\"objects\" has %zu entries, at most %d are allowed",
                       json_array_size(array), MANIFEST_MAX_OBJECTS);
    for (size_t i = 0; i < json_array_size(array); i++) {
        struct manifest_object o = {0};
        int r = decode_object(json_array_get(array, i), &o, e);

        if (r < 0) {
            err_wrap(e, "object %zu", i);
            return r;
        }
        r = manifest_add(m, &o);
        if (r == -EEXIST)
            return err_set(e, -EBADMSG, "object %zu: \"%s\" is there twice", i, o.name);
        if (r < 0)
            return err_set(e, r, "object %zu: no memory", i);
    }
    return 0;
}

static int decode_root(const json_t *root, struct manifest *m, struct thaw_error *e)
{
    const char *created = NULL;
    uint64_t format = 0;
    int r;

    if (!json_is_object(root))
        return err_set(e, -EBADMSG, "it is not a JSON object");
    r = json_get_u64(root, "format", &format, e);
    if (r < 0)
        return r;
    if (format != MANIFEST_FORMAT)
        return err_set(e, -EBADMSG,
                       "\"format\" is %" PRIu64 ", this thaw knows %d: use a newer thaw", format,
                       MANIFEST_FORMAT);
    r = json_get_uuid(root, "build", &m->build, e);
    m->has_parent = json_object_get(root, "parent") != NULL;
    if (r == 0 && m->has_parent)
        r = json_get_uuid(root, "parent", &m->parent, e);
    if (r == 0)
        r = json_get_text(root, "created", &created, e);
    if (r < 0)
        return r;
    if (parse_time(created, &m->created_s) < 0)
        return err_set(e, -EBADMSG, "\"created\" is not a time like 2026-08-07T12:34:56Z");
    return decode_objects(root, m, e);
}

int manifest_decode(const void *bytes, size_t len, struct manifest **ret, struct thaw_error *e)
{
    struct manifest *m CLEANUP_MANIFEST = NULL;
    json_t *root CLEANUP_JSON = NULL;
    int r;

    if (len > MANIFEST_MAX_BYTES)
        return err_set(e, -EBADMSG, WHAT ": it has %zu bytes, at most %" PRIu64 " are allowed", len,
                       MANIFEST_MAX_BYTES);
    r = json_parse(bytes, len, WHAT, &root, e);
    if (r < 0)
        return r;
    m = calloc(1, sizeof(*m));
    if (!m)
        return err_set(e, -ENOMEM, WHAT ": no memory");
    r = decode_root(root, m, e);
    if (r < 0) {
        err_wrap(e, WHAT);
        return r;
    }
    r = check(m, -EBADMSG, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(m);
    return 0;
}

/* Encoding. */

static json_t *encode_object(const struct manifest_object *o)
{
    char sha256[SHA256_TEXT + 1];
    json_t *value CLEANUP_JSON = json_object();

    if (!value || json_put(value, "name", json_string(o->name)) < 0 ||
        json_put(value, "size", json_integer((json_int_t)o->size_bytes)) < 0 ||
        json_put(value, "uncompressed_size", json_integer((json_int_t)o->uncompressed_bytes)) < 0 ||
        json_put(value, "codec", json_string(codec_name(o->codec))) < 0 ||
        json_put(value, "sha256", json_string(format_sha256(o->sha256, sha256))) < 0)
        return NULL;
    if (o->sums[0] != '\0' && json_put(value, "sums", json_string(o->sums)) < 0)
        return NULL;
    return TAKE_PTR(value);
}

static json_t *encode_root(const struct manifest *m, const char *created)
{
    char text[UUID_TEXT_BYTES];
    json_t *root CLEANUP_JSON = json_object();
    json_t *objects;

    if (!root || json_put(root, "format", json_integer(MANIFEST_FORMAT)) < 0 ||
        json_put(root, "build", json_string(uuid_format(&m->build, text))) < 0)
        return NULL;
    if (m->has_parent && json_put(root, "parent", json_string(uuid_format(&m->parent, text))) < 0)
        return NULL;
    if (json_put(root, "created", json_string(created)) < 0)
        return NULL;
    objects = json_array();
    if (json_put(root, "objects", objects) < 0) /* takes objects over */
        return NULL;
    for (size_t i = 0; i < m->object_count; i++) {
        if (json_array_append_new(objects, encode_object(&m->objects[i])) < 0)
            return NULL;
    }
    return TAKE_PTR(root);
}

int manifest_encode(const struct manifest *m, struct buf *ret, struct thaw_error *e)
{
    char created[TIME_TEXT_BYTES];
    json_t *root CLEANUP_JSON = NULL;
    int r = check(m, -EINVAL, e);

    if (r < 0)
        return r;
    if (uuid_is_nil(&m->build) || (m->has_parent && uuid_is_nil(&m->parent)))
        return err_set(e, -EINVAL, WHAT ": the id of the build or of its parent is nil");
    if (!format_time(m->created_s, created))
        return err_set(e, -EINVAL, WHAT ": the time of creation is not in the years 0 to 9999");
    root = encode_root(m, created);
    if (!root || json_print(root, ret) < 0)
        return err_set(e, -ENOMEM, WHAT ": no memory");
    return 0;
}

const struct manifest_object *manifest_find(const struct manifest *m, const char *name)
{
    for (size_t i = 0; i < m->object_count; i++) {
        if (strcmp(m->objects[i].name, name) == 0)
            return &m->objects[i];
    }
    return NULL;
}

int manifest_add(struct manifest *m, const struct manifest_object *object)
{
    struct manifest_object *grown;

    if (!object_name_valid(object->name) ||
        (object->sums[0] != '\0' && !object_name_valid(object->sums)))
        return -EINVAL;
    if (manifest_find(m, object->name))
        return -EEXIST;
    if (m->object_count == MANIFEST_MAX_OBJECTS)
        return -E2BIG;
    grown = reallocarray(m->objects, m->object_count + 1, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    m->objects = grown;
    m->objects[m->object_count++] = *object;
    return 0;
}

void manifest_destroy(struct manifest *m)
{
    if (!m)
        return;
    free(m->objects);
    free(m);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "format/json.h"

#include <errno.h>

int json_parse(const void *bytes, size_t len, const char *what, json_t **ret, struct thaw_error *e)
{
    json_error_t why;
    json_t *value = json_loadb(bytes, len, JSON_REJECT_DUPLICATES, &why);

    /* A parser that finds no memory to begin with leaves the text empty. */
    if (!value && (json_error_code(&why) == json_error_out_of_memory || why.text[0] == '\0'))
        return err_set(e, -ENOMEM, "%s: no memory", what);
    if (!value)
        return err_set(e, -EBADMSG, "%s: line %d, byte %d: %s", what, why.line, why.position,
                       why.text);
    *ret = value;
    return 0;
}

int json_get_u64(const json_t *object, const char *key, uint64_t *ret, struct thaw_error *e)
{
    const json_t *value = json_object_get(object, key);

    if (!value)
        return err_set(e, -EBADMSG, "\"%s\" is missing", key);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return err_set(e, -EBADMSG, "\"%s\" is not an integer from 0 to 2^63-1", key);
    *ret = (uint64_t)json_integer_value(value);
    return 0;
}

int json_get_text(const json_t *object, const char *key, const char **ret, struct thaw_error *e)
{
    const json_t *value = json_object_get(object, key);

    if (!value)
        return err_set(e, -EBADMSG, "\"%s\" is missing", key);
    if (!json_is_string(value))
        return err_set(e, -EBADMSG, "\"%s\" is not a string", key);
    *ret = json_string_value(value);
    return 0;
}

int json_get_uuid(const json_t *object, const char *key, struct uuid *ret, struct thaw_error *e)
{
    const char *text = NULL;
    struct uuid id = {0};
    int r = json_get_text(object, key, &text, e);

    if (r < 0)
        return r;
    if (uuid_parse(text, &id) < 0 || uuid_is_nil(&id))
        return err_set(e, -EBADMSG, "\"%s\" is not a UUID", key);
    *ret = id;
    return 0;
}

int json_put(json_t *object, const char *key, json_t *value)
{
    /* jansson lets go of the value even when it fails, and takes NULL for a failure before. */
    return json_object_set_new(object, key, value) < 0 ? -ENOMEM : 0;
}

static int append(const char *text, size_t len, void *data)
{
    struct buf *b = data;

    buf_put(b, text, len);
    return b->failed ? -1 : 0;
}

int json_print(const json_t *value, struct buf *ret)
{
    size_t before = ret->len;

    if (json_dump_callback(value, append, ret, JSON_INDENT(2)) == 0)
        buf_put_u8(ret, '\n');
    else
        ret->failed = true;
    if (!ret->failed)
        return 0;
    ret->len = before;
    return -ENOMEM;
}

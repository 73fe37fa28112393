/* SPDX-License-Identifier: Apache-2.0 */
#include "format/flagd.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "format/json.h"

#define WHAT "flags"

/* Integers that a double holds exactly; the reference implementation knows only doubles. */
#define REAL_EXACT 9007199254740992.0 /* 2^53 */

[[gnu::format(printf, 2, 3)]] static void refuse(struct flagd_flag *f, const char *fmt, ...)
{
    va_list ap;

    f->type = FLAGD_INVALID;
    va_start(ap, fmt);
    vsnprintf(f->problem, sizeof(f->problem), fmt, ap);
    va_end(ap);
}

/* "1.0" is the integer 1: JSON has one kind of number, and editors write it either way. */
static void take_real(struct flagd_flag *f, double value)
{
    f->type = FLAGD_OTHER;
    if (value >= -REAL_EXACT && value <= REAL_EXACT && value == (double)(int64_t)value) {
        f->type = FLAGD_INT;
        f->integer = (int64_t)value;
    }
}

static void take_value(struct flagd_flag *f, const json_t *value)
{
    switch (json_typeof(value)) {
    case JSON_TRUE:
    case JSON_FALSE:
        f->type = FLAGD_BOOL;
        f->boolean = json_is_true(value);
        break;
    case JSON_INTEGER:
        f->type = FLAGD_INT;
        f->integer = json_integer_value(value);
        break;
    case JSON_REAL:
        take_real(f, json_real_value(value));
        break;
    case JSON_STRING:
        f->type = FLAGD_STRING;
        f->string = json_string_value(value);
        break;
    case JSON_NULL:
        refuse(f, "its default variant is null");
        break;
    default:
        f->type = FLAGD_OTHER;
    }
}

static void take_variant(struct flagd_flag *f, const json_t *object)
{
    const json_t *chosen = json_object_get(object, "defaultVariant");
    const json_t *variants = json_object_get(object, "variants");
    const json_t *value;

    if (!json_is_object(variants) || json_object_size(variants) == 0) {
        refuse(f, "\"variants\" is missing or not an object with variants");
        return;
    }
    if (!chosen || json_is_null(chosen))
        return;
    if (!json_is_string(chosen)) {
        refuse(f, "\"defaultVariant\" is not a string");
        return;
    }
    value = json_object_get(variants, json_string_value(chosen));
    if (!value)
        refuse(f, "\"defaultVariant\" is \"%.64s\", which is none of its variants",
               json_string_value(chosen));
    else
        take_value(f, value);
}

static void decode_flag(const json_t *object, struct flagd_flag *f)
{
    const char *state = json_string_value(json_object_get(object, "state"));

    if (!json_is_object(object))
        refuse(f, "it is not a JSON object");
    else if (!state)
        refuse(f, "\"state\" is missing or not a string");
    else if (strcmp(state, "ENABLED") == 0)
        take_variant(f, object);
    else if (strcmp(state, "DISABLED") != 0)
        refuse(f, "\"state\" is \"%.64s\", neither ENABLED nor DISABLED", state);
    if (f->type != FLAGD_UNSET && f->type != FLAGD_INVALID)
        f->targeting = json_object_size(json_object_get(object, "targeting")) > 0;
}

static int decode_flags(json_t *root, struct flagd_file *file, struct thaw_error *e)
{
    json_t *flags = json_object_get(root, "flags"), *value;
    const char *name;

    if (!json_is_object(flags))
        return err_set(e, -EBADMSG, WHAT ": there is no object \"flags\"");
    if (json_object_size(flags) > FLAGD_MAX_FLAGS)
        return err_set(e, -EBADMSG, WHAT ": there are %zu flags, at most %d are allowed",
                       json_object_size(flags), FLAGD_MAX_FLAGS);
    file->flags = calloc(json_object_size(flags) + 1, sizeof(*file->flags));
    if (!file->flags)
        return err_set(e, -ENOMEM, WHAT ": no memory");
    json_object_foreach(flags, name, value)
    {
        struct flagd_flag *f = &file->flags[file->count++];

        f->name = name;
        decode_flag(value, f);
    }
    return 0;
}

int flagd_decode(const void *bytes, size_t len, struct flagd_file **ret, struct thaw_error *e)
{
    struct flagd_file *file CLEANUP_FLAGD = NULL;
    json_t *root CLEANUP_JSON = NULL;
    int r;

    if (len > FLAGD_MAX_BYTES)
        return err_set(e, -EBADMSG, WHAT ": %zu bytes, at most %" PRIu64 " are allowed", len,
                       FLAGD_MAX_BYTES);
    r = json_parse(bytes, len, WHAT, &root, e);
    if (r < 0)
        return r;
    file = calloc(1, sizeof(*file));
    if (!file)
        return err_set(e, -ENOMEM, WHAT ": no memory");
    r = decode_flags(root, file, e);
    if (r < 0)
        return r;
    file->json = TAKE_PTR(root);
    *ret = TAKE_PTR(file);
    return 0;
}

const struct flagd_flag *flagd_find(const struct flagd_file *file, const char *name)
{
    for (size_t i = 0; i < file->count; i++) {
        if (strcmp(file->flags[i].name, name) == 0)
            return &file->flags[i];
    }
    return NULL;
}

const char *flagd_type_name(enum flagd_type type)
{
    switch (type) {
    case FLAGD_BOOL:
        return "true or false";
    case FLAGD_INT:
        return "an integer";
    case FLAGD_STRING:
        return "a string";
    default:
        return "neither true, false, an integer nor a string";
    }
}

void flagd_destroy(struct flagd_file *file)
{
    if (!file)
        return;
    json_decref(file->json);
    free(file->flags);
    free(file);
}

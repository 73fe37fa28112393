/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_JSON_H
#define THAW_FORMAT_JSON_H

/*
 * What the JSON codecs of this folder share. Members that are missing and members of the wrong type
 * fail with the name of the key in the text. One thread per value.
 */

#include <stddef.h>
#include <stdint.h>

#include <jansson.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/uuid.h"

static inline void cleanup_json(json_t **p)
{
    json_decref(*p);
}
#define CLEANUP_JSON CLEANUP(cleanup_json)

/**
 * json_parse() - read a whole text, refusing keys that are there twice
 * @what: begins the text of an error: "manifest.json"
 *
 * Returns: 0, -ENOMEM, or -EBADMSG with line and byte offset. jansson holds integers in 64 bits
 * with sign; what does not fit is refused here.
 */
[[gnu::warn_unused_result]] int json_parse(const void *bytes, size_t len, const char *what,
                                           json_t **ret, struct thaw_error *e);

/** json_get_u64() - member @key, an integer of at least 0; 0 or -EBADMSG */
[[gnu::warn_unused_result]] int json_get_u64(const json_t *object, const char *key, uint64_t *ret,
                                             struct thaw_error *e);

/** json_get_text() - member @key, a string that lives as long as @object; 0 or -EBADMSG */
[[gnu::warn_unused_result]] int json_get_text(const json_t *object, const char *key,
                                              const char **ret, struct thaw_error *e);

/** json_get_uuid() - member @key, a UUID that is not nil; 0 or -EBADMSG */
[[gnu::warn_unused_result]] int json_get_uuid(const json_t *object, const char *key,
                                              struct uuid *ret, struct thaw_error *e);

/** json_put() - set member @key to @value, whose reference is taken over; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int json_put(json_t *object, const char *key, json_t *value);

/** json_print() - append @value, indented, with a newline; 0 or -ENOMEM, @ret unchanged then */
[[gnu::warn_unused_result]] int json_print(const json_t *value, struct buf *ret);

#endif

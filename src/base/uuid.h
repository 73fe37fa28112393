/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_UUID_H
#define THAW_BASE_UUID_H

/* Build identities: RFC 9562 UUIDs, sixteen bytes in network order. Any thread. */

#include <stdbool.h>
#include <stdint.h>

#define UUID_TEXT_BYTES 37 /* 36 characters and the NUL */

struct uuid {
    uint8_t b[16];
};

/** uuid_random() - a fresh version 4 UUID from the kernel's generator; 0 or -errno */
[[gnu::warn_unused_result]] int uuid_random(struct uuid *ret);

/**
 * uuid_parse() - read the 8-4-4-4-12 form, either case
 *
 * Returns: 0, or -EINVAL when @text is anything else; *@ret is then untouched.
 */
[[gnu::warn_unused_result]] int uuid_parse(const char *text, struct uuid *ret);

/** uuid_format() - write the lower-case text of @id into @ret, and return @ret */
const char *uuid_format(const struct uuid *id, char ret[UUID_TEXT_BYTES]);

/** uuid_is_nil() - whether @id is all zeros, which the build format uses for "zero bytes" */
bool uuid_is_nil(const struct uuid *id);

/** uuid_compare() - order by bytes, as memcmp does */
int uuid_compare(const struct uuid *a, const struct uuid *b);

#endif

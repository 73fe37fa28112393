/* SPDX-License-Identifier: Apache-2.0 */
#include "base/uuid.h"

#include <errno.h>
#include <string.h>
#include <sys/random.h>

#include "base/hex.h"

int uuid_random(struct uuid *ret)
{
    struct uuid id;

    /* Up to 256 bytes come whole, and uninterrupted once the pool is up: getrandom(2). */
    if (getrandom(id.b, sizeof(id.b), 0) != (ssize_t)sizeof(id.b))
        return -EIO;
    id.b[6] = (uint8_t)((id.b[6] & 0x0f) | 0x40); /* version 4: RFC 9562 section 5.4 */
    id.b[8] = (uint8_t)((id.b[8] & 0x3f) | 0x80);
    *ret = id;
    return 0;
}

static bool dash_before(unsigned byte)
{
    return byte == 4 || byte == 6 || byte == 8 || byte == 10;
}

int uuid_parse(const char *text, struct uuid *ret)
{
    struct uuid id;
    const char *p = text;

    for (unsigned i = 0; i < sizeof(id.b); i++) {
        int hi, lo;

        if (dash_before(i) && *p++ != '-')
            return -EINVAL;
        hi = hex_value(p[0]);
        lo = hi < 0 ? -1 : hex_value(p[1]);
        if (lo < 0)
            return -EINVAL;
        id.b[i] = (uint8_t)(hi << 4 | lo);
        p += 2;
    }
    if (*p != '\0')
        return -EINVAL;
    *ret = id;
    return 0;
}

const char *uuid_format(const struct uuid *id, char ret[UUID_TEXT_BYTES])
{
    static const char digits[] = "0123456789abcdef";
    char *p = ret;

    for (unsigned i = 0; i < sizeof(id->b); i++) {
        if (dash_before(i))
            *p++ = '-';
        *p++ = digits[id->b[i] >> 4];
        *p++ = digits[id->b[i] & 15];
    }
    *p = '\0';
    return ret;
}

bool uuid_is_nil(const struct uuid *id)
{
    static const struct uuid nil;

    return memcmp(id, &nil, sizeof(nil)) == 0;
}

int uuid_compare(const struct uuid *a, const struct uuid *b)
{
    return memcmp(a->b, b->b, sizeof(a->b));
}

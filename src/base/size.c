/* SPDX-License-Identifier: Apache-2.0 */
#include "base/size.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

int size_parse(const char *text, uint64_t *ret)
{
    static const char suffixes[] = "KMGTkmgt";
    uint64_t v = 0;
    const char *p = text;

    if (*p < '0' || *p > '9')
        return -EINVAL;
    for (; *p >= '0' && *p <= '9'; p++) {
        if (__builtin_mul_overflow(v, 10, &v) ||
            __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
            return -ERANGE;
    }
    if (*p != '\0') {
        const char *s = strchr(suffixes, *p);

        if (!s || p[1] != '\0')
            return -EINVAL;
        for (long power = (s - suffixes) % 4; power >= 0; power--) {
            if (__builtin_mul_overflow(v, 1024, &v))
                return -ERANGE;
        }
    }
    *ret = v;
    return 0;
}

const char *size_format(uint64_t bytes, char ret[SIZE_TEXT_BYTES])
{
    static const char *const units[] = {"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    double v = (double)bytes / 1024;
    unsigned u = 0;

    if (bytes < 1024) {
        snprintf(ret, SIZE_TEXT_BYTES, "%u B", (unsigned)bytes);
        return ret;
    }
    for (; v >= 1023.95 && u < 5; u++)
        v /= 1024;
    snprintf(ret, SIZE_TEXT_BYTES, "%.1f %s", v, units[u]);
    return ret;
}

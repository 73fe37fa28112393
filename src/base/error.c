/* SPDX-License-Identifier: Apache-2.0 */
#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct thaw_error *e, int code, const char *fmt, ...)
{
    if (e) {
        va_list ap;

        va_start(ap, fmt);
        e->code = code;
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
    }
    return code;
}

int err_errno(struct thaw_error *e, int code, const char *fmt, ...)
{
    if (e) {
        va_list ap;
        char reason[128];
        size_t len;

        va_start(ap, fmt);
        e->code = code;
        vsnprintf(e->text, sizeof(e->text), fmt, ap);
        va_end(ap);
        len = strlen(e->text);
        snprintf(e->text + len, sizeof(e->text) - len, ": %s",
                 strerror_r(-code, reason, sizeof(reason)));
    }
    return code;
}

int err_wrap(struct thaw_error *e, const char *fmt, ...)
{
    char inner[sizeof(e->text)];
    va_list ap;
    size_t len;

    if (!e || e->code >= 0)
        return -EIO;
    memcpy(inner, e->text, sizeof(inner));
    va_start(ap, fmt);
    vsnprintf(e->text, sizeof(e->text), fmt, ap);
    va_end(ap);
    len = strlen(e->text);
    snprintf(e->text + len, sizeof(e->text) - len, ": %s", inner);
    return e->code;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_LIB_OPTIONS_H
#define THAW_LIB_OPTIONS_H

/* Option structs of any age: what a caller's struct does not have yet counts as zero. */

#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/uuid.h"

static inline int options_copy(void *to, size_t to_bytes, const void *from, size_t from_bytes,
                               struct thaw_error *e)
{
    if (from_bytes < sizeof(size_t))
        return err_set(e, -EINVAL, "opts_size is not set");
    memset(to, 0, to_bytes);
    memcpy(to, from, from_bytes < to_bytes ? from_bytes : to_bytes);
    return 0;
}

/* Fills *@to, the struct as this library knows it, from *@from, as its caller knew it. */
#define OPTIONS_COPY(to, from, e) options_copy(to, sizeof(*(to)), from, (from)->opts_size, e)

static inline int build_id_parse(const char *text, struct uuid *ret, struct thaw_error *e)
{
    if (!text || uuid_parse(text, ret) < 0)
        return err_set(e, -EINVAL,
                       "'%s' is not a build id, such as "
                       "1b4e28ba-2fa1-41d2-883f-0016d3cca427",
                       text ? text : "");
    return 0;
}

#endif

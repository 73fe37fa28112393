/* SPDX-License-Identifier: Apache-2.0 */
#include "format/codec.h"

#include <errno.h>
#include <stddef.h>
#include <string.h>

static const char *const names[] = {
    [CODEC_NONE] = "none",
    [CODEC_ZSTD] = "zstd",
    [CODEC_LZ4] = "lz4",
};

const char *codec_name(enum codec codec)
{
    return names[codec];
}

int codec_parse(const char *name, enum codec *ret)
{
    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum codec)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_CODEC_H
#define THAW_FORMAT_CODEC_H

/* How the bytes of an object are stored. The numbers are those of the build format's frame tables.
 */

enum codec {
    CODEC_NONE = 0,
    CODEC_ZSTD = 1,
    CODEC_LZ4 = 2,
};

/** codec_name() - "none", "zstd" or "lz4" */
const char *codec_name(enum codec codec);

/** codec_parse() - the codec of that name into *@ret; 0, or -EINVAL for any other name */
[[gnu::warn_unused_result]] int codec_parse(const char *name, enum codec *ret);

#endif

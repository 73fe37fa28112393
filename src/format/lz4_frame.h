/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_LZ4_FRAME_H
#define THAW_FORMAT_LZ4_FRAME_H

/* One LZ4 frame of a known size, as V4 and V5 headers hold it. Any thread. */

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"

/* No LZ4 block grows more than this on decompression: lz4_Block_format.md, sequence lengths. */
#define LZ4_MAX_RATIO 255

/**
 * lz4_frame_decode() - decompress a frame that fills @len bytes and holds @expect_bytes
 * @ret: the content, to be freed
 *
 * A size that the compressed bytes cannot reach is refused before anything is allocated. The
 * checksums in the frame are verified. Returns: 0, -ENOMEM or -EBADMSG.
 */
[[gnu::warn_unused_result]] int lz4_frame_decode(const void *bytes, size_t len, size_t expect_bytes,
                                                 uint8_t **ret, struct thaw_error *e);

/**
 * lz4_frame_encode() - append a frame with 4 MiB blocks, block checksums and a content checksum
 *
 * Returns: 0, -ENOMEM, or -EIO when the library fails; @ret is unchanged on failure.
 */
[[gnu::warn_unused_result]] int lz4_frame_encode(const void *bytes, size_t len, struct buf *ret,
                                                 struct thaw_error *e);

#endif

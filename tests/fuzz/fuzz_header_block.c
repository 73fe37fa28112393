/* SPDX-License-Identifier: Apache-2.0 */
#include <stdlib.h>

#include <lz4frame.h>

#include "fuzz_header.h"

/*
 * The inside of V4 and V5 headers. Their checksums keep mutations of a whole file from getting that
 * far, so the input here is metadata and the uncompressed block; the frame is put around it.
 */

#define FRAME_AT (HEADER_META_BYTES + 1 + 4)

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct buf b CLEANUP_BUF = {0};
    size_t len, cap;

    if (size < HEADER_META_BYTES || size > MIB)
        return 0;
    len = size - HEADER_META_BYTES;
    cap = LZ4F_compressFrameBound(len, NULL);
    buf_put(&b, data, HEADER_META_BYTES);
    buf_put_u8(&b, 0);
    buf_put_u32(&b, (uint32_t)len);
    FUZZ_REQUIRE(buf_extend(&b, cap) != NULL);
    len = LZ4F_compressFrame(b.data + FRAME_AT, cap, data + HEADER_META_BYTES, len, NULL);
    FUZZ_REQUIRE(!LZ4F_isError(len));
    fuzz_header_one(b.data, FRAME_AT + len);
    return 0;
}

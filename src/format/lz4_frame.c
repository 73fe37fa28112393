/* SPDX-License-Identifier: Apache-2.0 */
#include "format/lz4_frame.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <lz4frame.h>

#include "base/cleanup.h"

static void free_decoder(LZ4F_dctx **d)
{
    LZ4F_freeDecompressionContext(*d);
}

static void free_encoder(LZ4F_cctx **c)
{
    LZ4F_freeCompressionContext(*c);
}

/* -ENOMEM, or @other for any other error. The library's public interface knows errors by name. */
static int error_code(size_t result, int other)
{
    return strcmp(LZ4F_getErrorName(result), "ERROR_allocation_failed") == 0 ? -ENOMEM : other;
}

/* Decompresses into @out; *@ret_filled is how much came. */
static int decode_into(LZ4F_dctx *d, const uint8_t *in, size_t in_len, uint8_t *out, size_t out_cap,
                       size_t *ret_filled, struct thaw_error *e)
{
    size_t at = 0, filled = 0, hint = 1;

    while (hint > 0) {
        size_t took = in_len - at, gave = out_cap - filled;

        hint = LZ4F_decompress(d, out + filled, &gave, in + at, &took, NULL);
        if (LZ4F_isError(hint))
            return err_set(e, error_code(hint, -EBADMSG), "LZ4 frame: %s, at byte %zu of it",
                           LZ4F_getErrorName(hint), at);
        if (hint > 0 && took == 0 && gave == 0) /* wants more input, or more room, than there is */
            return err_set(e, -EBADMSG,
                           at == in_len ? "LZ4 frame: ends early, after %zu bytes"
                                        : "LZ4 frame: holds more than its size field says, at "
                                          "byte %zu of it",
                           at);
        at += took;
        filled += gave;
    }
    if (at != in_len)
        return err_set(e, -EBADMSG, "LZ4 frame: %zu bytes follow its end", in_len - at);
    *ret_filled = filled;
    return 0;
}

int lz4_frame_decode(const void *bytes, size_t len, size_t expect_bytes, uint8_t **ret,
                     struct thaw_error *e)
{
    LZ4F_dctx *d CLEANUP(free_decoder) = NULL;
    uint8_t *out CLEANUP_FREE = NULL;
    size_t filled = 0;
    int r;

    if (expect_bytes / LZ4_MAX_RATIO > len)
        return err_set(e, -EBADMSG,
                       "LZ4 frame: %zu bytes cannot hold the %zu that its size field says", len,
                       expect_bytes);
    out = malloc(expect_bytes + 1); /* the byte more shows a frame that holds too much */
    if (!out || LZ4F_isError(LZ4F_createDecompressionContext(&d, LZ4F_VERSION)))
        return err_set(e, -ENOMEM, "LZ4 frame: no memory for %zu bytes", expect_bytes);
    r = decode_into(d, bytes, len, out, expect_bytes + 1, &filled, e);
    if (r < 0)
        return r;
    if (filled != expect_bytes)
        return err_set(e, -EBADMSG, "LZ4 frame: holds %s%zu bytes, its size field says %zu",
                       filled > expect_bytes ? "at least " : "", filled, expect_bytes);
    *ret = TAKE_PTR(out);
    return 0;
}

int lz4_frame_encode(const void *bytes, size_t len, struct buf *ret, struct thaw_error *e)
{
    /* What E2B's writer sets; small blocks would do for a small header, but readers may compare. */
    static const LZ4F_preferences_t prefs = {
        .frameInfo =
            {
                .blockSizeID = LZ4F_max4MB,
                .blockMode = LZ4F_blockIndependent,
                .contentChecksumFlag = LZ4F_contentChecksumEnabled,
                .blockChecksumFlag = LZ4F_blockChecksumEnabled,
            },
        .autoFlush = 1,
    };
    LZ4F_cctx *c CLEANUP(free_encoder) = NULL;
    size_t bound = LZ4F_compressBound(len, &prefs);
    size_t cap = LZ4F_HEADER_SIZE_MAX + bound;
    size_t before = ret->len, at = 0, n = 0;
    uint8_t *out = buf_extend(ret, cap);

    if (!out || LZ4F_isError(LZ4F_createCompressionContext(&c, LZ4F_VERSION))) {
        ret->len = before;
        return err_set(e, -ENOMEM, "LZ4 frame: no memory for %zu bytes", cap);
    }
    n = LZ4F_compressBegin(c, out, cap, &prefs);
    if (!LZ4F_isError(n)) {
        at += n;
        n = LZ4F_compressUpdate(c, out + at, cap - at, bytes, len, NULL);
    }
    if (!LZ4F_isError(n)) {
        at += n;
        n = LZ4F_compressEnd(c, out + at, cap - at, NULL);
    }
    if (LZ4F_isError(n)) {
        ret->len = before;
        return err_set(e, error_code(n, -EIO), "LZ4 frame: %s", LZ4F_getErrorName(n));
    }
    ret->len = before + at + n;
    return 0;
}

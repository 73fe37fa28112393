/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_NBD_BYTES_H
#define THAW_FORMAT_NBD_BYTES_H

/* Big-endian numbers, and a writer that never writes past its end. For the files of the codec. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/** load_be() - an unsigned big-endian number of @len <= 8 bytes */
static inline uint64_t load_be(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t v = 0;

    for (size_t i = 0; i < len; i++)
        v = v << 8 | p[i];
    return v;
}

static inline void store_be(void *bytes, uint64_t v, size_t len)
{
    uint8_t *p = bytes;

    for (size_t i = len; i-- > 0; v >>= 8)
        p[i] = (uint8_t)v;
}

/* Bytes to be sent, in memory of somebody else's. What does not fit is left out, and noted. */
struct nbd_writer {
    uint8_t *at;
    const uint8_t *end;
    bool failed; /* something did not fit: the content is incomplete */
};

static inline void nbd_put(struct nbd_writer *w, const void *bytes, size_t len)
{
    if (w->failed || len > (size_t)(w->end - w->at)) {
        w->failed = true;
        return;
    }
    if (len > 0)
        memcpy(w->at, bytes, len);
    w->at += len;
}

static inline void nbd_put_be(struct nbd_writer *w, uint64_t v, size_t len)
{
    uint8_t bytes[8];

    store_be(bytes, v, len);
    nbd_put(w, bytes, len);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_BYTES_H
#define THAW_BASE_BYTES_H

/*
 * Reading and writing of little-endian structures. A struct reader never reads past its end and
 * remembers its first failure, so a decoder may take a group of fields and test once; a struct
 * buf grows as it is written and remembers a failed allocation in the same way. One thread each.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "base/cleanup.h"

struct reader {
    const uint8_t *start;
    const uint8_t *at;
    const uint8_t *end;
    bool failed; /* a read went past the end; everything since then was zeros */
};

static inline struct reader reader_init(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;

    return (struct reader){.start = p, .at = p, .end = p + len, .failed = false};
}

static inline size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->at);
}

static inline size_t reader_offset(const struct reader *r)
{
    return (size_t)(r->at - r->start);
}

/** reader_take() - the next @len bytes, valid as long as the input is; NULL past the end */
static inline const void *reader_take(struct reader *r, size_t len)
{
    const uint8_t *p = r->at;

    if (r->failed || len > reader_left(r)) {
        r->failed = true;
        return NULL;
    }
    r->at += len;
    return p;
}

/** load_le() - an unsigned little-endian number of @len <= 8 bytes */
static inline uint64_t load_le(const void *bytes, size_t len)
{
    const uint8_t *p = bytes;
    uint64_t v = 0;

    for (size_t i = len; i-- > 0;)
        v = v << 8 | p[i];
    return v;
}

static inline void store_le(void *bytes, uint64_t v, size_t len)
{
    uint8_t *p = bytes;

    for (size_t i = 0; i < len; i++, v >>= 8)
        p[i] = (uint8_t)v;
}

static inline uint64_t reader_le(struct reader *r, size_t len)
{
    const void *p = reader_take(r, len);

    return p ? load_le(p, len) : 0;
}

static inline uint8_t reader_u8(struct reader *r)
{
    return (uint8_t)reader_le(r, 1);
}

static inline uint32_t reader_u32(struct reader *r)
{
    return (uint32_t)reader_le(r, 4);
}

static inline uint64_t reader_u64(struct reader *r)
{
    return reader_le(r, 8);
}

/* A byte string that grows. Zero-initialised is empty; release with buf_finish(). */
struct buf {
    uint8_t *data; /* owned */
    size_t len;
    size_t cap;
    bool failed; /* an allocation failed: the content is incomplete */
};

#define CLEANUP_BUF CLEANUP(buf_finish)

static inline void buf_finish(struct buf *b)
{
    free(b->data);
    *b = (struct buf){0};
}

/** buf_extend() - append @len uninitialised bytes and return them; NULL (and failed) on no memory
 */
static inline void *buf_extend(struct buf *b, size_t len)
{
    if (b->failed || len > SIZE_MAX / 2 - b->len) {
        b->failed = true;
        return NULL;
    }
    if (b->len + len > b->cap || !b->data) { /* even no bytes have an address */
        size_t cap = b->cap ? b->cap : 256;
        void *data;

        while (cap < b->len + len)
            cap *= 2;
        data = realloc(b->data, cap);
        if (!data) {
            b->failed = true;
            return NULL;
        }
        b->data = data;
        b->cap = cap;
    }
    b->len += len;
    return b->data + b->len - len;
}

static inline void buf_put(struct buf *b, const void *bytes, size_t len)
{
    void *p = buf_extend(b, len);

    if (p && len)
        memcpy(p, bytes, len);
}

static inline void buf_put_le(struct buf *b, uint64_t v, size_t len)
{
    void *p = buf_extend(b, len);

    if (p)
        store_le(p, v, len);
}

static inline void buf_put_u8(struct buf *b, uint8_t v)
{
    buf_put_le(b, v, 1);
}

static inline void buf_put_u32(struct buf *b, uint32_t v)
{
    buf_put_le(b, v, 4);
}

static inline void buf_put_u64(struct buf *b, uint64_t v)
{
    buf_put_le(b, v, 8);
}

#endif

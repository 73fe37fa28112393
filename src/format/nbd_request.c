/* SPDX-License-Identifier: Apache-2.0 */

/* The transmission phase: requests, and both kinds of replies. */
#include "format/nbd.h"

#include <errno.h>

#include "format/nbd_bytes.h"

#define CHUNK_DONE 1u /* NBD_REPLY_FLAG_DONE */

enum chunk_type {
    CHUNK_NONE = 0,
    CHUNK_OFFSET_DATA = 1,
    CHUNK_OFFSET_HOLE = 2,
    CHUNK_BLOCK_STATUS = 5,
    CHUNK_ERROR = 0x8001,
    CHUNK_ERROR_OFFSET = 0x8002,
};

int nbd_request_decode(const uint8_t bytes[NBD_REQUEST_BYTES], struct nbd_request *ret)
{
    if (load_be(bytes, 4) != NBD_REQUEST_MAGIC)
        return -EPROTO;
    *ret = (struct nbd_request){
        .flags = (uint16_t)load_be(bytes + 4, 2),
        .command = (uint16_t)load_be(bytes + 6, 2),
        .cookie = load_be(bytes + 8, 8),
        .off = load_be(bytes + 16, 8),
        .len_bytes = (uint32_t)load_be(bytes + 24, 4),
    };
    return 0;
}

uint32_t nbd_error(int err)
{
    switch (-err) {
    case 0:
        return 0;
    case EPERM:
    case EROFS:
        return NBD_EPERM;
    case ENOMEM:
        return NBD_ENOMEM;
    case EINVAL:
        return NBD_EINVAL;
    case ENOSPC:
    case EDQUOT:
    case EFBIG:
        return NBD_ENOSPC;
    case EOVERFLOW:
        return NBD_EOVERFLOW;
    case EOPNOTSUPP:
        return NBD_ENOTSUP;
    case ESHUTDOWN:
        return NBD_ESHUTDOWN;
    default:
        return NBD_EIO;
    }
}

size_t nbd_simple_encode(uint8_t *ret, uint64_t cookie, uint32_t error)
{
    store_be(ret, NBD_SIMPLE_MAGIC, 4);
    store_be(ret + 4, error, 4);
    store_be(ret + 8, cookie, 8);
    return NBD_SIMPLE_BYTES;
}

static size_t put_chunk(uint8_t *ret, uint64_t cookie, enum chunk_type type, bool done,
                        size_t len_bytes)
{
    store_be(ret, NBD_STRUCTURED_MAGIC, 4);
    store_be(ret + 4, done ? CHUNK_DONE : 0, 2);
    store_be(ret + 6, (uint64_t)type, 2);
    store_be(ret + 8, cookie, 8);
    store_be(ret + 16, len_bytes, 4);
    return NBD_CHUNK_BYTES;
}

size_t nbd_read_chunk_encode(uint8_t *ret, uint64_t cookie, uint64_t off, uint32_t len_bytes,
                             bool done)
{
    put_chunk(ret, cookie, CHUNK_OFFSET_DATA, done, sizeof(off) + len_bytes);
    store_be(ret + NBD_CHUNK_BYTES, off, 8);
    return NBD_READ_CHUNK_BYTES;
}

size_t nbd_hole_chunk_encode(uint8_t *ret, uint64_t cookie, uint64_t off, uint32_t len_bytes,
                             bool done)
{
    put_chunk(ret, cookie, CHUNK_OFFSET_HOLE, done, 12);
    store_be(ret + NBD_CHUNK_BYTES, off, 8);
    store_be(ret + NBD_CHUNK_BYTES + 8, len_bytes, 4);
    return NBD_CHUNK_BYTES + 12;
}

size_t nbd_none_chunk_encode(uint8_t *ret, uint64_t cookie)
{
    return put_chunk(ret, cookie, CHUNK_NONE, true, 0);
}

size_t nbd_error_chunk_encode(uint8_t *ret, uint64_t cookie, uint32_t error)
{
    put_chunk(ret, cookie, CHUNK_ERROR, true, 6);
    store_be(ret + NBD_CHUNK_BYTES, error, 4);
    store_be(ret + NBD_CHUNK_BYTES + 4, 0, 2); /* no message */
    return NBD_CHUNK_BYTES + 6;
}

size_t nbd_error_offset_encode(uint8_t *ret, uint64_t cookie, uint32_t error, uint64_t off)
{
    put_chunk(ret, cookie, CHUNK_ERROR_OFFSET, true, 14);
    store_be(ret + NBD_CHUNK_BYTES, error, 4);
    store_be(ret + NBD_CHUNK_BYTES + 4, 0, 2);
    store_be(ret + NBD_CHUNK_BYTES + 6, off, 8);
    return NBD_CHUNK_BYTES + 14;
}

size_t nbd_status_chunk_encode(uint8_t *ret, uint64_t cookie, uint32_t id, uint32_t count)
{
    put_chunk(ret, cookie, CHUNK_BLOCK_STATUS, true, 4 + 8 * (size_t)count);
    store_be(ret + NBD_CHUNK_BYTES, id, 4);
    return NBD_CHUNK_BYTES + 4;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_NBD_H
#define THAW_FORMAT_NBD_H

/*
 * The NBD protocol as a server speaks it: what a client sends is decoded, what a client gets is
 * encoded. Source of all numbers: doc/proto.md of the reference implementation (Network Block
 * Device), fixed newstyle. All numbers on the wire are big-endian. Pure functions; any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define NBD_MAGIC            UINT64_C(0x4e42444d41474943) /* "NBDMAGIC" */
#define NBD_OPTION_MAGIC     UINT64_C(0x49484156454f5054) /* "IHAVEOPT" */
#define NBD_REPLY_MAGIC      UINT64_C(0x0003e889045565a9) /* before each reply to an option */
#define NBD_REQUEST_MAGIC    0x25609513u
#define NBD_SIMPLE_MAGIC     0x67446698u
#define NBD_STRUCTURED_MAGIC 0x668e33efu

#define NBD_GREETING_BYTES     18
#define NBD_CLIENT_FLAGS_BYTES 4
#define NBD_OPTION_BYTES       16 /* header of an option */
#define NBD_REPLY_BYTES        20 /* header of a reply to an option */
#define NBD_REQUEST_BYTES      28
#define NBD_SIMPLE_BYTES       16 /* a simple reply without data */
#define NBD_CHUNK_BYTES        20 /* header of a chunk of a structured reply */
#define NBD_READ_CHUNK_BYTES   28 /* header of a chunk, and the offset of the data that follow */
#define NBD_HEAD_MAX_BYTES     40 /* the longest of what the functions below write for a request */

#define NBD_STRING_MAX_BYTES 4096 /* names, descriptions and queries: proto.md "Values" */

/* Flags of the server's greeting and of the client's answer to it. */
enum { NBD_FIXED_NEWSTYLE = 1 << 0, NBD_NO_ZEROES = 1 << 1 };

/* What an export can do. */
enum nbd_export_flag {
    NBD_HAS_FLAGS = 1 << 0,
    NBD_READ_ONLY = 1 << 1,
    NBD_SEND_FLUSH = 1 << 2,
    NBD_SEND_FUA = 1 << 3,
    NBD_SEND_TRIM = 1 << 5,
    NBD_SEND_WRITE_ZEROES = 1 << 6,
    NBD_SEND_DF = 1 << 7,
    NBD_CAN_MULTI_CONN = 1 << 8,
    NBD_SEND_CACHE = 1 << 10,
    NBD_SEND_FAST_ZERO = 1 << 11,
};

enum nbd_option_type {
    NBD_OPT_EXPORT_NAME = 1,
    NBD_OPT_ABORT = 2,
    NBD_OPT_LIST = 3,
    NBD_OPT_STARTTLS = 5,
    NBD_OPT_INFO = 6,
    NBD_OPT_GO = 7,
    NBD_OPT_STRUCTURED_REPLY = 8,
    NBD_OPT_LIST_META_CONTEXT = 9,
    NBD_OPT_SET_META_CONTEXT = 10,
};

#define NBD_REP_ERROR_BIT 0x80000000u

enum nbd_reply_type {
    NBD_REP_ACK = 1,
    NBD_REP_SERVER = 2,
    NBD_REP_INFO = 3,
    NBD_REP_META_CONTEXT = 4,
    NBD_REP_ERR_UNSUP = 1, /* the errors go with NBD_REP_ERROR_BIT */
    NBD_REP_ERR_POLICY = 2,
    NBD_REP_ERR_INVALID = 3,
    NBD_REP_ERR_UNKNOWN = 6,
    NBD_REP_ERR_TOO_BIG = 9,
};

enum nbd_info_type {
    NBD_INFO_EXPORT = 0,
    NBD_INFO_NAME = 1,
    NBD_INFO_DESCRIPTION = 2,
    NBD_INFO_BLOCK_SIZE = 3,
};

enum nbd_command {
    NBD_CMD_READ = 0,
    NBD_CMD_WRITE = 1,
    NBD_CMD_DISC = 2,
    NBD_CMD_FLUSH = 3,
    NBD_CMD_TRIM = 4,
    NBD_CMD_CACHE = 5,
    NBD_CMD_WRITE_ZEROES = 6,
    NBD_CMD_BLOCK_STATUS = 7,
};

enum nbd_command_flag {
    NBD_FLAG_FUA = 1 << 0,
    NBD_FLAG_NO_HOLE = 1 << 1,
    NBD_FLAG_DF = 1 << 2,
    NBD_FLAG_REQ_ONE = 1 << 3,
    NBD_FLAG_FAST_ZERO = 1 << 4,
};

/* The only numbers that may stand for an error on the wire. */
enum nbd_errno {
    NBD_EPERM = 1,
    NBD_EIO = 5,
    NBD_ENOMEM = 12,
    NBD_EINVAL = 22,
    NBD_ENOSPC = 28,
    NBD_EOVERFLOW = 75,
    NBD_ENOTSUP = 95,
    NBD_ESHUTDOWN = 108,
};

/* States of base:allocation. */
enum { NBD_STATE_HOLE = 1 << 0, NBD_STATE_ZERO = 1 << 1 };

/* --- handshake: from the client --- */

/** nbd_client_flags_decode() - 0, or -EPROTO for a flag that we did not offer */
[[gnu::warn_unused_result]] int nbd_client_flags_decode(const uint8_t bytes[NBD_CLIENT_FLAGS_BYTES],
                                                        uint32_t *ret);

/** nbd_option_decode() - what option comes, with how much payload; 0, or -EPROTO: bad magic */
[[gnu::warn_unused_result]] int nbd_option_decode(const uint8_t bytes[NBD_OPTION_BYTES],
                                                  uint32_t *ret_option, uint32_t *ret_len_bytes);

/* A string of the client's, not terminated; valid as long as the payload is. */
struct nbd_string {
    const char *text;
    size_t len;
};

/**
 * struct nbd_info_query - payload of NBD_OPT_INFO and NBD_OPT_GO
 * @wants: bit n: information number n was asked for; numbers above 31 are unknown to everybody
 */
struct nbd_info_query {
    struct nbd_string name;
    uint32_t wants;
};

/** nbd_info_query_decode() - 0, or -EINVAL when the lengths do not fit together */
[[gnu::warn_unused_result]] int nbd_info_query_decode(const uint8_t *payload, size_t len,
                                                      struct nbd_info_query *ret);

/**
 * struct nbd_meta_query - payload of NBD_OPT_LIST_META_CONTEXT and NBD_OPT_SET_META_CONTEXT
 * @queries: how many there are
 * @allocation: one of them is "base:allocation"
 * @base: one of them is "base:", which lists what begins so
 */
struct nbd_meta_query {
    struct nbd_string name;
    uint32_t queries;
    bool allocation;
    bool base;
};

/** nbd_meta_query_decode() - 0, or -EINVAL when the lengths do not fit together */
[[gnu::warn_unused_result]] int nbd_meta_query_decode(const uint8_t *payload, size_t len,
                                                      struct nbd_meta_query *ret);

/* --- handshake: to the client --- */

struct nbd_writer;

/** nbd_put_greeting() - the server's first NBD_GREETING_BYTES */
void nbd_put_greeting(struct nbd_writer *w);

/** nbd_put_reply() - header of a reply of @type to @option; @len_bytes of payload follow */
void nbd_put_reply(struct nbd_writer *w, uint32_t option, uint32_t type, uint32_t len_bytes);

/** nbd_put_error() - a whole reply: @error is one of NBD_REP_ERR_*, @why is for a person */
void nbd_put_error(struct nbd_writer *w, uint32_t option, uint32_t error, const char *why);

/** nbd_put_server() - a whole reply of NBD_OPT_LIST */
void nbd_put_server(struct nbd_writer *w, const char *name);

/** nbd_put_info_export() - a whole reply: size and flags; also what NBD_OPT_EXPORT_NAME gets */
void nbd_put_info_export(struct nbd_writer *w, uint32_t option, uint64_t bytes, uint16_t flags);

/** nbd_put_info_text() - a whole reply: NBD_INFO_NAME or NBD_INFO_DESCRIPTION */
void nbd_put_info_text(struct nbd_writer *w, uint32_t option, enum nbd_info_type type,
                       const char *text);

/** nbd_put_info_block_size() - a whole reply: sizes in bytes, of requests */
void nbd_put_info_block_size(struct nbd_writer *w, uint32_t option, uint32_t minimum,
                             uint32_t preferred, uint32_t maximum);

/** nbd_put_meta_context() - a whole reply: context @id has this name */
void nbd_put_meta_context(struct nbd_writer *w, uint32_t option, uint32_t id, const char *name);

/** nbd_put_export_name_answer() - what follows NBD_OPT_EXPORT_NAME: no header, perhaps zeroes */
void nbd_put_export_name_answer(struct nbd_writer *w, uint64_t bytes, uint16_t flags,
                                bool no_zeroes);

/* --- transmission --- */

struct nbd_request {
    uint16_t flags;
    uint16_t command;
    uint64_t cookie; /* the client's name for the request; means nothing to us */
    uint64_t off;
    uint32_t len_bytes;
};

/** nbd_request_decode() - 0, or -EPROTO: bad magic */
[[gnu::warn_unused_result]] int nbd_request_decode(const uint8_t bytes[NBD_REQUEST_BYTES],
                                                   struct nbd_request *ret);

/** nbd_error() - what stands for the result @err (-errno, or 0) on the wire */
uint32_t nbd_error(int err);

/** nbd_simple_encode() - a simple reply; data follow when it is to a read without error */
size_t nbd_simple_encode(uint8_t *ret, uint64_t cookie, uint32_t error);

/** nbd_read_chunk_encode() - @len_bytes of data from @off follow */
size_t nbd_read_chunk_encode(uint8_t *ret, uint64_t cookie, uint64_t off, uint32_t len_bytes,
                             bool done);

/** nbd_hole_chunk_encode() - instead of data: @len_bytes of zeros from @off */
size_t nbd_hole_chunk_encode(uint8_t *ret, uint64_t cookie, uint64_t off, uint32_t len_bytes,
                             bool done);

/** nbd_none_chunk_encode() - the last chunk of a reply that says no more */
size_t nbd_none_chunk_encode(uint8_t *ret, uint64_t cookie);

/** nbd_error_chunk_encode() - the last chunk of a reply that failed as a whole */
size_t nbd_error_chunk_encode(uint8_t *ret, uint64_t cookie, uint32_t error);

/** nbd_error_offset_encode() - the last chunk of a reply to a read that failed at @off */
size_t nbd_error_offset_encode(uint8_t *ret, uint64_t cookie, uint32_t error, uint64_t off);

/** nbd_status_chunk_encode() - @count descriptors of 8 bytes follow, of context @id; the last one
 */
size_t nbd_status_chunk_encode(uint8_t *ret, uint64_t cookie, uint32_t id, uint32_t count);

#endif

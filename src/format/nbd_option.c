/* SPDX-License-Identifier: Apache-2.0 */

/* The handshake: options of the client, and replies to them. */
#include "format/nbd.h"

#include <errno.h>
#include <string.h>

#include "format/nbd_bytes.h"

#define EXPORT_NAME_ZEROES 124 /* which follow the answer to NBD_OPT_EXPORT_NAME, for nothing */

/* --- from the client --- */

int nbd_client_flags_decode(const uint8_t bytes[NBD_CLIENT_FLAGS_BYTES], uint32_t *ret)
{
    uint32_t flags = (uint32_t)load_be(bytes, 4);

    if ((flags & ~(uint32_t)(NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES)) != 0)
        return -EPROTO;
    *ret = flags;
    return 0;
}

int nbd_option_decode(const uint8_t bytes[NBD_OPTION_BYTES], uint32_t *ret_option,
                      uint32_t *ret_len_bytes)
{
    if (load_be(bytes, 8) != NBD_OPTION_MAGIC)
        return -EPROTO;
    *ret_option = (uint32_t)load_be(bytes + 8, 4);
    *ret_len_bytes = (uint32_t)load_be(bytes + 12, 4);
    return 0;
}

/* What is left of a payload. */
struct payload {
    const uint8_t *at;
    size_t len;
};

/* A number of @bytes; -EINVAL when it is not there. */
static int take_number(struct payload *p, size_t bytes, uint32_t *ret)
{
    if (p->len < bytes)
        return -EINVAL;
    *ret = (uint32_t)load_be(p->at, bytes);
    p->at += bytes;
    p->len -= bytes;
    return 0;
}

/* A string with its length before it. */
static int take_string(struct payload *p, struct nbd_string *ret)
{
    uint32_t len;
    int r = take_number(p, 4, &len);

    if (r < 0)
        return r;
    if (len > p->len || len > NBD_STRING_MAX_BYTES)
        return -EINVAL;
    *ret = (struct nbd_string){.text = (const char *)p->at, .len = len};
    p->at += len;
    p->len -= len;
    return 0;
}

int nbd_info_query_decode(const uint8_t *payload, size_t len, struct nbd_info_query *ret)
{
    struct payload p = {.at = payload, .len = len};
    struct nbd_info_query query = {.wants = 0};
    uint32_t count = 0, info;
    int r = take_string(&p, &query.name);

    if (r == 0)
        r = take_number(&p, 2, &count);
    if (r < 0)
        return r;
    if (p.len != 2 * (size_t)count)
        return -EINVAL;
    while (take_number(&p, 2, &info) == 0) {
        if (info < 32)
            query.wants |= UINT32_C(1) << info;
    }
    *ret = query;
    return 0;
}

static bool string_is(const struct nbd_string *s, const char *text)
{
    return s->len == strlen(text) && memcmp(s->text, text, s->len) == 0;
}

int nbd_meta_query_decode(const uint8_t *payload, size_t len, struct nbd_meta_query *ret)
{
    struct payload p = {.at = payload, .len = len};
    struct nbd_meta_query query = {.queries = 0};
    int r = take_string(&p, &query.name);

    if (r == 0)
        r = take_number(&p, 4, &query.queries);
    /* Each takes four bytes at least, so a count beyond the payload ends the loop soon. */
    for (uint32_t i = 0; r == 0 && i < query.queries; i++) {
        struct nbd_string text;

        r = take_string(&p, &text);
        if (r == 0) {
            query.allocation |= string_is(&text, "base:allocation");
            query.base |= string_is(&text, "base:");
        }
    }
    if (r < 0 || p.len > 0)
        return -EINVAL;
    *ret = query;
    return 0;
}

/* --- to the client --- */

void nbd_put_greeting(struct nbd_writer *w)
{
    nbd_put_be(w, NBD_MAGIC, 8);
    nbd_put_be(w, NBD_OPTION_MAGIC, 8);
    nbd_put_be(w, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES, 2);
}

void nbd_put_reply(struct nbd_writer *w, uint32_t option, uint32_t type, uint32_t len_bytes)
{
    nbd_put_be(w, NBD_REPLY_MAGIC, 8);
    nbd_put_be(w, option, 4);
    nbd_put_be(w, type, 4);
    nbd_put_be(w, len_bytes, 4);
}

void nbd_put_error(struct nbd_writer *w, uint32_t option, uint32_t error, const char *why)
{
    size_t len = strlen(why);

    nbd_put_reply(w, option, NBD_REP_ERROR_BIT | error, (uint32_t)len);
    nbd_put(w, why, len);
}

void nbd_put_server(struct nbd_writer *w, const char *name)
{
    size_t len = strlen(name);

    nbd_put_reply(w, NBD_OPT_LIST, NBD_REP_SERVER, (uint32_t)(4 + len));
    nbd_put_be(w, len, 4);
    nbd_put(w, name, len);
}

void nbd_put_info_export(struct nbd_writer *w, uint32_t option, uint64_t bytes, uint16_t flags)
{
    nbd_put_reply(w, option, NBD_REP_INFO, 12);
    nbd_put_be(w, NBD_INFO_EXPORT, 2);
    nbd_put_be(w, bytes, 8);
    nbd_put_be(w, flags, 2);
}

void nbd_put_info_text(struct nbd_writer *w, uint32_t option, enum nbd_info_type type,
                       const char *text)
{
    size_t len = strlen(text);

    nbd_put_reply(w, option, NBD_REP_INFO, (uint32_t)(2 + len));
    nbd_put_be(w, (uint64_t)type, 2);
    nbd_put(w, text, len);
}

void nbd_put_info_block_size(struct nbd_writer *w, uint32_t option, uint32_t minimum,
                             uint32_t preferred, uint32_t maximum)
{
    nbd_put_reply(w, option, NBD_REP_INFO, 14);
    nbd_put_be(w, NBD_INFO_BLOCK_SIZE, 2);
    nbd_put_be(w, minimum, 4);
    nbd_put_be(w, preferred, 4);
    nbd_put_be(w, maximum, 4);
}

void nbd_put_meta_context(struct nbd_writer *w, uint32_t option, uint32_t id, const char *name)
{
    size_t len = strlen(name);

    nbd_put_reply(w, option, NBD_REP_META_CONTEXT, (uint32_t)(4 + len));
    nbd_put_be(w, id, 4);
    nbd_put(w, name, len);
}

void nbd_put_export_name_answer(struct nbd_writer *w, uint64_t bytes, uint16_t flags,
                                bool no_zeroes)
{
    static const uint8_t zeroes[EXPORT_NAME_ZEROES];

    nbd_put_be(w, bytes, 8);
    nbd_put_be(w, flags, 2);
    if (!no_zeroes)
        nbd_put(w, zeroes, sizeof(zeroes));
}

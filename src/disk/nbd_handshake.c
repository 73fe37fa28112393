/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/nbd_handshake.h"

#include <errno.h>
#include <string.h>

#include "format/nbd.h"

#define ALLOCATION "base:allocation"

void nbd_handshake_init(struct nbd_handshake *h, const struct nbd_export_info *exports,
                        unsigned count)
{
    *h = (struct nbd_handshake){
        .exports = exports,
        .count = count,
        .phase = NBD_GREET,
        .allocation = -1,
    };
}

uint16_t nbd_handshake_export_flags(const struct nbd_handshake *h, const struct nbd_export_info *x)
{
    unsigned flags = NBD_HAS_FLAGS | NBD_SEND_FLUSH | NBD_SEND_FUA | NBD_SEND_CACHE;

    /* One thread serves all connections of a disk, so a flush on one covers them all. */
    flags |= NBD_CAN_MULTI_CONN;
    if (x->read_only)
        flags |= NBD_READ_ONLY;
    else
        flags |= NBD_SEND_TRIM | NBD_SEND_WRITE_ZEROES | NBD_SEND_FAST_ZERO;
    if (h->structured)
        flags |= NBD_SEND_DF;
    return (uint16_t)flags;
}

/* The export of that name, or -1. The empty name is the first one, whatever its own is. */
static int find_export(const struct nbd_handshake *h, const struct nbd_string *name)
{
    for (unsigned i = 0; i < h->count; i++) {
        const char *text = h->exports[i].name;

        if (name->len == strlen(text) && memcmp(text, name->text, name->len) == 0)
            return (int)i;
    }
    return name->len == 0 ? 0 : -1;
}

/* --- one function per option; each returns enum nbd_handshake_result or -EPROTO --- */

static int refuse(struct nbd_writer *out, uint32_t option, uint32_t error, const char *why)
{
    nbd_put_error(out, option, error, why);
    return NBD_HANDSHAKE_MORE;
}

static int acknowledge(struct nbd_writer *out, uint32_t option, int result)
{
    nbd_put_reply(out, option, NBD_REP_ACK, 0);
    return result;
}

/* The old way to choose, which knows no answer but success. */
static int option_export_name(struct nbd_handshake *h, const uint8_t *payload, size_t len,
                              struct nbd_writer *out)
{
    struct nbd_string name = {.text = (const char *)payload, .len = len};
    int i = find_export(h, &name);

    if (i < 0)
        return -EPROTO;
    h->chosen = (unsigned)i;
    nbd_put_export_name_answer(out, h->exports[i].bytes,
                               nbd_handshake_export_flags(h, &h->exports[i]), h->no_zeroes);
    return NBD_HANDSHAKE_CHOSEN;
}

static int option_list(const struct nbd_handshake *h, size_t len, struct nbd_writer *out)
{
    if (len > 0)
        return refuse(out, NBD_OPT_LIST, NBD_REP_ERR_INVALID, "this option takes no data");
    for (unsigned i = 0; i < h->count; i++)
        nbd_put_server(out, h->exports[i].name);
    return acknowledge(out, NBD_OPT_LIST, NBD_HANDSHAKE_MORE);
}

/* NBD_OPT_INFO, and NBD_OPT_GO, which is the same and then begins. */
static int option_info(struct nbd_handshake *h, uint32_t option, const uint8_t *payload, size_t len,
                       struct nbd_writer *out)
{
    struct nbd_info_query query;
    const struct nbd_export_info *x;
    int i;

    if (nbd_info_query_decode(payload, len, &query) < 0)
        return refuse(out, option, NBD_REP_ERR_INVALID, "the lengths do not fit together");
    i = find_export(h, &query.name);
    if (i < 0)
        return refuse(out, option, NBD_REP_ERR_UNKNOWN, "there is no export of that name");
    x = &h->exports[i];
    nbd_put_info_export(out, option, x->bytes, nbd_handshake_export_flags(h, x));
    if (query.wants & (UINT32_C(1) << NBD_INFO_NAME))
        nbd_put_info_text(out, option, NBD_INFO_NAME, x->name);
    if (query.wants & (UINT32_C(1) << NBD_INFO_DESCRIPTION) && x->description[0] != '\0')
        nbd_put_info_text(out, option, NBD_INFO_DESCRIPTION, x->description);
    if (query.wants & (UINT32_C(1) << NBD_INFO_BLOCK_SIZE))
        nbd_put_info_block_size(out, option, NBD_MINIMUM_BYTES, NBD_PREFERRED_BYTES,
                                NBD_PAYLOAD_MAX_BYTES);
    if (option == NBD_OPT_INFO)
        return acknowledge(out, option, NBD_HANDSHAKE_MORE);
    h->chosen = (unsigned)i;
    return acknowledge(out, option, NBD_HANDSHAKE_CHOSEN);
}

static int option_structured_reply(struct nbd_handshake *h, size_t len, struct nbd_writer *out)
{
    if (len > 0)
        return refuse(out, NBD_OPT_STRUCTURED_REPLY, NBD_REP_ERR_INVALID,
                      "this option takes no data");
    h->structured = true;
    return acknowledge(out, NBD_OPT_STRUCTURED_REPLY, NBD_HANDSHAKE_MORE);
}

/* A client that sets contexts anew, even wrongly, has none of those that it had before. */
static int option_meta_context(struct nbd_handshake *h, uint32_t option, const uint8_t *payload,
                               size_t len, struct nbd_writer *out)
{
    bool set = option == NBD_OPT_SET_META_CONTEXT;
    struct nbd_meta_query query;
    bool wanted;
    int i;

    if (set)
        h->allocation = -1;
    if (!h->structured)
        return refuse(out, option, NBD_REP_ERR_INVALID, "structured replies come first");
    if (nbd_meta_query_decode(payload, len, &query) < 0)
        return refuse(out, option, NBD_REP_ERR_INVALID, "the lengths do not fit together");
    i = find_export(h, &query.name);
    if (i < 0)
        return refuse(out, option, NBD_REP_ERR_UNKNOWN, "there is no export of that name");
    /* To list, no query means all, and "base:" all of those; to set, only the name will do. */
    wanted = query.allocation || (!set && (query.queries == 0 || query.base));
    if (wanted)
        nbd_put_meta_context(out, option, set ? NBD_ALLOCATION_ID : 0, ALLOCATION);
    if (wanted && set)
        h->allocation = i;
    return acknowledge(out, option, NBD_HANDSHAKE_MORE);
}

static int answer_option(struct nbd_handshake *h, uint32_t option, const uint8_t *payload,
                         size_t len, struct nbd_writer *out)
{
    switch (option) {
    case NBD_OPT_EXPORT_NAME:
        return option_export_name(h, payload, len, out);
    case NBD_OPT_ABORT:
        return acknowledge(out, option, NBD_HANDSHAKE_END);
    case NBD_OPT_LIST:
        return option_list(h, len, out);
    case NBD_OPT_INFO:
    case NBD_OPT_GO:
        return option_info(h, option, payload, len, out);
    case NBD_OPT_STRUCTURED_REPLY:
        return option_structured_reply(h, len, out);
    case NBD_OPT_LIST_META_CONTEXT:
    case NBD_OPT_SET_META_CONTEXT:
        return option_meta_context(h, option, payload, len, out);
    case NBD_OPT_STARTTLS:
        return refuse(out, option, NBD_REP_ERR_POLICY, "a unix socket of one owner has no TLS");
    default:
        return refuse(out, option, NBD_REP_ERR_UNSUP, "this option is not known here");
    }
}

/* --- messages --- */

/* What is too long is never held in memory: it is skipped, and then refused. */
static int begin_skip(struct nbd_handshake *h, uint32_t option, uint32_t len)
{
    if (len > NBD_OPTION_SKIP_BYTES || option == NBD_OPT_EXPORT_NAME)
        return -EPROTO;
    h->skip = len;
    h->refused = option;
    return NBD_HANDSHAKE_MORE;
}

static int step_skip(struct nbd_handshake *h, size_t len, size_t *ret_used, struct nbd_writer *out)
{
    size_t n = len < h->skip ? len : h->skip;

    *ret_used = n;
    h->skip -= (uint32_t)n;
    if (h->skip > 0)
        return NBD_HANDSHAKE_MORE;
    return refuse(out, h->refused, NBD_REP_ERR_TOO_BIG, "this option is too long");
}

static int step_option(struct nbd_handshake *h, const uint8_t *in, size_t len, size_t *ret_used,
                       struct nbd_writer *out)
{
    uint32_t option, payload_len;
    int r;

    if (h->skip > 0)
        return step_skip(h, len, ret_used, out);
    if (len < NBD_OPTION_BYTES)
        return NBD_HANDSHAKE_MORE;
    r = nbd_option_decode(in, &option, &payload_len);
    if (r < 0)
        return r;
    if (!h->fixed && option != NBD_OPT_EXPORT_NAME)
        return -EPROTO; /* it would not understand an answer */
    if (payload_len > NBD_OPTION_MAX_BYTES) {
        *ret_used = NBD_OPTION_BYTES;
        return begin_skip(h, option, payload_len);
    }
    if (len - NBD_OPTION_BYTES < payload_len)
        return NBD_HANDSHAKE_MORE;
    *ret_used = NBD_OPTION_BYTES + payload_len;
    return answer_option(h, option, in + NBD_OPTION_BYTES, payload_len, out);
}

static int step_client_flags(struct nbd_handshake *h, const uint8_t *in, size_t len,
                             size_t *ret_used)
{
    uint32_t flags;
    int r;

    if (len < NBD_CLIENT_FLAGS_BYTES)
        return NBD_HANDSHAKE_MORE;
    r = nbd_client_flags_decode(in, &flags);
    if (r < 0)
        return r;
    *ret_used = NBD_CLIENT_FLAGS_BYTES;
    h->fixed = flags & NBD_FIXED_NEWSTYLE;
    h->no_zeroes = flags & NBD_NO_ZEROES;
    h->phase = NBD_OPTIONS;
    return NBD_HANDSHAKE_MORE;
}

int nbd_handshake_step(struct nbd_handshake *h, const uint8_t *in, size_t len, size_t *ret_used,
                       struct nbd_writer *out)
{
    int r = NBD_HANDSHAKE_MORE;

    *ret_used = 0;
    if (h->phase == NBD_GREET) {
        nbd_put_greeting(out);
        h->phase = NBD_CLIENT_FLAGS;
    }
    while (r == NBD_HANDSHAKE_MORE && (size_t)(out->end - out->at) >= NBD_ANSWER_MAX_BYTES) {
        size_t used = 0;

        if (h->phase == NBD_CLIENT_FLAGS)
            r = step_client_flags(h, in + *ret_used, len - *ret_used, &used);
        else
            r = step_option(h, in + *ret_used, len - *ret_used, &used, out);
        *ret_used += used;
        if (used == 0)
            break;
    }
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "format/nbd.h"
#include "format/nbd_bytes.h"
#include "fuzz.h"

/* A request's header, written again from what was read; and the payloads of options. */

static void request(const uint8_t *data, size_t size)
{
    struct nbd_request q;
    uint8_t again[NBD_REQUEST_BYTES];
    int r;

    if (size < NBD_REQUEST_BYTES)
        return;
    r = nbd_request_decode(data, &q);
    FUZZ_REQUIRE(r == 0 || r == -EPROTO);
    FUZZ_REQUIRE((r == 0) == (load_be(data, 4) == NBD_REQUEST_MAGIC));
    if (r < 0)
        return;
    store_be(again, NBD_REQUEST_MAGIC, 4);
    store_be(again + 4, q.flags, 2);
    store_be(again + 6, q.command, 2);
    store_be(again + 8, q.cookie, 8);
    store_be(again + 16, q.off, 8);
    store_be(again + 24, q.len_bytes, 4);
    FUZZ_REQUIRE(memcmp(again, data, sizeof(again)) == 0);
}

static void require_within(const struct nbd_string *s, const uint8_t *data, size_t size)
{
    const uint8_t *text = (const uint8_t *)s->text;

    FUZZ_REQUIRE(s->len <= NBD_STRING_MAX_BYTES);
    FUZZ_REQUIRE(text >= data && text + s->len <= data + size);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct nbd_info_query info;
    struct nbd_meta_query meta;

    request(data, size);
    if (size > 0 && nbd_info_query_decode(data, size, &info) == 0)
        require_within(&info.name, data, size);
    if (size > 0 && nbd_meta_query_decode(data, size, &meta) == 0) {
        require_within(&meta.name, data, size);
        FUZZ_REQUIRE(meta.queries <= size / 4);
        FUZZ_REQUIRE(meta.queries > 0 || (!meta.allocation && !meta.base));
    }
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "base/units.h"
#include "disk/nbd_handshake.h"
#include "format/nbd.h"
#include "fuzz.h"

/* The client's bytes up to the choice of an export, at once and byte by byte: the same answers. */

static const struct nbd_export_info exports[] = {
    {.name = "one", .description = "the first", .bytes = 12345},
    {.name = "", .description = "", .bytes = UINT64_MAX, .read_only = true},
};

struct run {
    uint8_t out[1 << 18];
    size_t out_len;
    size_t used;
    int result;
    struct nbd_handshake end;
};

static void shake(struct run *run, const uint8_t *data, size_t size, size_t step)
{
    struct nbd_handshake h;
    size_t given = 0;

    nbd_handshake_init(&h, exports, ARRAY_SIZE(exports));
    run->out_len = run->used = 0;
    run->result = NBD_HANDSHAKE_MORE;
    do {
        struct nbd_writer w = {.at = run->out + run->out_len, .end = run->out + sizeof(run->out)};
        size_t used, window = MIN(given - run->used, (size_t)NBD_HANDSHAKE_IN_BYTES);

        run->result = nbd_handshake_step(&h, data + run->used, window, &used, &w);
        FUZZ_REQUIRE(used <= window && !w.failed);
        FUZZ_REQUIRE(used > 0 || window < NBD_HANDSHAKE_IN_BYTES ||
                     run->result != NBD_HANDSHAKE_MORE ||
                     (size_t)(w.end - w.at) < NBD_ANSWER_MAX_BYTES);
        run->used += used;
        run->out_len = (size_t)(w.at - run->out);
        if (used == 0) {
            if (given == size)
                break;
            given = MIN(given + step, size);
        }
    } while (run->result == NBD_HANDSHAKE_MORE);
    run->end = h;
}

/* The output is a greeting, then replies whose lengths fit, until an export is chosen. */
static void require_replies(const struct run *run)
{
    size_t at = NBD_GREETING_BYTES;

    FUZZ_REQUIRE(run->out_len >= at && load_be(run->out, 8) == NBD_MAGIC);
    while (at + NBD_REPLY_BYTES <= run->out_len && load_be(run->out + at, 8) == NBD_REPLY_MAGIC)
        at += NBD_REPLY_BYTES + (size_t)load_be(run->out + at + 16, 4);
    /* NBD_OPT_EXPORT_NAME is answered without a header. */
    FUZZ_REQUIRE(at == run->out_len || run->result == NBD_HANDSHAKE_CHOSEN);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct run whole, bytes;

    shake(&whole, data, size, size);
    shake(&bytes, data, size, 1);
    require_replies(&whole);
    FUZZ_REQUIRE(whole.result == bytes.result && whole.used == bytes.used);
    FUZZ_REQUIRE(whole.out_len == bytes.out_len);
    FUZZ_REQUIRE(memcmp(whole.out, bytes.out, whole.out_len) == 0);
    FUZZ_REQUIRE(whole.result != NBD_HANDSHAKE_CHOSEN || whole.end.chosen < ARRAY_SIZE(exports));
    return 0;
}

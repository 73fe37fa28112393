/* SPDX-License-Identifier: Apache-2.0 */
#include "../lib/nbd_harness.h"
#include "format/nbd.h"
#include "format/nbd_bytes.h"
#include "fuzz.h"

/*
 * All that a client sends, from its first byte on, through a whole connection. The first byte of
 * the input is the seed of everything that chance decides.
 */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct harness h;

    if (size == 0)
        return 0;
    harness_init(&h, data[0]);
    h.in = data + 1;
    h.in_left = size - 1;
    h.stuck = data[0] == 255;
    harness_settle(&h);
    if (!h.stuck) {
        /* Whatever came, the greeting went out first, and at the end nothing is under way. */
        FUZZ_REQUIRE(h.out.len >= NBD_GREETING_BYTES);
        FUZZ_REQUIRE(load_be(h.out.data, 8) == NBD_MAGIC);
        FUZZ_REQUIRE(h.pending_count == 0);
        FUZZ_REQUIRE(h.in_left == 0 || nbd_conn_state(h.conn) == NBD_CONN_OVER);
        h.eof = true;
        harness_settle(&h);
        FUZZ_REQUIRE(nbd_conn_state(h.conn) == NBD_CONN_OVER);
    }
    harness_finish(&h);
    return 0;
}

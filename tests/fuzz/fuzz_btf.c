/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "format/btf.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct btf_tracepoint event;
    int r = btf_tracepoint(data, size, "balance_dirty_pages", &event);

    FUZZ_REQUIRE(r == 0 || r == -ENOENT || r == -EBADMSG);
    if (r < 0)
        return 0;
    FUZZ_REQUIRE(event.count <= BTF_TRACEPOINT_MAX);
    for (size_t i = 0; i < event.count; i++)
        FUZZ_REQUIRE(event.args[i].integer_bytes <= 8);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>

#include "format/trace_format.h"
#include "fuzz.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct trace_field field = {0};
    uint32_t id = 0;
    int r = trace_format_decode(data, size, "pause", &id, &field);

    FUZZ_REQUIRE(r == 0 || r == -ENOENT || r == -EBADMSG);
    if (r == 0)
        FUZZ_REQUIRE(field.offset < 1000000000 && field.bytes < 1000000000 && id < 1000000000);
    return 0;
}

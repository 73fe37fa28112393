/* SPDX-License-Identifier: Apache-2.0 */
#include <string.h>

#include "fuzz.h"
#include "observe/accept.h"

/* Any bytes: weights stay weights, and two fields, one after the other, are one with a comma. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    const char *field = (const char *)data;
    const char *comma = memchr(data, ',', size);
    size_t first = comma && !memchr(data, '"', size) ? (size_t)(comma - field) : size;
    struct accept whole = {0}, parts = {0};

    accept_add(&whole, field, size);
    FUZZ_REQUIRE(whole.protobuf >= 0 && whole.protobuf <= 1000);
    FUZZ_REQUIRE(whole.text >= 0 && whole.text <= 1000);
    FUZZ_REQUIRE(accept_wants_protobuf(&whole) == (whole.protobuf > whole.text));
    accept_add(&parts, field, first);
    if (first < size)
        accept_add(&parts, field + first + 1, size - first - 1);
    FUZZ_REQUIRE(memcmp(&whole, &parts, sizeof(whole)) == 0);
    return 0;
}

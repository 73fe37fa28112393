/* SPDX-License-Identifier: Apache-2.0 */
#include "fuzz_header.h"

/* Any input is refused with a reason, or is a header that can be written and read again. */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    fuzz_header_one(data, size);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "format/firecracker.h"
#include "fuzz.h"

static void require_line(const char *text, size_t cap)
{
    size_t len = strnlen(text, cap);

    FUZZ_REQUIRE(len < cap);
    for (size_t i = 0; i < len; i++)
        FUZZ_REQUIRE(text[i] >= ' ' && text[i] <= '~');
}

/* The same bytes as the answer to GET /version, as an error's body, and as a version. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char version[FIRECRACKER_VERSION_BYTES] = "untouched";
    char fault[FIRECRACKER_FAULT_BYTES];
    char text[256];
    int r = firecracker_decode_version(data, size, version, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EPROTO && e.code == r && e.text[0] != '\0'));
    require_line(version, sizeof(version));
    if (r < 0)
        FUZZ_REQUIRE(strcmp(version, "untouched") == 0);
    else
        FUZZ_REQUIRE(firecracker_reads(version, version) == FIRECRACKER_READS);
    require_line(firecracker_decode_fault(data, size, fault), sizeof(fault));
    size = size < sizeof(text) ? size : sizeof(text) - 1;
    memcpy(text, data, size);
    text[size] = '\0';
    FUZZ_REQUIRE(firecracker_reads(text, text) == FIRECRACKER_READS);
    FUZZ_REQUIRE(firecracker_reads("1.12.0", text) == firecracker_reads(text, "1.12.0"));
    return 0;
}

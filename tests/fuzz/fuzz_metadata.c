/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include <jansson.h>

#include "format/metadata.h"
#include "fuzz.h"

static void require_same_vmm(const struct metadata_vmm *a, const struct metadata_vmm *b)
{
    FUZZ_REQUIRE(a->kind == b->kind && a->arg_count == b->arg_count);
    FUZZ_REQUIRE(!a->version == !b->version);
    FUZZ_REQUIRE(!a->version || strcmp(a->version, b->version) == 0);
    for (size_t i = 0; i < a->arg_count; i++)
        FUZZ_REQUIRE(strcmp(a->args[i], b->args[i]) == 0);
}

static void require_same_prefetch(const struct metadata_prefetch *a,
                                  const struct metadata_prefetch *b)
{
    FUZZ_REQUIRE(a->count == b->count);
    if (a->count == 0)
        return;
    FUZZ_REQUIRE(a->block_bytes == b->block_bytes && !a->access == !b->access);
    FUZZ_REQUIRE(memcmp(a->indices, b->indices, a->count * sizeof(*a->indices)) == 0);
    FUZZ_REQUIRE(!a->access || memcmp(a->access, b->access, a->count) == 0);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct metadata *m CLEANUP_METADATA = NULL, *again CLEANUP_METADATA = NULL;
    struct buf b CLEANUP_BUF = {0};
    int r = metadata_decode(data, size, &m, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EBADMSG && !m && e.code == r && e.text[0] != '\0'));
    if (r < 0)
        return 0;
    FUZZ_REQUIRE(metadata_encode(m, &b, &e) == 0);
    FUZZ_REQUIRE(metadata_decode(b.data, b.len, &again, &e) == 0);
    FUZZ_REQUIRE(m->version == again->version && m->memory_bytes == again->memory_bytes);
    FUZZ_REQUIRE(m->page_bytes == again->page_bytes);
    require_same_vmm(&m->vmm, &again->vmm);
    require_same_prefetch(&m->prefetch, &again->prefetch);
    FUZZ_REQUIRE(!m->foreign == !again->foreign);
    FUZZ_REQUIRE(!m->foreign || json_equal(m->foreign, again->foreign));
    return 0;
}

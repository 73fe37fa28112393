/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <string.h>

#include "format/manifest.h"
#include "fuzz.h"

static void require_same(const struct manifest *a, const struct manifest *b)
{
    FUZZ_REQUIRE(uuid_compare(&a->build, &b->build) == 0);
    FUZZ_REQUIRE(a->has_parent == b->has_parent && uuid_compare(&a->parent, &b->parent) == 0);
    FUZZ_REQUIRE(a->created_s == b->created_s && a->object_count == b->object_count);
    for (size_t i = 0; i < a->object_count; i++) {
        const struct manifest_object *x = &a->objects[i], *y = &b->objects[i];

        FUZZ_REQUIRE(strcmp(x->name, y->name) == 0 && strcmp(x->sums, y->sums) == 0);
        FUZZ_REQUIRE(object_name_valid(x->name) && manifest_find(a, x->name) == x);
        FUZZ_REQUIRE(x->size_bytes == y->size_bytes && x->codec == y->codec);
        FUZZ_REQUIRE(x->uncompressed_bytes == y->uncompressed_bytes);
        FUZZ_REQUIRE(memcmp(x->sha256, y->sha256, sizeof(x->sha256)) == 0);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct manifest *m CLEANUP_MANIFEST = NULL, *again CLEANUP_MANIFEST = NULL;
    struct buf b CLEANUP_BUF = {0};
    int r = manifest_decode(data, size, &m, &e);

    FUZZ_REQUIRE(r == 0 || (r == -EBADMSG && !m && e.code == r && e.text[0] != '\0'));
    if (r < 0)
        return 0;
    FUZZ_REQUIRE(manifest_encode(m, &b, &e) == 0);
    FUZZ_REQUIRE(manifest_decode(b.data, b.len, &again, &e) == 0);
    require_same(m, again);
    return 0;
}

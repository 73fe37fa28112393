/* SPDX-License-Identifier: Apache-2.0 */
#include "image/granules.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/bytes.h"
#include "base/error.h"
#include "format/manifest.h"
#include "format/sums.h"
#include "image/build.h"
#include "store/store.h"

/* The page says more of where the damage is than a checksum over all of them: it is asked first. */
static int decode(const struct manifest_object *object, const struct buf *bytes, uint64_t u_bytes,
                  uint64_t *ret_sums, struct thaw_error *e)
{
    uint64_t pages = sums_page_count(u_bytes);

    if (bytes->len != sums_object_bytes(u_bytes))
        return err_set(e, -EBADMSG, "%zu bytes stored, the sums of %llu bytes of data take %llu",
                       bytes->len, (unsigned long long)u_bytes,
                       (unsigned long long)sums_object_bytes(u_bytes));
    for (uint64_t k = 0; k < pages; k++) {
        int r = sums_page_decode(bytes->data + k * SUMS_PAGE_BYTES, (uint32_t)k,
                                 ret_sums + k * SUMS_PER_PAGE, e);

        if (r < 0) {
            err_wrap(e, "page %" PRIu64 " at byte %" PRIu64, k, k * SUMS_PAGE_BYTES);
            return r;
        }
    }
    return build_object_check(object, bytes, e);
}

int granule_sums_load(struct store *s, const struct uuid *build, const struct manifest_object *sums,
                      uint64_t u_bytes, uint64_t **ret, struct thaw_error *e)
{
    uint64_t *numbers CLEANUP_FREE = NULL;
    struct buf bytes CLEANUP_BUF = {0};
    char id[UUID_TEXT_BYTES];
    int r = store_get(s, build, sums->name, sums_object_bytes(u_bytes), &bytes, e);

    if (r == 0) {
        numbers = calloc(sums_page_count(u_bytes) * SUMS_PER_PAGE + 1, sizeof(*numbers));
        r = numbers ? decode(sums, &bytes, u_bytes, numbers, e)
                    : err_set(e, -ENOMEM, "no memory for its sums");
    }
    if (r < 0) {
        err_wrap(e, "build %s: %s", uuid_format(build, id), sums->name);
        return r;
    }
    *ret = TAKE_PTR(numbers);
    return 0;
}

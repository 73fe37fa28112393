/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int sums_table_init(struct sums_table *t, uint64_t size_bytes)
{
    t->granules = sums_granule_count(size_bytes);
    if (t->granules == 0)
        return 0;
    t->sums = calloc(t->granules, sizeof(*t->sums));
    t->pages = calloc(sums_page_count(size_bytes), sizeof(*t->pages));
    return t->sums && t->pages ? 0 : -ENOMEM;
}

void sums_table_finish(struct sums_table *t)
{
    store_object_close(t->object);
    free(t->sums);
    free(t->pages);
}

bool sums_table_loaded(const struct sums_table *t, uint32_t granule)
{
    /* Acquire pairs with the release in sums_table_find(). */
    return atomic_load_explicit(&t->pages[granule / SUMS_PER_PAGE], memory_order_acquire) ==
           SUMS_LOADED;
}

int sums_table_find(struct sums_table *t, struct flight *f, const uint64_t **ret)
{
    uint32_t page = f->first / SUMS_PER_PAGE;
    uint64_t start = (uint64_t)page * SUMS_PER_PAGE;
    uint8_t state = SUMS_MISSING;
    int r;

    if (sums_table_loaded(t, f->first)) {
        *ret = &t->sums[f->first];
        return 0;
    }
    if (f->sums_result != SUMS_PAGE_BYTES)
        return f->sums_result < 0 ? (int)f->sums_result : -EBADMSG;
    r = sums_page_decode(f->sums_page, page, f->sums_decoded, NULL);
    if (r < 0)
        return r;
    /* One flight stores the page; another that has read it too uses its own copy meanwhile. */
    if (atomic_compare_exchange_strong_explicit(&t->pages[page], &state, SUMS_STORING,
                                                memory_order_relaxed, memory_order_relaxed)) {
        memcpy(&t->sums[start], f->sums_decoded,
               MIN(SUMS_PER_PAGE, t->granules - start) * sizeof(*t->sums));
        atomic_store_explicit(&t->pages[page], SUMS_LOADED, memory_order_release);
    }
    *ret = &f->sums_decoded[f->first - start];
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/regions.h"

#include <errno.h>
#include <stdlib.h>

#include "base/error.h"
#include "format/handover.h"

static int by_base(const void *a, const void *b)
{
    const struct region *x = a, *y = b;

    return (x->base.v > y->base.v) - (x->base.v < y->base.v);
}

static int by_offset(const void *a, const void *b)
{
    const struct region *x = a, *y = b;

    return (x->offset.v > y->offset.v) - (x->offset.v < y->offset.v);
}

/*
 * The state of a page is kept by its offset: one page cannot be in two places. And a VMM that hands
 * over less than all has been given less memory than the VM had that the build was made of: what it
 * resumes would lack the rest of its memory.
 */
static int check_cover(struct region *list, size_t count, uint64_t image_bytes,
                       struct thaw_error *e)
{
    uint64_t covered_to = 0;
    size_t i;

    qsort(list, count, sizeof(*list), by_offset);
    for (i = 0; i < count && list[i].offset.v == covered_to; i++)
        covered_to += list[i].size_bytes;
    if (i < count && list[i].offset.v < covered_to)
        return err_set(e, -EPROTO, "two of the VMM's regions hold byte %llu of the build's memory",
                       (unsigned long long)list[i].offset.v);
    if (covered_to < image_bytes)
        return err_set(e, -EPROTO,
                       "none of the VMM's regions holds byte %llu of the build's memory, which has "
                       "%llu bytes; is it the right build?",
                       (unsigned long long)covered_to, (unsigned long long)image_bytes);
    return 0;
}

int regions_init(struct regions *r, const struct handover *h, uint64_t image_bytes,
                 struct thaw_error *e)
{
    struct region *list = calloc(h->region_count, sizeof(*list));

    if (!list)
        return err_set(e, -ENOMEM, "no memory for %zu regions", h->region_count);
    for (size_t i = 0; i < h->region_count; i++) {
        const struct handover_region *from = &h->regions[i];

        if (from->offset.v > image_bytes || from->size_bytes > image_bytes - from->offset.v) {
            free(list);
            return err_set(e, -EPROTO,
                           "the VMM's region %zu (offset %llu, %llu bytes) does not fit the "
                           "build's memory of %llu bytes; is it the right build?",
                           i, (unsigned long long)from->offset.v,
                           (unsigned long long)from->size_bytes, (unsigned long long)image_bytes);
        }
        list[i] = (struct region){from->base, from->size_bytes, from->offset};
    }
    if (check_cover(list, h->region_count, image_bytes, e) < 0) {
        free(list);
        return -EPROTO;
    }
    qsort(list, h->region_count, sizeof(*list), by_base);
    *r = (struct regions){.list = list, .count = h->region_count};
    return 0;
}

void regions_finish(struct regions *r)
{
    free(r->list);
    *r = (struct regions){0};
}

const struct region *regions_find(const struct regions *r, struct host_addr addr)
{
    size_t low = 0, high = r->count;

    while (low < high) {
        size_t mid = low + (high - low) / 2;
        const struct region *at = &r->list[mid];

        if (addr.v < at->base.v)
            high = mid;
        else if (addr.v - at->base.v >= at->size_bytes)
            low = mid + 1;
        else
            return at;
    }
    return NULL;
}

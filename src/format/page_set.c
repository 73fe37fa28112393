/* SPDX-License-Identifier: Apache-2.0 */
#include "format/page_set.h"

#include <errno.h>
#include <stdlib.h>

int page_set_add(struct page_set *s, uint32_t start, uint32_t pages)
{
    struct page_range *last = s->count > 0 ? &s->ranges[s->count - 1] : NULL;

    if (pages == 0)
        return 0;
    if (pages > UINT32_MAX - start)
        return -EOVERFLOW;
    if (last && start < last->start + last->pages)
        return -EINVAL;
    if (last && start == last->start + last->pages) {
        last->pages += pages;
        return 0;
    }
    if (s->count == s->cap) {
        size_t cap = s->cap ? s->cap * 2 : 16;
        void *grown = reallocarray(s->ranges, cap, sizeof(*s->ranges));

        if (!grown)
            return -ENOMEM;
        s->ranges = grown;
        s->cap = cap;
    }
    s->ranges[s->count++] = (struct page_range){.start = start, .pages = pages};
    return 0;
}

uint64_t page_set_pages(const struct page_set *s)
{
    uint64_t pages = 0;

    for (size_t i = 0; i < s->count; i++)
        pages += s->ranges[i].pages;
    return pages;
}

void page_set_finish(struct page_set *s)
{
    free(s->ranges);
    *s = (struct page_set){0};
}

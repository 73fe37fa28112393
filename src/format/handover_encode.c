/* SPDX-License-Identifier: Apache-2.0 */
#include "format/handover.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

/* Only libc here: a preload library that must not drag more into its VMM links this file. */

struct text {
    char *at;
    size_t left;
    bool full;
};

[[gnu::format(printf, 2, 3)]] static void text_add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    int n;

    if (t->full)
        return;
    va_start(ap, fmt);
    n = vsnprintf(t->at, t->left, fmt, ap);
    va_end(ap);
    if (n < 0 || (size_t)n >= t->left) {
        t->full = true;
        return;
    }
    t->at += n;
    t->left -= (size_t)n;
}

int handover_encode(const struct handover_region *regions, size_t region_count, uint64_t page_bytes,
                    char *ret_text, size_t cap)
{
    struct text t = {.at = ret_text, .left = cap};

    text_add(&t, "[");
    for (size_t i = 0; i < region_count; i++) {
        const struct handover_region *r = &regions[i];

        /* page_size_kib holds bytes; Firecracker before 1.12 sent nothing else. */
        text_add(&t,
                 "%s{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64
                 ",\"page_size\":%" PRIu64 ",\"page_size_kib\":%" PRIu64 "}",
                 i > 0 ? "," : "", r->base.v, r->size_bytes, r->offset.v, page_bytes, page_bytes);
    }
    text_add(&t, "]");
    return t.full ? -ENOSPC : (int)(t.at - ret_text);
}

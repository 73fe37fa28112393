/* SPDX-License-Identifier: Apache-2.0 */

/* Huge pages for the caches of a host: what was asked for, and telling when it is not to be had. */
#include <errno.h>
#include <stdio.h>

#include "base/error.h"
#include "lib/host.h"

int host_huge_init(struct thaw_host *h, const struct thaw_host_options *o, struct thaw_error *e)
{
    h->huge_asked = o->cache_huge_pages;
    if (o->cache_huge_pages && huge_pages_parse(o->cache_huge_pages, &h->huge) < 0)
        return err_set(e, -EINVAL, "there are no huge pages '%s'; there are off, thp and hugetlb",
                       o->cache_huge_pages);
    return 0;
}

void host_huge_check(const struct thaw_host *h, enum cache_backing backing)
{
    char why[HUGE_PAGES_WHY_BYTES], text[HUGE_PAGES_WHY_BYTES + 64];
    bool missing = h->huge_asked && h->huge != HUGE_PAGES_OFF;

    if (missing && backing != CACHE_BACKING_TIERED)
        snprintf(why, sizeof(why), "caches of backing %s have none; use tiered",
                 cache_backing_name(backing));
    else if (missing)
        missing = huge_pages_missing("", h->huge, h->budget, why);
    if (!missing || !h->warn)
        return;
    snprintf(text, sizeof(text), "huge pages: asked for, not to be had: %s", why);
    h->warn(h->warn_arg, text);
}

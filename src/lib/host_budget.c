/* SPDX-License-Identifier: Apache-2.0 */

/* How much memory the caches of a host may take. */
#include <stdio.h>

#include "base/size.h"
#include "kernel/memory_limit.h"
#include "lib/host.h"

/* It is no error: what is charged to a cgroup may change, and swap may be counted apart. */
static void tell_if_too_much(const struct thaw_host_options *o, const struct memory_limit *limit)
{
    char budget[SIZE_TEXT_BYTES], left[SIZE_TEXT_BYTES], text[PATH_MAX + 256];

    if (o->memory_budget <= limit->left_bytes || !o->warn)
        return;
    snprintf(text, sizeof(text),
             "a memory budget of %s is more than the %s that %s leaves: the kernel may kill thaw "
             "before the budget is spent; lower the one or raise the other",
             size_format(o->memory_budget, budget), size_format(limit->left_bytes, left),
             limit->limiter);
    o->warn(o->warn_arg, text);
}

void host_budget_init(struct thaw_host *h, const struct thaw_host_options *o)
{
    struct memory_limit limit;

    memory_limit_read("", &limit);
    h->budget = o->memory_budget ? o->memory_budget : cache_budget_default(&limit);
    tell_if_too_much(o, &limit);
}

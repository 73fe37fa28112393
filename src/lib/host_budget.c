/* SPDX-License-Identifier: Apache-2.0 */

/* How much memory the caches of a host may take: what the flag says, else what was asked for last,
 * else what it was opened with. */
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

#include "base/error.h"
#include "base/size.h"
#include "base/units.h"
#include "flags/flags.h"
#include "kernel/memory_limit.h"
#include "lib/host.h"

[[gnu::format(printf, 2, 3)]] static void tell(struct thaw_host *h, const char *fmt, ...)
{
    char text[PATH_MAX + 512];
    va_list ap;

    if (!h->warn)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    h->warn(h->warn_arg, text);
}

/* It is no error: what is charged to a cgroup may change, and swap may be counted apart. */
static void tell_if_too_much(struct thaw_host *h, const struct memory_limit *limit, uint64_t taken)
{
    char budget[SIZE_TEXT_BYTES], left[SIZE_TEXT_BYTES];

    if (h->told_of_cgroup || h->budget <= taken || h->budget - taken <= limit->left_bytes)
        return;
    h->told_of_cgroup = true;
    tell(h,
         "a memory budget of %s is more than the %s that %s leaves: the kernel may kill thaw "
         "before the budget is spent; lower the one or raise the other",
         size_format(h->budget, budget), size_format(limit->left_bytes + taken, left),
         limit->limiter);
}

void host_budget_init(struct thaw_host *h, const struct thaw_host_options *o)
{
    struct memory_limit limit;

    memory_limit_read("", &limit);
    h->start_budget = o->memory_budget ? o->memory_budget : cache_budget_default(&limit);
    h->budget = h->start_budget;
    tell_if_too_much(h, &limit, 0);
}

/* CACHE_BUDGET_MIN or more. */
static void set_budget(struct thaw_host *h, uint64_t bytes)
{
    struct memory_limit limit;
    uint64_t taken = 0;

    if (bytes == h->budget)
        return;
    h->budget = bytes;
    for (size_t i = 0; i < CACHE_BACKINGS; i++) {
        struct cache_set *set = host_set(h, (enum cache_backing)i);

        if (!set)
            continue;
        (void)!cache_set_budget(set, bytes); /* fails for what is too small only */
        taken += cache_set_counters(set).charged_bytes;
    }
    memory_limit_read("", &limit);
    tell_if_too_much(h, &limit, taken);
}

static uint64_t unless_flag(const struct thaw_host *h)
{
    return h->asked_budget ? h->asked_budget : h->start_budget;
}

void host_budget_follow(struct thaw_host *h)
{
    uint64_t flag = flags_size(h->flags, FLAG_MEMORY_BUDGET);
    char told[SIZE_TEXT_BYTES], least[SIZE_TEXT_BYTES], now[SIZE_TEXT_BYTES];

    if (flag == 0 || flag >= CACHE_BUDGET_MIN) {
        h->refused_budget = 0;
        set_budget(h, flag ? flag : unless_flag(h));
    } else if (flag != h->refused_budget) {
        h->refused_budget = flag;
        tell(h, "flag memory-budget (%s): %s is too small, the least is %s; it stays %s",
             flags_source_text(h->flags, FLAG_MEMORY_BUDGET), size_format(flag, told),
             size_format(CACHE_BUDGET_MIN, least), size_format(h->budget, now));
    }
}

int thaw_host_set_memory_budget(struct thaw_host *h, uint64_t bytes, struct thaw_error *e)
{
    char told[SIZE_TEXT_BYTES], least[SIZE_TEXT_BYTES];

    if (bytes > 0 && bytes < CACHE_BUDGET_MIN)
        return err_set(e, -EINVAL, "a memory budget of %s is too small: the least is %s",
                       size_format(bytes, told), size_format(CACHE_BUDGET_MIN, least));
    h->asked_budget = bytes;
    if (flags_size(h->flags, FLAG_MEMORY_BUDGET) <
        CACHE_BUDGET_MIN) /* it says nothing that holds */
        set_budget(h, unless_flag(h));
    return 0;
}

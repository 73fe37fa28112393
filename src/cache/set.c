/* SPDX-License-Identifier: Apache-2.0 */

/* A set of caches: where their files are, and the accounts of what they take. */
#include "cache/set_internal.h"

#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "cache/folder.h"
#include "cache/pool.h"
#include "cache/tier.h"
#include "kernel/memory_limit.h"

#define SET_ASIDE (PASSING_PLACES * GRANULE_BYTES) /* of the budget, for passing granules */

static const char *const names[CACHE_BACKINGS] = {
    [CACHE_BACKING_MEMFD] = "memfd",
    [CACHE_BACKING_FILE] = "file",
    [CACHE_BACKING_TIERED] = "tiered",
};

const char *cache_backing_name(enum cache_backing backing)
{
    return names[backing];
}

int cache_backing_parse(const char *name, enum cache_backing *ret)
{
    for (unsigned i = 0; i < CACHE_BACKINGS; i++) {
        if (strcmp(name, names[i]) == 0) {
            *ret = (enum cache_backing)i;
            return 0;
        }
    }
    return -EINVAL;
}

/* --- life --- */

static int folder_open(struct cache_set *set, const char *folder, struct thaw_error *e)
{
    char path[PATH_MAX];

    set->folder = cache_folder_open(folder, path, e);
    return MIN(set->folder, 0);
}

static uint64_t get(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

/* A kernel that does not say what is available says how much there is. */
static uint64_t available_memory(const struct memory_limit *limit)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);

    if (limit->available_bytes > 0)
        return limit->available_bytes;
    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

uint64_t cache_budget_default(const struct memory_limit *limit)
{
    uint64_t bytes = MIN(available_memory(limit) / 4, limit->left_bytes);

    return MAX(round_down(bytes, GRANULE_BYTES), CACHE_BUDGET_MIN);
}

static uint64_t budget_of(const struct cache_set_options *options)
{
    struct memory_limit limit;

    if (options->budget_bytes > 0)
        return options->budget_bytes;
    memory_limit_read("", &limit);
    return cache_budget_default(&limit);
}

static int open_tier(struct cache_set *set, const struct cache_set_options *options,
                     struct thaw_error *e)
{
    struct tier_options tier = {
        .folder = options->folder,
        .io = options->io,
        .max_bytes = options->disk_bytes,
    };

    return tier_create(&tier, &set->tier, e);
}

int cache_set_create(const struct cache_set_options *options, struct cache_set **ret,
                     struct thaw_error *e)
{
    struct cache_set *set CLEANUP_CACHE_SET = calloc(1, sizeof(*set));
    int r = 0;

    if (!set)
        return err_set(e, -ENOMEM, "no memory for the caches");
    pthread_mutex_init(&set->mu, NULL);
    pthread_mutex_init(&set->spills_mu, NULL);
    set->backing = options->backing;
    /* The pages of a file are the kernel's to take back; those of a memfd are not. */
    set->charged = options->backing == CACHE_BACKING_MEMFD;
    set->folder = -1;
    r = cache_set_budget(set, budget_of(options));
    if (r < 0)
        return err_set(e, r, "a memory budget of %llu bytes is too small: the least is %llu MiB",
                       (unsigned long long)options->budget_bytes,
                       (unsigned long long)(CACHE_BUDGET_MIN / MIB));
    if (set->backing == CACHE_BACKING_FILE)
        r = folder_open(set, options->folder, e);
    if (r < 0)
        return r;
    if (set->backing == CACHE_BACKING_TIERED)
        r = pool_create(get(&set->budget), options->huge, &set->pool);
    if (r < 0)
        return err_errno(e, r, "making the pool of the caches");
    if (set->pool && options->io)
        r = open_tier(set, options, e);
    if (r < 0)
        return r;
    *ret = TAKE_PTR(set);
    return 0;
}

void cache_set_destroy(struct cache_set *set)
{
    if (!set)
        return;
    close_fd(&set->folder);
    tier_destroy(set->tier);
    pool_destroy(set->pool);
    pthread_mutex_destroy(&set->spills_mu);
    pthread_mutex_destroy(&set->mu);
    free(set);
}

struct tier *cache_set_tier(const struct cache_set *set)
{
    return set->tier;
}

int cache_set_budget(struct cache_set *set, uint64_t bytes)
{
    if (bytes < CACHE_BUDGET_MIN)
        return -EINVAL;
    atomic_store_explicit(&set->budget, bytes, memory_order_relaxed);
    if (set->pool)
        pool_resize(set->pool, bytes);
    return 0;
}

uint64_t cache_set_give_back(struct cache_set *set, uint64_t calm_until_ns)
{
    return set->pool ? pool_give_back(set->pool, calm_until_ns) : 0;
}

struct cache_set_counters cache_set_counters(const struct cache_set *set)
{
    struct cache_set_counters c = {
        .backing = set->backing,
        .budget_bytes = get(&set->budget),
        .charged_bytes = get(&set->charged_bytes),
        .passing_bytes = get(&set->passing_bytes),
        .not_kept = get(&set->not_kept),
        .evicted = get(&set->evicted),
        .refused = get(&set->refused),
        .spilled_bytes = get(&set->spilled_bytes),
        .paced = get(&set->paced),
    };

    for (unsigned i = 0; i < CACHE_KINDS; i++)
        c.bytes[i] = get(&set->bytes[i]);
    c.bytes[CACHE_KIND_OVERLAY] -= MIN(get(&set->spilled_live), c.bytes[CACHE_KIND_OVERLAY]);
    if (set->pool) {
        struct pool_counters pool = pool_counters(set->pool);

        c.charged_bytes = pool.used_bytes;
        c.evicted = pool.evicted;
        c.given_bytes = pool.given_bytes;
    }
    return c;
}

uint64_t cache_set_huge_bytes(const struct cache_set *set)
{
    return set->pool ? pool_huge_bytes(set->pool) : 0;
}

/* --- accounts --- */

bool set_charge(struct cache_set *set, uint64_t bytes)
{
    uint64_t charged = get(&set->charged_bytes);

    if (!set->charged)
        return true;
    do {
        uint64_t limit = get(&set->budget) - SET_ASIDE;

        if (charged > limit || bytes > limit - charged)
            return false;
    } while (!atomic_compare_exchange_weak_explicit(&set->charged_bytes, &charged, charged + bytes,
                                                    memory_order_relaxed, memory_order_relaxed));
    return true;
}

void set_discharge(struct cache_set *set, uint64_t bytes)
{
    if (set->charged)
        set_count(&set->charged_bytes, -(int64_t)bytes);
}

int cache_room_take(struct cache_set *set, uint32_t granules, bool demand, struct cache_room *ret)
{
    bool kept;
    int r;

    if (set->pool) {
        uint32_t slot;

        r = pool_take(set->pool, granules, demand ? POOL_DEMAND : POOL_BACKGROUND, &slot);
        if (r > 0)
            *ret = (struct cache_room){.granules = (uint32_t)r, .slot = slot};
        return MIN(r, 0);
    }
    kept = set_charge(set, granules * GRANULE_BYTES);
    r = kept ? 0 : passing_take(set, granules, demand);
    if (r == 0)
        *ret = (struct cache_room){.granules = granules, .passing = !kept};
    return r;
}

void cache_room_put(struct cache_set *set, struct cache_room *room)
{
    if (set->pool && room->granules > 0)
        pool_put(set->pool, room->slot);
    else if (room->passing)
        passing_put(set, room->granules);
    else
        set_discharge(set, room->granules * GRANULE_BYTES);
    *room = (struct cache_room){0};
}

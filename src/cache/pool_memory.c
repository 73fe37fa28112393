/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which slots of a pool have memory: mapping it, and giving it back when the budget is lowered or
 * the host is short of memory.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/pool_internal.h"
#include "cache/segments.h"

#define GIVE_BATCH 32u /* slots whose memory is given back between two looks at the lock */

static uint64_t memory_of_the_host(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);

    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

static void *map_table(size_t bytes)
{
    void *table = mmap(NULL, bytes, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    return table == MAP_FAILED ? NULL : table;
}

/* Address space that begins where a huge page may; MAP_FAILED if there is none. */
static void *map_aligned(int fd, uint64_t bytes)
{
    char *space = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_NONE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *memory;

    if (space == MAP_FAILED)
        return MAP_FAILED;
    memory = space + (-(uintptr_t)space & (HUGE_PAGE_BYTES - 1));
    if (memory > space)
        munmap(space, (size_t)(memory - space));
    munmap(memory + bytes, HUGE_PAGE_BYTES - (size_t)(memory - space));
    return mmap(memory, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd,
                0);
}

int pool_map(struct pool *p, uint64_t bytes)
{
    void *memory;

    bytes = MAX(bytes, memory_of_the_host());
    p->slot_count = (uint32_t)MIN(bytes / GRANULE_BYTES, POOL_MOST);
    bytes = p->slot_count * GRANULE_BYTES;
    p->fd = memfd_create("thaw:pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (p->fd < 0 || ftruncate(p->fd, (off_t)bytes) < 0 ||
        fcntl(p->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    memory = map_aligned(p->fd, bytes);
    if (memory == MAP_FAILED)
        return -errno;
    p->memory = memory;
    p->slots = map_table(p->slot_count * sizeof(struct slot));
    p->segments = map_table(p->slot_count * sizeof(struct segment));
    return p->slots && p->segments ? 0 : -ENOMEM;
}

int pool_advise(const struct pool *p)
{
    return madvise(p->memory, p->slot_count * GRANULE_BYTES, MADV_HUGEPAGE) < 0 ? -errno : 0;
}

uint32_t pool_limit(const struct pool *p, uint64_t budget_bytes)
{
    return (uint32_t)MIN(budget_bytes / GRANULE_BYTES, p->slot_count);
}

void pool_unmap(struct pool *p)
{
    if (p->slots)
        munmap(p->slots, p->slot_count * sizeof(struct slot));
    if (p->segments)
        munmap(p->segments, p->slot_count * sizeof(struct segment));
    if (p->memory)
        munmap(p->memory, p->slot_count * GRANULE_BYTES);
    close_fd(&p->fd);
}

/* --- giving back --- */

static int compare_slots(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

/* Nobody takes these meanwhile, and none of them has memory afterwards. Neighbours go together. */
static void punch(const struct pool *p, uint32_t *slots, unsigned n)
{
    unsigned run;

    qsort(slots, n, sizeof(*slots), compare_slots);
    for (unsigned i = 0; i < n; i += run) {
        for (run = 1; i + run < n && slots[i + run] == slots[i] + run;)
            run++;
        (void)!fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         (off_t)(slots[i] * GRANULE_BYTES), (off_t)(run * GRANULE_BYTES));
    }
}

void pool_give_surplus(struct pool *p)
{
    uint32_t batch[GIVE_BATCH] = {0};
    unsigned n;

    do {
        mutex_lock(&p->mu);
        for (n = 0; n < GIVE_BATCH && p->surplus.count > 0; n++)
            batch[n] = pop_first(p, &p->surplus);
        p->giving += n;
        mutex_unlock(&p->mu);
        punch(p, batch, n);
        mutex_lock(&p->mu);
        for (unsigned i = 0; i < n; i++)
            push_last(p, &p->gone, batch[i]);
        p->giving -= n;
        p->live -= n;
        mutex_unlock(&p->mu);
    } while (n == GIVE_BATCH);
}

static bool give_slot_locked(struct pool *p, uint32_t slot)
{
    struct slot *s = &p->slots[slot];

    if (!s->is_free && !pool_evict_slot_locked(p, slot))
        return false;
    if (s->is_free)
        unlink_slot(p, &p->free, slot);
    s->is_free = 0;
    push_last(p, &p->surplus, slot);
    return true;
}

/* The rest of the segment of @slot, which is given back, if all of that is idle; returns how many.
 */
static uint32_t give_neighbours_locked(struct pool *p, uint32_t slot)
{
    uint32_t first = (uint32_t)round_down(slot, POOL_SEGMENT_SLOTS), n = 0;
    uint32_t end = first + POOL_SEGMENT_SLOTS;

    if (end > p->slot_count)
        return 0;
    for (uint32_t s = first; s < end; s++) {
        if (s != slot && !pool_is_idle(&p->slots[s]))
            return 0;
    }
    for (uint32_t s = first; s < end; s++)
        n += s != slot && give_slot_locked(p, s);
    return n;
}

/* One slot, or up to @most if that is a whole segment: what is free, then by the clock. Returns how
 * many; their memory is given back by pool_give_surplus(). */
static uint32_t give_some_locked(struct pool *p, uint32_t most)
{
    uint32_t s = p->free.first;

    if (s == POOL_NONE) {
        s = pool_evict_locked(p);
        if (s == POOL_NONE)
            return 0;
        push_last(p, &p->surplus, s);
    } else if (!give_slot_locked(p, s)) {
        return 0;
    }
    return 1 + (most >= POOL_SEGMENT_SLOTS ? give_neighbours_locked(p, s) : 0);
}

void pool_resize(struct pool *p, uint64_t budget_bytes)
{
    mutex_lock(&p->mu);
    p->limit = pool_limit(p, budget_bytes);
    p->calm_until_ns = 0;
    mutex_unlock(&p->mu);
    pool_shrink(p);
}

void pool_shrink(struct pool *p)
{
    uint32_t n;

    if (p->huge.fd >= 0) {
        pool_huge_give(p, UINT32_MAX, POOL_GIVE_EXCESS);
        return;
    }
    do {
        mutex_lock(&p->mu);
        for (n = 0; n < GIVE_BATCH && pool_excess_locked(p) > 0;) {
            uint32_t given = give_some_locked(p, pool_excess_locked(p));

            if (given == 0)
                break;
            n += given;
        }
        mutex_unlock(&p->mu);
        pool_give_surplus(p);
    } while (n >= GIVE_BATCH);
}

/* A quarter of what is idle; but an eighth of the budget, and the least of budgets, stays. */
static uint32_t share_locked(const struct pool *p)
{
    uint32_t live = p->live - p->surplus.count - p->giving;
    uint32_t floor = MAX(p->limit / 8, (uint32_t)(CACHE_BUDGET_MIN / GRANULE_BYTES));

    return MIN((p->free.count + p->queue.count) / 4, live > floor ? live - floor : 0);
}

/* Of a pool in hugetlb. */
static uint64_t give_small_segments(struct pool *p, uint32_t wanted)
{
    uint64_t bytes = pool_huge_give(p, wanted, POOL_GIVE_HOST) * GRANULE_BYTES;

    mutex_lock(&p->mu);
    p->given_bytes += bytes;
    mutex_unlock(&p->mu);
    return bytes;
}

uint64_t pool_give_back(struct pool *p, uint64_t calm_until_ns)
{
    uint32_t wanted, given = 0, n;

    mutex_lock(&p->mu);
    p->calm_until_ns = calm_until_ns;
    wanted = share_locked(p);
    mutex_unlock(&p->mu);
    if (p->huge.fd >= 0)
        return give_small_segments(p, wanted);
    do {
        mutex_lock(&p->mu);
        n = given < wanted ? give_some_locked(p, wanted - given) : 0;
        given += n;
        p->given_bytes += n * GRANULE_BYTES;
        mutex_unlock(&p->mu);
        pool_give_surplus(p);
    } while (n > 0);
    return given * GRANULE_BYTES;
}

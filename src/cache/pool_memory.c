/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Which slots of a pool have memory: mapping it, and giving it back when the budget is lowered or
 * the host is short of memory.
 *
 * Memory is anonymous and private, as that is the kind which hosts give transparent huge pages to
 * by default (their switch for memfds is off). In huge pages a slot is one piece to a disk instead
 * of sixteen. pool_thp.c sees to it. A segment of which a part is given back is split into small
 * pages before: else nothing would be freed until the kernel is short of memory, and khugepaged
 * could put it together again, with what was given back.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/pool_internal.h"
#include "cache/segments.h"

#define GIVE_BATCH                                                                                 \
    32u /* slots whose memory is given back between two looks at the lock, or a few                \
           more: those of a segment together */

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

/* Kernels since 5.17, if they were built with it: "[anon:thaw:pool]" in /proc/PID/maps. */
static void name_memory(const void *memory, uint64_t bytes)
{
#ifdef PR_SET_VMA
    (void)prctl(PR_SET_VMA, PR_SET_VMA_ANON_NAME, memory, bytes, "thaw:pool");
#else
    (void)memory, (void)bytes;
#endif
}

/*
 * A child must not inherit it: who of the two writes first would get a copy, and a disk may be
 * writing to the other one.
 */
static int settle_memory(char *memory, uint64_t bytes)
{
    name_memory(memory, bytes);
    (void)madvise(memory, bytes, MADV_NOHUGEPAGE); /* a kernel that has none refuses */
    return madvise(memory, bytes, MADV_DONTFORK) < 0 ? -errno : 0;
}

int pool_map_small(const struct pool *p, uint32_t first, uint32_t end)
{
    char *at = p->memory + first * GRANULE_BYTES;
    uint64_t bytes = (end - first) * GRANULE_BYTES;

    if (mmap(at, bytes, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) == MAP_FAILED)
        return -errno;
    return settle_memory(at, bytes);
}

/* Address space that begins where a huge page may; NULL if there is none. */
static char *map_aligned(uint64_t bytes)
{
    char *space = mmap(NULL, bytes + HUGE_PAGE_BYTES, PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    char *memory;

    if (space == MAP_FAILED)
        return NULL;
    memory = space + (-(uintptr_t)space & (HUGE_PAGE_BYTES - 1));
    if (memory > space)
        munmap(space, (size_t)(memory - space));
    munmap(memory + bytes, HUGE_PAGE_BYTES - (size_t)(memory - space));
    return memory;
}

/* Room for any budget, or, where the host allows no more address space than memory, for this one.
 */
static int map_slots(struct pool *p, uint64_t budget_bytes)
{
    const uint64_t wanted[] = {MAX(budget_bytes, memory_of_the_host()), budget_bytes};

    for (size_t i = 0; i < ARRAY_SIZE(wanted) && !p->memory; i++) {
        uint64_t slots = round_up(wanted[i] / GRANULE_BYTES, POOL_SEGMENT_SLOTS);

        p->slot_count = (uint32_t)MIN(slots, round_down(POOL_MOST, POOL_SEGMENT_SLOTS));
        p->memory = map_aligned(p->slot_count * GRANULE_BYTES);
    }
    return p->memory ? settle_memory(p->memory, p->slot_count * GRANULE_BYTES) : -ENOMEM;
}

/* Of a table with a byte a segment. */
static size_t segment_bytes(const struct pool *p)
{
    return p->slot_count / POOL_SEGMENT_SLOTS;
}

int pool_map(struct pool *p, uint64_t budget_bytes)
{
    int r = map_slots(p, budget_bytes);

    if (r < 0)
        return r;
    p->slots = map_table(p->slot_count * sizeof(struct slot));
    p->segments = map_table(p->slot_count * sizeof(struct segment));
    p->gone_of = map_table(segment_bytes(p));
    p->thp.advised = map_table(segment_bytes(p));
    return p->slots && p->segments && p->gone_of && p->thp.advised ? 0 : -ENOMEM;
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
    if (p->gone_of)
        munmap(p->gone_of, segment_bytes(p));
    if (p->thp.advised)
        munmap(p->thp.advised, segment_bytes(p));
    if (p->memory)
        munmap(p->memory, p->slot_count * GRANULE_BYTES);
}

/* --- giving back --- */

static int compare_slots(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;

    return (x > y) - (x < y);
}

void pool_empty_segment(struct pool *p, uint32_t first)
{
    char *at = p->memory + first * GRANULE_BYTES;

    p->thp.advised[first / POOL_SEGMENT_SLOTS] = false;
    (void)madvise(at, HUGE_PAGE_BYTES, MADV_NOHUGEPAGE);
    (void)madvise(at, HUGE_PAGE_BYTES, MADV_DONTNEED);
}

/* Slots of one segment, but not all of it. */
static void empty_part(struct pool *p, uint32_t first, uint32_t end)
{
    char *segment = p->memory + round_down(first, POOL_SEGMENT_SLOTS) * GRANULE_BYTES;
    char *at = p->memory + first * GRANULE_BYTES;
    uint64_t bytes = (end - first) * GRANULE_BYTES;

    if (p->transparent) {
        p->thp.advised[first / POOL_SEGMENT_SLOTS] = false;
        (void)madvise(segment, HUGE_PAGE_BYTES, MADV_NOHUGEPAGE);
        (void)madvise(at, bytes, MADV_COLD); /* of a part of a huge page: splits it */
    }
    (void)madvise(at, bytes, MADV_DONTNEED);
}

/* Nobody takes these slots meanwhile, and none of them has memory afterwards. */
static void empty_run(struct pool *p, uint32_t first, uint32_t end)
{
    while (first < end) {
        uint32_t next = (uint32_t)round_down(first, POOL_SEGMENT_SLOTS) + POOL_SEGMENT_SLOTS;

        next = MIN(next, end);
        if (next - first < POOL_SEGMENT_SLOTS)
            empty_part(p, first, next);
        else
            pool_empty_segment(p, first);
        first = next;
    }
}

/* Neighbours go together. */
static void empty_all(struct pool *p, uint32_t *slots, unsigned n)
{
    unsigned run;

    qsort(slots, n, sizeof(*slots), compare_slots);
    for (unsigned i = 0; i < n; i += run) {
        for (run = 1; i + run < n && slots[i + run] == slots[i] + run;)
            run++;
        empty_run(p, slots[i], slots[i] + run);
    }
}

/* Whether the first of the surplus comes into a batch of @n, of which @last is the last. */
static bool batch_takes_locked(const struct pool *p, unsigned n, uint32_t last)
{
    if (p->surplus.count == 0 || n == GIVE_BATCH + POOL_SEGMENT_SLOTS)
        return false;
    return n < GIVE_BATCH || p->surplus.first / POOL_SEGMENT_SLOTS == last / POOL_SEGMENT_SLOTS;
}

void pool_give_surplus(struct pool *p)
{
    uint32_t batch[GIVE_BATCH + POOL_SEGMENT_SLOTS] = {0};
    unsigned n;
    LOCK_SCOPE(&p->thp.mu);

    do {
        mutex_lock(&p->mu);
        for (n = 0; batch_takes_locked(p, n, n ? batch[n - 1] : 0); n++)
            batch[n] = pop_first(p, &p->surplus);
        p->giving += n;
        mutex_unlock(&p->mu);
        empty_all(p, batch, n);
        mutex_lock(&p->mu);
        for (unsigned i = 0; i < n; i++)
            push_gone(p, batch[i]);
        p->giving -= n;
        p->live -= n;
        mutex_unlock(&p->mu);
    } while (n >= GIVE_BATCH);
}

static bool give_slot_locked(struct pool *p, uint32_t slot)
{
    struct slot *s = &p->slots[slot];

    if (!s->is_free && !pool_evict_slot_locked(p, slot))
        return false;
    if (s->is_free)
        unlink_slot(p, &p->free, slot);
    s->is_free = 0;
    push_surplus(p, slot);
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

static bool segment_is_free(const struct pool *p, uint32_t slot)
{
    uint32_t first = (uint32_t)round_down(slot, POOL_SEGMENT_SLOTS), s = first;

    while (s < first + POOL_SEGMENT_SLOTS && p->slots[s].is_free)
        s++;
    return s == first + POOL_SEGMENT_SLOTS;
}

/* What is free, then by the clock. But what is free of a huge page that is otherwise in use comes
 * last: the rest of it would go, too, and is what came last. */
static uint32_t give_one_locked(struct pool *p)
{
    uint32_t free = p->transparent ? p->free.last : p->free.first, s = POOL_NONE;

    if (free == POOL_NONE || (p->transparent && !segment_is_free(p, free)))
        s = pool_evict_locked(p);
    if (s != POOL_NONE)
        push_surplus(p, s);
    else if (free != POOL_NONE && give_slot_locked(p, free))
        s = free;
    return s;
}

/* One slot, or a whole segment: up to @most, but a segment that may be a huge page is rather given
 * back as one. Returns how many; their memory is given back by pool_give_surplus(). */
static uint32_t give_some_locked(struct pool *p, uint32_t most)
{
    uint32_t s = give_one_locked(p);

    if (s == POOL_NONE)
        return 0;
    return 1 + (most >= POOL_SEGMENT_SLOTS || p->transparent ? give_neighbours_locked(p, s) : 0);
}

void pool_resize(struct pool *p, uint64_t budget_bytes)
{
    mutex_lock(&p->mu);
    p->limit = pool_limit(p, budget_bytes);
    p->calm_until_ns = 0;
    pool_thp_look_locked(p);
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
    uint32_t quarter = (p->free.count + p->queue.count) / 4;

    if (p->transparent)
        quarter = (uint32_t)round_up(quarter, POOL_SEGMENT_SLOTS);
    return MIN(quarter, live > floor ? live - floor : 0);
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

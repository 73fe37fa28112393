/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A pool in huge pages of the host's pool (hugetlb).
 *
 * All of its address space is mapped from a memfd at first, whose pages are allocated only
 * here, by fallocate(2), a segment at a time before any of its slots is used: so no access can find
 * the host's pool empty, which would be SIGBUS. A new segment's slots have memory, and are free.
 * Where less than a segment is left of the budget, one is mapped in small pages; its
 * slots have no memory yet, as those that were given back. When the host's pool is empty, all of
 * the rest of the address space is, and the pool goes on as any other.
 *
 *     0 ......................... fresh ......................... huge.end
 *     segments, each in one huge    huge.fd, without memory; or,
 *     page or in small ones         once huge.over, small pages
 *
 * A huge page cannot be given back in part. So a pool that has any gives back whole segments that
 * are idle, by their addresses and not by the clock; what comes back there is small pages.
 */
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "cache/pool_internal.h"

#define SEGMENT_BYTES (POOL_SEGMENT_SLOTS * GRANULE_BYTES)

static_assert(SEGMENT_BYTES == HUGE_PAGE_BYTES, "a segment is a huge page");

/* --- life --- */

void pool_huge_init(struct pool *p)
{
    p->huge.fd = -1;
    pthread_mutex_init(&p->huge.mu, NULL);
}

static int map_huge(const struct pool *p, int fd, uint32_t end)
{
    return mmap(p->memory, end * GRANULE_BYTES, PROT_READ | PROT_WRITE,
                MAP_SHARED | MAP_NORESERVE | MAP_FIXED, fd, 0) == MAP_FAILED
               ? -errno
               : 0;
}

int pool_huge_open(struct pool *p)
{
    uint32_t end = (uint32_t)round_down(p->slot_count, POOL_SEGMENT_SLOTS);
    int fd CLEANUP_FD =
        memfd_create("thaw:huge", MFD_CLOEXEC | MFD_ALLOW_SEALING | MFD_HUGETLB | MFD_HUGE_2MB);

    if (fd < 0 || ftruncate(fd, (off_t)(end * GRANULE_BYTES)) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    p->huge.segments = calloc(end / POOL_SEGMENT_SLOTS, sizeof(*p->huge.segments));
    if (!p->huge.segments || map_huge(p, fd, end) < 0)
        return -ENOMEM;
    p->huge.end = end;
    p->huge.fd = TAKE_FD(fd);
    return 0;
}

void pool_huge_finish(struct pool *p)
{
    close_fd(&p->huge.fd);
    free(p->huge.segments);
    pthread_mutex_destroy(&p->huge.mu);
}

/* --- growing --- */

bool pool_fresh_is_small(const struct pool *p)
{
    return p->huge.fd < 0 || p->huge.over || p->fresh >= p->huge.end;
}

/* What has no memory, but may have, is taken first: small pages that were given back. */
static bool is_wanted_locked(const struct pool *p, uint32_t slots)
{
    if (p->free.count + p->gone.count >= slots || pool_fresh_is_small(p))
        return false;
    return p->huge.making || p->live + p->gone.count < p->limit;
}

static void add_huge_locked(struct pool *p)
{
    p->huge.segments[p->fresh / POOL_SEGMENT_SLOTS] = true;
    p->huge.count++;
    p->live += POOL_SEGMENT_SLOTS;
    for (uint32_t i = 0; i < POOL_SEGMENT_SLOTS; i++) {
        p->slots[p->fresh].is_free = 1;
        push_last(p, &p->free, p->fresh++);
    }
}

static void add_small_locked(struct pool *p)
{
    for (uint32_t i = 0; i < POOL_SEGMENT_SLOTS; i++)
        push_gone(p, p->fresh++);
}

/* Memory for the segment at `fresh`: 0, or -errno of a host that has none. */
static int allocate(const struct pool *p)
{
    int r;

    do
        r = fallocate(p->huge.fd, 0, (off_t)(p->fresh * GRANULE_BYTES), (off_t)SEGMENT_BYTES);
    while (r < 0 && errno == EINTR);
    return r < 0 ? -errno : 0;
}

/* Nobody else uses what is fresh while `making` is set: who would need it waits here, too. */
static void make_segment(struct pool *p, uint32_t slots)
{
    bool wanted, fits, over, excess;
    int r = 0;
    LOCK_SCOPE(&p->huge.mu);

    mutex_lock(&p->mu);
    wanted = p->huge.making = is_wanted_locked(p, slots);
    fits = p->live + POOL_SEGMENT_SLOTS <= p->limit;
    mutex_unlock(&p->mu);
    if (!wanted)
        return;
    over = fits && allocate(p) < 0;
    if (over)
        r = pool_map_small(p, p->fresh, p->huge.end);
    else if (!fits) /* the last of the budget */
        r = pool_map_small(p, p->fresh, p->fresh + POOL_SEGMENT_SLOTS);
    mutex_lock(&p->mu);
    p->huge.making = false;
    p->huge.over = over || r < 0;
    if (r < 0)
        p->fresh = p->slot_count; /* what has no memory must not be used: it stays this large */
    else if (!over)
        (fits ? add_huge_locked : add_small_locked)(p);
    excess = pool_excess_locked(p) > 0; /* the budget was lowered meanwhile */
    mutex_unlock(&p->mu);
    if (excess)
        pool_huge_give(p, UINT32_MAX, POOL_GIVE_EXCESS);
}

void pool_huge_grow_locked(struct pool *p, uint32_t slots)
{
    while (p->huge.fd >= 0 && is_wanted_locked(p, slots)) {
        mutex_unlock(&p->mu);
        make_segment(p, slots);
        mutex_lock(&p->mu);
    }
}

/* --- giving back --- */

/* Frees all of a segment if nobody uses any of it; what was freed stays free if a pin comes. */
static bool clear_segment_locked(struct pool *p, uint32_t first)
{
    uint32_t end = first + POOL_SEGMENT_SLOTS, cleared = 0;

    for (uint32_t s = first; s < end; s++) {
        if (!pool_is_idle(&p->slots[s]))
            return false;
    }
    for (uint32_t s = first; s < end; s++) {
        if (!p->slots[s].is_free && pool_evict_slot_locked(p, s)) {
            p->slots[s].is_free = 1;
            push_last(p, &p->free, s);
        }
        cleared += p->slots[s].is_free;
    }
    return cleared == POOL_SEGMENT_SLOTS;
}

static bool take_segment_locked(struct pool *p, uint32_t first, enum pool_give why)
{
    bool huge = p->huge.segments[first / POOL_SEGMENT_SLOTS];

    if (first + POOL_SEGMENT_SLOTS > p->fresh || first >= p->huge.end)
        return false;
    if (why == POOL_GIVE_HOST ? huge : pool_excess_locked(p) < POOL_SEGMENT_SLOTS)
        return false;
    if (!clear_segment_locked(p, first))
        return false;
    for (uint32_t s = first; s < first + POOL_SEGMENT_SLOTS; s++) {
        unlink_slot(p, &p->free, s);
        p->slots[s].is_free = 0;
    }
    p->giving += POOL_SEGMENT_SLOTS;
    return true;
}

/* Afterwards it is of small pages, and has none. Whether that could be done: mappings are limited.
 */
static bool empty_segment(const struct pool *p, uint32_t first, bool huge)
{
    off_t at = (off_t)(first * GRANULE_BYTES);

    if (!huge)
        return madvise(p->memory + at, SEGMENT_BYTES, MADV_DONTNEED) == 0;
    if (pool_map_small(p, first, first + POOL_SEGMENT_SLOTS) < 0)
        return false;
    (void)!fallocate(p->huge.fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, at,
                     (off_t)SEGMENT_BYTES);
    return true;
}

bool pool_huge_give_segment(struct pool *p, uint32_t slot, enum pool_give why)
{
    uint32_t first = (uint32_t)round_down(slot, POOL_SEGMENT_SLOTS);
    bool huge, given;

    mutex_lock(&p->mu);
    given = slot < p->huge.end && take_segment_locked(p, first, why);
    huge = given && p->huge.segments[first / POOL_SEGMENT_SLOTS];
    mutex_unlock(&p->mu);
    if (!given)
        return false;
    given = empty_segment(p, first, huge);
    mutex_lock(&p->mu);
    p->giving -= POOL_SEGMENT_SLOTS;
    for (uint32_t s = first; s < first + POOL_SEGMENT_SLOTS; s++) {
        p->slots[s].is_free = !given;
        if (given)
            push_gone(p, s);
        else
            push_last(p, &p->free, s);
    }
    if (given) {
        p->live -= POOL_SEGMENT_SLOTS;
        p->huge.count -= huge;
        p->huge.segments[first / POOL_SEGMENT_SLOTS] = false;
    }
    mutex_unlock(&p->mu);
    return given;
}

uint32_t pool_huge_give(struct pool *p, uint32_t most, enum pool_give why)
{
    uint32_t given = 0;

    for (uint32_t s = 0; s < p->huge.end && given < most; s += POOL_SEGMENT_SLOTS)
        given += pool_huge_give_segment(p, s, why) ? POOL_SEGMENT_SLOTS : 0;
    return given;
}

uint64_t pool_huge_bytes(struct pool *p)
{
    uint64_t bytes;

    if (p->transparent)
        return huge_pages_mapped(p->memory, p->memory + p->slot_count * GRANULE_BYTES);
    mutex_lock(&p->mu);
    bytes = p->huge.count * SEGMENT_BYTES;
    mutex_unlock(&p->mu);
    return bytes;
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A pool in transparent huge pages: the thread that sees to it that it is.
 *
 * The first use of a huge page clears 2 MiB: a quarter of a millisecond on a good day, and several
 * where the kernel has to compact memory, or a hypervisor to find it. Nobody who serves a guest
 * shall wait for that. So the thread makes whole segments while slots are still free, and keeps
 * TARGET of them free as long as the budget allows another segment. Who takes slots faster than
 * that takes them from segments of small pages. When there is nothing to make, those are merged.
 *
 *     no slot of it has memory       made whole: MADV_HUGEPAGE, MADV_POPULATE_WRITE; then its
 *                                    slots are free
 *     taken slot by slot             MADV_NOHUGEPAGE: 16 small pages each
 *     all of its slots have memory   merged: MADV_HUGEPAGE, MADV_COLLAPSE, which copies. Who needs
 *                                    a page of it meanwhile waits for that; while a disk reads into
 *                                    it the kernel refuses, and it is tried again later
 *     a part was given back          split (pool_memory.c): MADV_NOHUGEPAGE again
 *
 * So a segment is advised only while all of its slots have memory. That is what keeps the budget
 * exact: the kernel, which makes huge pages wherever it may (khugepaged does, of a single small
 * one), finds nothing to add. thp.mu keeps merging and giving back apart.
 */
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <time.h>

#include "base/clock.h"
#include "cache/pool_internal.h"

#define TARGET      256u /* slots: 16 MiB, what a fast disk brings while a slow host makes a few */
#define CALM_NS     (10 * NS_PER_SEC) /* after the kernel had no memory */
#define NICE        10                /* whoever serves guests comes first */
#define PAUSE_MS    1                 /* between two merges: they stop the faults of the process */
#define LOOKS       256u              /* segments that are looked at under one lock */
#define AGAIN_S     1 /* until what could not be merged is tried again; then twice */
#define AGAIN_MAX_S 64

#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23 /* Linux 5.14: madvise(2) */
#endif
#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* Linux 6.1: madvise(2); before, khugepaged merges what is advised */
#endif

/* --- making --- */

static uint32_t target_locked(const struct pool *p)
{
    return MIN(p->limit / 4, TARGET);
}

static bool is_allowed_locked(struct pool *p)
{
    return p->live + POOL_SEGMENT_SLOTS <= p->limit && !pool_is_calm_locked(p);
}

void pool_thp_look_locked(struct pool *p)
{
    if (p->thp.started && p->free.count < target_locked(p) / 2 && is_allowed_locked(p))
        pthread_cond_signal(&p->thp.wake);
}

/* The first slot of a segment without memory, which is nobody's from now on; or POOL_NONE. */
static uint32_t pick_segment_locked(struct pool *p)
{
    uint32_t used = (uint32_t)round_up(p->fresh, POOL_SEGMENT_SLOTS);
    const uint8_t *empty = memchr(p->gone_of, POOL_SEGMENT_SLOTS, used / POOL_SEGMENT_SLOTS);

    if (empty) {
        uint32_t first = (uint32_t)(empty - p->gone_of) * POOL_SEGMENT_SLOTS;

        for (uint32_t s = first; s < first + POOL_SEGMENT_SLOTS; s++)
            unlink_gone(p, s);
        return first;
    }
    if (used + POOL_SEGMENT_SLOTS > p->slot_count)
        return POOL_NONE;
    while (p->fresh < used)
        push_gone(p, p->fresh++);
    p->fresh += POOL_SEGMENT_SLOTS;
    return used;
}

/* All of its memory, be it in small pages. */
static int populate(char *at)
{
    int r;

    do
        r = madvise(at, HUGE_PAGE_BYTES, MADV_POPULATE_WRITE);
    while (r < 0 && errno == EINTR);
    if (r == 0 || errno != EINVAL)
        return r < 0 ? -errno : 0;
    for (size_t i = 0; i < HUGE_PAGE_BYTES; i += PAGE_BYTES)
        *(volatile char *)(at + i) = 0;
    return 0;
}

static int make_segment(struct pool *p, uint32_t first)
{
    char *at = p->memory + first * GRANULE_BYTES;
    int r;

    mutex_lock(&p->thp.mu);
    p->thp.advised[first / POOL_SEGMENT_SLOTS] = true;
    mutex_unlock(&p->thp.mu);
    (void)madvise(at, HUGE_PAGE_BYTES, MADV_HUGEPAGE);
    r = populate(at);
    if (r == 0)
        return 0;
    mutex_lock(&p->thp.mu);
    pool_empty_segment(p, first);
    mutex_unlock(&p->thp.mu);
    return r;
}

static void add_segment_locked(struct pool *p, uint32_t first, int result)
{
    for (uint32_t s = first; s < first + POOL_SEGMENT_SLOTS; s++) {
        if (result < 0) {
            push_gone(p, s);
            continue;
        }
        p->slots[s].is_free = 1;
        push_last(p, &p->free, s);
    }
    if (result == 0)
        return;
    p->live -= POOL_SEGMENT_SLOTS;
    p->calm_until_ns = MAX(p->calm_until_ns, clock_now_ns() + CALM_NS); /* memory is short */
}

/* Whether it could. Lets go of the lock meanwhile. */
static bool add_one_locked(struct pool *p)
{
    uint32_t first;
    bool excess;
    int r;

    if (p->free.count >= target_locked(p) || !is_allowed_locked(p))
        return false;
    first = pick_segment_locked(p);
    if (first == POOL_NONE)
        return false;
    p->live += POOL_SEGMENT_SLOTS;
    mutex_unlock(&p->mu);
    r = make_segment(p, first);
    mutex_lock(&p->mu);
    add_segment_locked(p, first, r);
    excess = pool_excess_locked(p) > 0; /* the budget was lowered meanwhile */
    mutex_unlock(&p->mu);
    if (excess)
        pool_shrink(p);
    mutex_lock(&p->mu);
    return true;
}

/* --- merging --- */

static bool has_memory_locked(const struct pool *p, uint32_t segment)
{
    uint32_t first = segment * POOL_SEGMENT_SLOTS;

    if (p->gone_of[segment] > 0 || first + POOL_SEGMENT_SLOTS > p->fresh)
        return false;
    for (uint32_t s = first; s < first + POOL_SEGMENT_SLOTS; s++) {
        if (p->slots[s].leaving)
            return false;
    }
    return true;
}

/* The next segment from *@at on that can be merged, and whether there is one; a few at a time. */
static bool find_small(struct pool *p, uint32_t *at, bool *ret_parts)
{
    LOCK_SCOPE(&p->mu);
    uint32_t end = MIN(p->fresh / POOL_SEGMENT_SLOTS, *at + LOOKS);

    for (; *at < end; ++*at) {
        if (p->thp.advised[*at])
            continue;
        if (has_memory_locked(p, *at))
            return true;
        *ret_parts |= p->gone_of[*at] < POOL_SEGMENT_SLOTS;
    }
    return false;
}

/* Whether it is done, be it that khugepaged does it some day. */
static bool merge(const struct pool *p, uint32_t segment)
{
    char *at = p->memory + segment * HUGE_PAGE_BYTES;

    if (madvise(at, HUGE_PAGE_BYTES, MADV_HUGEPAGE) < 0)
        return true; /* this kernel has none, or allows no more mappings */
    return madvise(at, HUGE_PAGE_BYTES, MADV_COLLAPSE) == 0 || errno == EINVAL;
}

/* Looks at some from *@at on, and merges one. Returns whether it did; sets *@ret_left if there is
 * one that may be possible later. */
static bool merge_next(struct pool *p, uint32_t *at, bool *ret_left)
{
    LOCK_SCOPE(&p->thp.mu);
    bool merged;

    if (!find_small(p, at, ret_left))
        return false;
    merged = merge(p, *at);
    p->thp.advised[*at] = merged;
    *ret_left |= !merged;
    ++*at;
    return merged;
}

/* --- the thread --- */

/* Nobody wakes it for a segment that is full of small pages. So while that is to come, it looks. */
static void wait_locked(struct pool *p, bool left, unsigned *again_s)
{
    struct timespec until;

    if (!left) {
        pthread_cond_wait(&p->thp.wake, &p->mu);
        return;
    }
    clock_gettime(CLOCK_MONOTONIC, &until);
    until.tv_sec += *again_s;
    *again_s = MIN(*again_s * 2, AGAIN_MAX_S);
    pthread_cond_clockwait(&p->thp.wake, &p->mu, CLOCK_MONOTONIC, &until);
}

/* Not while memory is short: merging takes 2 MiB before it gives 512 pages. */
static bool may_merge_locked(struct pool *p, uint32_t at)
{
    return at < p->fresh / POOL_SEGMENT_SLOTS && !pool_is_calm_locked(p);
}

static void *keep_huge(void *arg)
{
    unsigned again_s = AGAIN_S;
    struct pool *p = arg;
    bool left = false;
    uint32_t at = 0;

    (void)setpriority(PRIO_PROCESS, 0, NICE); /* of this thread: Linux, sched(7) */
    mutex_lock(&p->mu);
    while (!p->thp.stop) {
        if (add_one_locked(p))
            continue;
        if (!may_merge_locked(p, at)) {
            wait_locked(p, left || p->live < p->limit, &again_s);
            at = 0;
            left = false;
            continue;
        }
        mutex_unlock(&p->mu);
        if (merge_next(p, &at, &left)) {
            again_s = AGAIN_S;
            poll(NULL, 0, PAUSE_MS);
        }
        mutex_lock(&p->mu);
    }
    mutex_unlock(&p->mu);
    return NULL;
}

/* --- its life --- */

void pool_thp_start(struct pool *p)
{
    if (p->transparent)
        p->thp.started = thread_start(&p->thp.thread, "thaw-pool", keep_huge, p) == 0;
}

void pool_thp_stop(struct pool *p)
{
    if (!p->thp.started)
        return;
    mutex_lock(&p->mu);
    p->thp.stop = true;
    pthread_cond_signal(&p->thp.wake);
    mutex_unlock(&p->mu);
    thread_join(p->thp.thread);
    p->thp.started = false;
}

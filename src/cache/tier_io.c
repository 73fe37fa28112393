/* SPDX-License-Identifier: Apache-2.0 */

/* Reads and writes of the disk tier, and what becomes of those that fail. */
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/uio.h>

#include "base/clock.h"
#include "base/log.h"
#include "cache/tier_internal.h"

/* --- reads that hang --- */

static void note_moved(struct tier *t)
{
    atomic_store_explicit(&t->moved_ns, clock_now_ns(), memory_order_relaxed);
}

static void read_begins(struct tier *t)
{
    if (atomic_load_explicit(&t->reads, memory_order_relaxed) == 0)
        note_moved(t); /* nothing has moved since the last one: that was no stall */
    atomic_fetch_add_explicit(&t->reads, 1, memory_order_release);
}

static void read_ends(struct tier *t)
{
    note_moved(t);
    if (atomic_load_explicit(&t->stalled, memory_order_relaxed) &&
        atomic_exchange(&t->stalled, false))
        log_info("disk tier: reads in %s/tier go on", t->path);
    atomic_fetch_sub_explicit(&t->reads, 1, memory_order_release);
}

/* Once for each time. */
static void tell_stall(struct tier *t)
{
    if (atomic_load_explicit(&t->stalled, memory_order_relaxed) ||
        atomic_exchange(&t->stalled, true))
        return;
    tier_count(&t->stalls, 1);
    log_warning("disk tier: reads in %s/tier hang; meanwhile everything else comes from the store",
                t->path);
}

bool tier_moves(struct tier *t)
{
    unsigned reads = atomic_load_explicit(&t->reads, memory_order_acquire);
    uint64_t moved_ns, now;

    if (reads == 0)
        return true;
    now = clock_now_ns();
    moved_ns = atomic_load_explicit(&t->moved_ns, memory_order_relaxed);
    if (now < moved_ns + TIER_STALL_NS)
        return reads < TIER_READS_MOST;
    tell_stall(t);
    return false;
}

/* --- reads --- */

/* Those that end with this have been read; whoever waits for them to end is told. */
static void demand_over(struct tier *t)
{
    if (atomic_fetch_sub(&t->demands, 1) == 1 && atomic_load(&t->quiet_awaited))
        tier_rouse(t);
}

/* What did not come will not come another time, either. Only an overlay has nothing else. */
static void drop_run(struct tier_read *r)
{
    for (uint32_t i = 0; i < r->count && !r->file->overlay; i++)
        tier_drop(r->file, r->first + i);
}

static int read_result(struct tier_read *r, ssize_t result)
{
    struct tier *t = r->file->tier;

    if (result == -EINVAL) /* it ends within a block, where somebody has cut it */
        result = 0;
    if (result < 0) {
        tier_failure(t, TIER_READS, (int)result);
        drop_run(r);
        return (int)result;
    }
    tier_succeeded(t, TIER_READS);
    tier_count(&t->read_bytes, (uint64_t)result);
    if ((uint64_t)result < tier_bytes_of(r->file, r->first, r->count)) {
        drop_run(r); /* somebody has truncated the file */
        return -ENODATA;
    }
    for (uint32_t i = 0; i < r->count; i++) {
        if (!tier_bit(r->file->present, r->first + i))
            return -ENODATA;
        r->sums[i] = atomic_load_explicit(&r->file->sums[r->first + i], memory_order_relaxed);
    }
    return 0;
}

static void read_done(struct io_request *io, ssize_t result)
{
    struct tier_read *r = container_of(io, struct tier_read, io);
    int outcome = read_result(r, result);

    read_ends(r->file->tier);
    /* Before done(), which may be the end of the tier. */
    if (r->priority == IO_DEMAND)
        demand_over(r->file->tier);
    r->done(r, outcome);
}

static void mark_used(struct tier_file *f, uint32_t first, uint32_t count)
{
    uint32_t last = (first + count - 1) / TIER_REGION_GRANULES;

    for (uint32_t region = first / TIER_REGION_GRANULES; region <= last; region++) {
        if (!tier_bit(f->used, region))
            tier_bit_set(f->used, region);
    }
}

void tier_read(struct tier_read *r)
{
    struct tier_file *f = r->file;

    assert(r->count > 0 && r->count <= TIER_READ_GRANULES && r->first < f->granules &&
           r->count <= f->granules - r->first);
    read_begins(f->tier);
    if (r->priority == IO_DEMAND)
        atomic_fetch_add(&f->tier->demands, 1);
    mark_used(f, r->first, r->count);
    r->io = (struct io_request){
        .op = IO_READ,
        .priority = r->priority,
        .fd = f->data,
        .iov = r->iov,
        .iov_count = r->iov_count,
        .len_bytes = tier_bytes_of(f, r->first, r->count),
        .offset = r->first * GRANULE_BYTES,
        .done = read_done,
    };
    io_submit(f->tier->direct ? f->tier->direct : f->tier->io, &r->io);
}

/* --- writes --- */

static int write_run(const struct tier_write *w)
{
    struct iovec pieces[TIER_WRITE_GRANULES], *p = pieces;
    uint64_t offset = w->first * GRANULE_BYTES;
    unsigned left = w->count;

    memcpy(pieces, w->iov, left * sizeof(*pieces));
    while (left > 0) {
        ssize_t n = aio_pwritev(&w->file->tier->writer, w->file->data, p, left, offset);

        if (n <= 0)
            return n < 0 ? (int)n : -EIO;
        offset += (size_t)n;
        for (; left > 0 && (size_t)n >= p->iov_len; p++, left--)
            n -= (ssize_t)p->iov_len;
        if (n > 0)
            *p = (struct iovec){(char *)p->iov_base + n, p->iov_len - (size_t)n};
    }
    return 0;
}

uint64_t tier_missing_bytes(const struct tier_write *w)
{
    const struct tier_file *f = w->file;
    uint64_t bytes = 0;

    for (uint32_t g = w->first; g < w->first + w->count; g++) {
        if (!(f->allocated[g / 64] >> g % 64 & 1))
            bytes += tier_bytes_of(f, g, 1);
    }
    return bytes;
}

/* From here on nothing of the run is there, and all of it counts. */
static void begin_run(const struct tier_write *w)
{
    struct tier_file *f = w->file;

    tier_account(f, (int64_t)tier_missing_bytes(w));
    for (uint32_t g = w->first; g < w->first + w->count; g++) {
        tier_bit_clear(f->present, g);
        f->allocated[g / 64] |= UINT64_C(1) << g % 64;
    }
}

static void end_run(const struct tier_write *w)
{
    struct tier_file *f = w->file;
    struct tier *t = f->tier;

    for (uint32_t i = 0; i < w->count; i++) {
        uint32_t g = w->first + i;

        atomic_store_explicit(&f->sums[g], w->sums[i], memory_order_relaxed);
        tier_bit_set(f->present, g);
        if (!f->overlay)
            tier_bit_set(f->dirty, g / SUMS_PER_PAGE);
    }
    tier_count(&t->written_bytes, tier_bytes_of(f, w->first, w->count));
    t->unlooked_bytes += tier_bytes_of(f, w->first, w->count);
    if (f->overlay)
        return;
    t->batches++;
    atomic_store(&t->sums_due, true);
}

static bool is_full(int r)
{
    return r == -ENOSPC || r == -EDQUOT;
}

static void check_run(const struct tier_write *w)
{
    const struct tier_file *f = w->file;

    assert(w->count > 0 && w->count <= TIER_WRITE_GRANULES && w->first < f->granules &&
           w->count <= f->granules - w->first);
    for (uint32_t i = 0; i < w->count; i++)
        assert(w->iov[i].iov_len == tier_bytes_of(f, w->first + i, 1));
}

int tier_write_now(struct tier *t, const struct tier_write *w)
{
    int r = tier_given_up(t, TIER_WRITES);

    check_run(w);
    if (r < 0)
        return r;
    if (!w->file->writable)
        return -EROFS;
    if (!tier_make_room(t, w)) {
        tier_count(&t->no_room, 1);
        return -ENOSPC;
    }
    begin_run(w);
    r = write_run(w);
    if (is_full(r) && tier_evict(t, w))
        r = write_run(w);
    if (r == 0) {
        tier_succeeded(t, TIER_WRITES);
        t->refused_bytes = 0;
        end_run(w);
        return 0;
    }
    if (tier_punch(w->file, w->first, w->count) < 0)
        log_debug("disk tier: what there is of a write that failed stays, and counts");
    if (!is_full(r)) {
        tier_failure(t, TIER_WRITES, r);
        return r;
    }
    tier_count(&t->no_room, 1);
    tier_refused(t);
    return -ENOSPC;
}

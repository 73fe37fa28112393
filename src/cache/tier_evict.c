/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Room for the disk tier: what the bounds leave, and what is given back when that is not enough.
 *
 * Files that nobody has open go first, whole. Then the hand of a clock goes over the regions of
 * those that are open, and takes the first one that was not read from since it came by last. What
 * is new comes in as not read from. The regions that are just being written to are passed over.
 *
 * Some file systems give room back later than they are told to: XFS what was unlinked, Btrfs
 * everything. Who evicts until they say that there is room evicts all that there is. So what was
 * evicted and has not been seen to be free is owed, for a minute or two, and counts as room.
 */
#include <errno.h>
#include <fcntl.h>
#include <sys/statvfs.h>

#include "base/clock.h"
#include "cache/tier_internal.h"

/* --- bounds --- */

/*
 * Without the lock only files of overlays are ours: what the owner has of objects it makes room
 * from, and we cannot.
 */
static uint64_t taken_bytes(const struct tier *t)
{
    struct tier_counters c = tier_counters(t);

    return (t->owned ? c.bytes : 0) + c.overlay_bytes;
}

/* Half for who has not the lock: the owner fills the disk up to the line, and guests must write. */
static uint64_t keep_free_percent(const struct tier *t)
{
    return t->owned ? t->keep_free_percent : t->keep_free_percent / 2;
}

/* What there is more than expected, after @unlooked bytes were written, was owed. */
static void settle_debt(struct tier *t, int64_t spare, uint64_t unlooked)
{
    uint64_t growth = (uint64_t)MAX(spare - (t->spare_bytes - (int64_t)unlooked), 0);
    uint64_t now_ns = clock_now_ns();

    for (unsigned i = 2; i-- > 0;) {
        uint64_t paid = MIN(t->owed[i], growth);

        t->owed[i] -= paid;
        growth -= paid;
    }
    if (now_ns >= t->owed_turn_ns) {
        t->owed[1] = t->owed[0];
        t->owed[0] = 0;
        t->owed_turn_ns = now_ns + TIER_OWED_NS;
    }
    t->spare_bytes = spare;
}

static void look_at_disk(struct tier *t)
{
    uint64_t unlooked = t->unlooked_bytes, keep;
    int64_t spare;
    struct statvfs v;

    t->unlooked_bytes = 0;
    t->room_bytes = UINT64_MAX / 2; /* if it cannot be asked, the writes will tell */
    if (fstatvfs(t->files, &v) < 0)
        return;
    keep = v.f_blocks * keep_free_percent(t) / 100;
    spare = ((int64_t)v.f_bavail - (int64_t)keep) * (int64_t)v.f_frsize;
    settle_debt(t, spare, unlooked);
    spare += (int64_t)(t->owed[0] + t->owed[1]);
    t->room_bytes = (uint64_t)MAX(spare, 0);
}

bool tier_has_room(struct tier *t, uint64_t bytes)
{
    if (bytes == 0)
        return true;
    if (t->max_bytes != UINT64_MAX && taken_bytes(t) + bytes + TIER_SUMS_MARGIN > t->max_bytes)
        return false;
    if (t->unlooked_bytes >= TIER_LOOK_EVERY || t->unlooked_bytes + bytes > t->room_bytes)
        look_at_disk(t);
    return t->unlooked_bytes + bytes <= t->room_bytes;
}

static uint64_t available_bytes(const struct tier *t)
{
    struct statvfs v;

    return fstatvfs(t->files, &v) < 0 ? UINT64_MAX : v.f_bavail * v.f_frsize;
}

void tier_refused(struct tier *t)
{
    t->refused_bytes = MAX(available_bytes(t), 1);
}

bool tier_still_refuses(const struct tier *t)
{
    return t->refused_bytes > 0 && available_bytes(t) <= t->refused_bytes;
}

/* What is evicted counts as room from then on, whenever the file system says so. */
static bool evict_on_account(struct tier *t, const struct tier_write *w)
{
    uint64_t before = tier_counters(t).evicted_bytes;
    bool done = tier_evict(t, w);

    t->owed[0] += tier_counters(t).evicted_bytes - before;
    return done;
}

/* What has been forgotten of overlays goes before what somebody may still ask for. */
static bool give_something(struct tier *t, const struct tier_write *w)
{
    if (!atomic_exchange(&t->give_back, false))
        return evict_on_account(t, w);
    tier_give_back(t);
    return true;
}

bool tier_make_room(struct tier *t, const struct tier_write *w)
{
    while (!tier_has_room(t, tier_missing_bytes(w))) {
        if (!give_something(t, w))
            return false;
    }
    return true;
}

/* --- punching --- */

int tier_punch(struct tier_file *f, uint32_t first, uint32_t count)
{
    int64_t bytes = 0;
    int r;

    do
        r = fallocate(f->data, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                      (off_t)(first * GRANULE_BYTES), (off_t)tier_bytes_of(f, first, count));
    while (r < 0 && errno == EINTR);
    if (r < 0)
        return -errno;
    for (uint32_t g = first; g < first + count; g++) {
        uint64_t bit = UINT64_C(1) << g % 64;

        if (f->allocated[g / 64] & bit)
            bytes += (int64_t)tier_bytes_of(f, g, 1);
        f->allocated[g / 64] &= ~bit;
    }
    tier_account(f, -bytes);
    return 0;
}

/* --- the clock --- */

static uint32_t region_count(const struct tier_file *f)
{
    return (uint32_t)div_round_up(f->granules, TIER_REGION_GRANULES);
}

static bool is_written_to(const struct tier_file *f, uint32_t region, const struct tier_write *w)
{
    return f == w->file && region >= w->first / TIER_REGION_GRANULES &&
           region <= (w->first + w->count - 1) / TIER_REGION_GRANULES;
}

static bool give_region(struct tier_file *f, uint32_t region)
{
    uint32_t first = region * (uint32_t)TIER_REGION_GRANULES;
    uint32_t count = MIN(f->granules - first, (uint32_t)TIER_REGION_GRANULES);
    uint64_t before = tier_file_bytes(f);
    uint64_t present = atomic_exchange(&f->present[region], 0);

    if (tier_punch(f, first, count) < 0) {
        atomic_fetch_or(&f->present[region], present);
        return false;
    }
    tier_count(&f->tier->evicted_bytes, before - tier_file_bytes(f));
    return true;
}

/* The hand goes on to the end of the file, or to a region that could be given back. */
static bool sweep(struct tier_file *f, const struct tier_write *w)
{
    while (f->clock < region_count(f)) {
        uint32_t region = f->clock++;

        if (f->allocated[region] == 0 || is_written_to(f, region, w))
            continue;
        if (!tier_bit_clear(f->used, region) && give_region(f, region))
            return true;
    }
    f->clock = 0;
    return false;
}

static bool has_regions(const struct tier_file *f)
{
    return f->ready && !f->overlay && f->writable;
}

static unsigned count_files(struct tier *t)
{
    unsigned n = 0;
    LOCK_SCOPE(&t->mu);

    for (const struct tier_file *f = t->list; f; f = f->next)
        n += has_regions(f);
    return n;
}

/* The file at the hand, or the one after it, is busy. NULL if there is none. */
static struct tier_file *hand_file(struct tier *t, bool next)
{
    struct tier_file *f, *start;
    LOCK_SCOPE(&t->mu);

    start = t->hand && next ? t->hand->next : t->hand;
    for (f = start; f && !has_regions(f); f = f->next)
        ;
    if (!f) {
        for (f = t->list; f && !has_regions(f); f = f->next)
            ;
    }
    t->hand = t->busy = f;
    pthread_cond_broadcast(&t->rest);
    return f;
}

static void hand_rests(struct tier *t)
{
    LOCK_SCOPE(&t->mu);

    t->busy = NULL;
    pthread_cond_broadcast(&t->rest);
}

static bool evict_region(struct tier *t, const struct tier_write *w)
{
    unsigned sweeps = 2 * count_files(t) + 1; /* after two rounds no region is marked as used */
    struct tier_file *f = hand_file(t, false);
    bool done = false;

    while (f && sweeps-- > 0 && !(done = sweep(f, w)))
        f = hand_file(t, true);
    hand_rests(t);
    return done;
}

static bool evict_shut(struct tier *t)
{
    bool done;
    LOCK_SCOPE(&t->folder_mu);

    if (atomic_load(&t->nothing_shut))
        return false;
    done = tier_survey(t, true);
    if (!done)
        atomic_store(&t->nothing_shut, true);
    return done;
}

bool tier_evict(struct tier *t, const struct tier_write *w)
{
    return t->owned && (evict_shut(t) || evict_region(t, w));
}

/* --- what overlays have forgotten --- */

static void give_back_word(struct tier_file *f, uint32_t word)
{
    uint64_t present = atomic_load_explicit(&f->present[word], memory_order_acquire);
    uint64_t left = f->allocated[word] & ~present;

    while (left != 0) {
        unsigned first = (unsigned)__builtin_ctzll(left);
        uint64_t rest = ~(left >> first);
        unsigned count = rest ? (unsigned)__builtin_ctzll(rest) : 64;

        left &= count == 64 ? 0 : ~(((UINT64_C(1) << count) - 1) << first);
        if (tier_punch(f, word * 64 + first, count) < 0)
            return; /* it stays, and counts */
    }
}

void tier_give_back(struct tier *t)
{
    for (struct tier_file *f = tier_next_busy(t, NULL); f; f = tier_next_busy(t, f)) {
        if (!f->overlay || !atomic_exchange(&f->forgotten, false))
            continue;
        for (uint32_t word = 0; word < region_count(f); word++)
            give_back_word(f, word);
    }
    tier_room_given(t);
}

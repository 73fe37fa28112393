/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/spill.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mailbox.h"
#include "cache/internal.h"
#include "cache/numbers.h"
#include "cache/segments.h"
#include "cache/spill_internal.h"
#include "cache/tier.h"
#include "cache/tiered.h"
#include "format/sums.h"

#define WRITES      2u  /* under way at a time */
#define SHARE_LEAST 32u /* slots: two writes of 1 MiB */
#define SWEEP       32u /* retired granules that are tried again at a time */
#define CLEANINGS   64u /* segments that are moved for one write: 2 MiB at most */
#define NONE        UINT32_MAX

/* One write of full segments to the file. */
struct spill_write {
    struct tier_write write;
    struct message came; /* its end, to the owner */
    struct spill *spill;
    uint32_t slots[TIER_WRITE_GRANULES];
    int result;
    bool busy;
};

/*
 * A granule of the file is
 *
 *     free --lend--> being written --land--> spilled --last block dead--> retired --dropped--> free
 *       ^                  |
 *       +------failed------+
 *
 * retired: it may still be pinned, or be on its way from the file, or in a segment that somebody
 * may look at. It is not forgotten before that has ended, so that who reads it reads what it was.
 */
struct spill {
    struct cache *overlay;         /* borrowed, as all of these: it owns this */
    struct cache_spill_options to; /* what it points to is borrowed */
    struct numbers numbers;        /* granules of the file that are free */
    uint32_t *blocks;              /* owned: of a spilled granule, how many of its blocks are live;
                                      of a retired one, the next of them */
    size_t blocks_bytes;
    uint32_t retired; /* the first of them, or NONE */
    struct spill_write writes[WRITES];
    struct message nudge;      /* something may have changed */
    _Atomic(bool) nudged;      /* [a] it is on its way */
    struct spill *next, *prev; /* [m] set.spills_mu */
    bool listed;               /* the owner's: others may nudge us */
    bool stopped;
    _Atomic(bool) starving; /* [a] we wait for what others spill */
    bool awaited;           /* somebody waits for room */
    bool settled;           /* there may be some that nobody has tried to get */
    bool failing;           /* the last write has failed */
    uint64_t failures;
    uint64_t live;                   /* spilled blocks that are live; the owner's, as all above */
    _Atomic(uint64_t) written_bytes; /* [a] counters: relaxed */
    _Atomic(uint64_t) paced;
    _Atomic(uint64_t) failed;
};

static void write_came(struct message *m);
static void nudge_came(struct message *m);

/* --- life --- */

uint32_t cache_spill_granules(uint64_t size_bytes)
{
    /* At worst each granule has one live block; and some more, as a retired one takes its time. */
    uint64_t blocks = div_round_up(size_bytes, PAGE_BYTES);

    if (blocks == 0)
        return 0;
    return (uint32_t)MIN(round_up(blocks, NUMBERS_GROUP) + UINT64_C(4) * NUMBERS_GROUP, POOL_MOST);
}

static int spill_init(struct spill *s, uint32_t granules)
{
    void *blocks;

    s->blocks_bytes = granules * sizeof(*s->blocks);
    blocks = mmap(NULL, s->blocks_bytes, PROT_READ | PROT_WRITE,
                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (blocks == MAP_FAILED)
        return -ENOMEM;
    s->blocks = blocks;
    s->retired = NONE;
    s->nudge.deliver = nudge_came;
    for (unsigned i = 0; i < WRITES; i++) {
        s->writes[i].spill = s;
        s->writes[i].came.deliver = write_came;
    }
    return numbers_init(&s->numbers, granules);
}

int cache_spill_start(struct cache *c, const struct cache_spill_options *o)
{
    struct spill *s = calloc(1, sizeof(*s));
    int r;

    assert(c->memory.log && !log_spill(&c->memory) && log_bytes(&c->memory) == 0);
    if (!s)
        return -ENOMEM;
    s->overlay = c;
    s->to = *o;
    r = spill_init(s, cache_granules(o->granules) / NUMBERS_GROUP * NUMBERS_GROUP);
    if (r < 0) {
        spill_destroy(s);
        return r;
    }
    log_set_spill(&c->memory, s);
    return 0;
}

static void count_live(struct spill *s, int64_t blocks)
{
    s->live += (uint64_t)blocks;
    set_count(&s->overlay->set->spilled_live, blocks * (int64_t)PAGE_BYTES);
}

void spill_destroy(struct spill *s)
{
    if (!s)
        return;
    for (unsigned i = 0; i < WRITES; i++)
        assert(!s->writes[i].busy);
    assert(!s->listed);
    count_live(s, -(int64_t)s->live);
    numbers_finish(&s->numbers);
    if (s->blocks)
        munmap(s->blocks, s->blocks_bytes);
    free(s);
}

static unsigned writes_under_way(const struct spill *s)
{
    unsigned n = 0;

    for (unsigned i = 0; i < WRITES; i++)
        n += s->writes[i].busy;
    return n;
}

unsigned cache_spill_under_way(const struct cache *c)
{
    const struct spill *s = log_spill(&c->memory);

    return s ? writes_under_way(s) + atomic_load(&s->nudged) : 0;
}

uint64_t spill_bytes(const struct spill *s)
{
    return tier_file_bytes(s->to.file);
}

static uint64_t get(const _Atomic(uint64_t) *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

struct cache_spill_counters cache_spill_counters(const struct cache *c)
{
    const struct spill *s = log_spill(&c->memory);

    if (!s)
        return (struct cache_spill_counters){0};
    return (struct cache_spill_counters){
        .disk_bytes = spill_bytes(s),
        .written_bytes = get(&s->written_bytes),
        .paced = get(&s->paced),
        .failures = get(&s->failed),
    };
}

/* --- shares --- */

/* Of each overlay, if all are equal. */
static uint32_t even_share(const struct spill *s)
{
    struct cache_set *set = s->overlay->set;

    return pool_dirty_most(set->pool) /
           MAX(atomic_load_explicit(&set->overlays, memory_order_relaxed), 1);
}

uint32_t spill_share(const struct spill *s)
{
    return MAX(even_share(s), SHARE_LEAST);
}

/* --- telling each other --- */

/* Any thread that keeps @s from going. */
static void nudge(struct spill *s)
{
    if (!atomic_exchange(&s->nudged, true))
        mailbox_post(s->to.inbox, &s->nudge);
}

static void nudge_others(const struct spill *s, bool only_starving)
{
    struct cache_set *set = s->overlay->set;

    mutex_lock(&set->spills_mu);
    for (struct spill *other = set->spills; other; other = other->next) {
        if (other != s && (!only_starving || atomic_load(&other->starving)))
            nudge(other);
    }
    mutex_unlock(&set->spills_mu);
}

/* With the first write. */
static void enlist(struct spill *s)
{
    struct cache_set *set = s->overlay->set;

    if (s->listed || s->stopped)
        return;
    mutex_lock(&set->spills_mu);
    s->next = set->spills;
    if (s->next)
        s->next->prev = s;
    set->spills = s;
    mutex_unlock(&set->spills_mu);
    s->listed = true;
    nudge_others(s, false);
}

static void set_starving(struct spill *s, bool starving)
{
    struct cache_set *set = s->overlay->set;

    if (atomic_exchange(&s->starving, starving) == starving)
        return;
    if (starving)
        atomic_fetch_add(&set->starving, 1);
    else
        atomic_fetch_sub(&set->starving, 1);
}

void cache_spill_stop(struct cache *c)
{
    struct spill *s = log_spill(&c->memory);

    if (!s || s->stopped)
        return;
    s->stopped = true;
    if (s->listed) {
        mutex_lock(&c->set->spills_mu);
        *(s->prev ? &s->prev->next : &c->set->spills) = s->next;
        if (s->next)
            s->next->prev = s->prev;
        mutex_unlock(&c->set->spills_mu);
    }
    s->listed = false;
    set_starving(s, false);
}

/* --- granules of the file --- */

/* Returns false if it cannot be forgotten yet. Nobody reads it from the file meanwhile, or later.
 */
static bool forget(struct spill *s, uint32_t granule)
{
    if (!granule_claim(s->to.granules, granule))
        return false;
    tier_forget(s->to.file, granule);
    granule_unclaim(s->to.granules, granule);
    numbers_put(&s->numbers, granule);
    return true;
}

static void retire(struct spill *s, uint32_t granule)
{
    if (forget(s, granule))
        return;
    s->blocks[granule] = s->retired;
    s->retired = granule;
}

/* Those which could not be dropped before. */
static void sweep(struct spill *s)
{
    uint32_t *at = &s->retired;

    for (unsigned i = 0; i < SWEEP && *at != NONE; i++) {
        uint32_t next = s->blocks[*at];

        if (forget(s, *at))
            *at = next;
        else
            at = &s->blocks[*at];
    }
}

void spill_release(struct spill *s, uint32_t place)
{
    uint32_t granule = (place & ~PLACE_SPILLED) / SEGMENT_BLOCKS;

    assert(s->blocks[granule] > 0);
    count_live(s, -1);
    if (--s->blocks[granule] == 0)
        retire(s, granule);
}

void spill_adopt(struct spill *s, uint32_t slot, uint32_t granule)
{
    pool_adopt(s->to.granules->memory.pool, slot, s->to.granules, granule);
}

/* --- writing --- */

/* On the tier's thread. */
static void write_done(struct tier_write *t, int result)
{
    struct spill_write *w = container_of(t, struct spill_write, write);

    w->result = result;
    mailbox_post(w->spill->to.inbox, &w->came);
}

/* The oldest full segments are not worth writing if little of them is left: it is moved. */
static void clean(const struct spill *s)
{
    const struct memory *m = &s->overlay->memory;

    for (unsigned i = 0; i < CLEANINGS && log_full(m) > 0; i++) {
        if (!log_clean(m, log_oldest(m)))
            break;
    }
}

/* Lends full segments to granules of the file, from @first on; returns how many, up to @count. */
static uint32_t lend(struct spill_write *w, uint32_t first, uint32_t count)
{
    const struct spill *s = w->spill;
    const struct memory *m = &s->overlay->memory;
    uint32_t n = 0;

    for (; n < count; n++) {
        uint32_t slot = log_oldest(m);

        /* Who reads ahead may just be finding out that it is not in the file. */
        if (!granule_claim(s->to.granules, first + n))
            break;
        log_lend(m, slot);
        w->slots[n] = slot;
        w->write.iov[n] = (struct iovec){m->fill + slot * GRANULE_BYTES, GRANULE_BYTES};
        w->write.sums[n] = sums_of(w->write.iov[n].iov_base, GRANULE_BYTES);
    }
    return n;
}

/* Returns 1 if it was begun, 0 if there is nothing to be written, or no number for it; -EAGAIN. */
static int start(struct spill *s)
{
    struct spill_write *w = s->writes[0].busy ? &s->writes[1] : &s->writes[0];
    uint32_t first = 0, taken;

    if (w->busy)
        return 0;
    taken = MIN(log_full(&s->overlay->memory), TIER_WRITE_GRANULES);
    taken = numbers_take(&s->numbers, taken, &first);
    if (taken == 0)
        return 0;
    w->write.file = s->to.file;
    w->write.first = first;
    w->write.count = lend(w, first, taken);
    w->write.done = write_done;
    for (uint32_t i = w->write.count; i < taken; i++)
        numbers_put(&s->numbers, first + i);
    if (w->write.count == 0)
        return -EAGAIN;
    w->busy = true;
    atomic_fetch_add(&s->overlay->set->spilling, 1);
    tier_write(s->to.tier, &w->write);
    return 1;
}

/* Half of an even share may stay dirty. While the disk fails, only who needs room tries it. */
static bool is_due(const struct spill *s)
{
    return !s->failing && log_full(&s->overlay->memory) >= MAX(even_share(s) / 2, 1);
}

void spill_pump(struct spill *s)
{
    enlist(s);
    sweep(s);
    while (is_due(s) && writes_under_way(s) < WRITES) {
        clean(s);
        if (!is_due(s) || start(s) <= 0)
            break;
    }
}

/* --- landing --- */

static void land(struct spill_write *w)
{
    struct spill *s = w->spill;
    const struct memory *m = &s->overlay->memory;

    for (uint32_t i = 0; i < w->write.count; i++) {
        uint32_t granule = w->write.first + i;

        /* First ready, then found there. */
        granule_keep(s->to.granules, granule, w->slots[i]);
        s->blocks[granule] = log_land(m, w->slots[i], granule);
        count_live(s, s->blocks[granule]);
        if (s->blocks[granule] == 0)
            retire(s, granule);
    }
    s->failing = false;
    set_count(&s->written_bytes, (int64_t)(w->write.count * GRANULE_BYTES));
    set_count(&s->overlay->set->spilled_bytes, (int64_t)(w->write.count * GRANULE_BYTES));
}

/* The youngest first, so that they are in their order again. */
static void take_back(struct spill_write *w)
{
    struct spill *s = w->spill;

    for (uint32_t i = w->write.count; i-- > 0;) {
        granule_unclaim(s->to.granules, w->write.first + i);
        log_take_back(&s->overlay->memory, w->slots[i]);
        numbers_put(&s->numbers, w->write.first + i);
    }
    s->failing = true;
    s->failures++;
    set_count(&s->failed, 1);
}

/* After something has come, or may have: those who wait for room try again. */
static void resume(struct spill *s)
{
    if (!s->awaited)
        return;
    set_starving(s, false);
    s->awaited = false;
    s->to.resume(s->to.arg);
}

static void write_came(struct message *m)
{
    struct spill_write *w = container_of(m, struct spill_write, came);
    struct spill *s = w->spill;
    int r = cache_enter(s->overlay);

    assert(r == 0); /* nobody closes it while this is under way */
    (void)r;
    w->busy = false;
    if (w->result < 0)
        take_back(w);
    else
        land(w);
    overlay_settle(s->overlay);
    spill_pump(s);
    cache_leave(s->overlay);
    /* In this order: who comes to starve looks at them the other way round. */
    atomic_fetch_sub(&s->overlay->set->spilling, 1);
    if (atomic_load(&s->overlay->set->starving) > 0)
        nudge_others(s, true);
    resume(s);
}

/* --- who waits for room --- */

static void nudge_came(struct message *m)
{
    struct spill *s = container_of(m, struct spill, nudge);
    int r = cache_enter(s->overlay);

    assert(r == 0);
    (void)r;
    atomic_store(&s->nudged, false);
    overlay_settle(s->overlay);
    spill_pump(s);
    cache_leave(s->overlay);
    resume(s);
}

/* Whether others are spilling, as the pool is full of what is theirs: their end will be told. */
static bool others_spill(struct spill *s)
{
    const struct cache_set *set = s->overlay->set;

    if (atomic_load(&set->spilling) == 0)
        return false;
    set_starving(s, true);
    if (atomic_load(&set->spilling) == 0)
        nudge(s); /* it has just come: try once more */
    return true;
}

/* Whether something will come, or what is in the way will go by itself. */
static bool may_hope(struct spill *s)
{
    int r = 1;

    if (writes_under_way(s) == 0) {
        clean(s);
        r = start(s);
    }
    if (r > 0)
        return true;
    /*
     * Others are looking at segments that we would give up; of the end of that nobody tells. It may
     * have come since the write was refused.
     */
    if (r < 0 || s->settled || log_waits(&s->overlay->memory))
        nudge(s);
    s->settled = false;
    return atomic_load(&s->nudged) || others_spill(s);
}

void spill_settled(struct spill *s)
{
    s->settled = true;
}

bool cache_await_room(struct cache *c, uint64_t *patience)
{
    struct spill *s = log_spill(&c->memory);
    bool first = *patience == 0;

    if (!s)
        return false;
    if (first)
        *patience = s->failures + 1;
    if (*patience != s->failures + 1 || !may_hope(s)) {
        set_count(&c->set->refused, 1);
        return false;
    }
    if (first) {
        set_count(&s->paced, 1);
        set_count(&c->set->paced, 1);
    }
    s->awaited = true;
    return true;
}

/* --- reading --- */

bool cache_spilled_run(const struct cache *c, uint64_t off, uint64_t len_bytes,
                       struct cache_spilled *ret, uint64_t *ret_bytes)
{
    uint64_t in_memory = 0, run;

    while (log_spill(&c->memory) && in_memory < len_bytes) {
        uint64_t at = off + in_memory;
        uint32_t place = tiered_run(&c->memory, at, len_bytes - in_memory, &run);

        if (place & PLACE_SPILLED && in_memory > 0)
            break;
        if (place & PLACE_SPILLED) {
            *ret = spilled_at(place, off);
            *ret_bytes = MIN(run, GRANULE_BYTES - ret->offset);
            return true;
        }
        in_memory += run;
    }
    *ret_bytes = in_memory > 0 ? in_memory : len_bytes;
    return false;
}

int spill_copy(const struct spill *s, struct cache_spilled at, void *buf, size_t len)
{
    const char *memory = cache_pin(s->to.granules, at.granule);

    if (!memory)
        return -ENODATA;
    memcpy(buf, memory + at.offset, len);
    cache_unpin(s->to.granules, at.granule);
    return 0;
}

/* A read that somebody blocks for. */
struct load {
    struct tier_read read;
    pthread_mutex_t mu;
    pthread_cond_t over;
    bool done; /* [m] mu */
    int result;
};

static void load_done(struct tier_read *t, int result)
{
    struct load *l = container_of(t, struct load, read);
    LOCK_SCOPE(&l->mu);

    l->result = result;
    l->done = true;
    pthread_cond_signal(&l->over);
}

static int load_from_file(const struct spill *s, uint32_t granule, void *buf)
{
    struct iovec iov = {buf, GRANULE_BYTES};
    struct load l = {
        .read = {.file = s->to.file,
                 .first = granule,
                 .count = 1,
                 .iov = &iov,
                 .iov_count = 1,
                 .priority = IO_DEMAND,
                 .done = load_done},
        .mu = PTHREAD_MUTEX_INITIALIZER,
        .over = PTHREAD_COND_INITIALIZER,
    };

    tier_read(&l.read);
    mutex_lock(&l.mu);
    while (!l.done)
        pthread_cond_wait(&l.over, &l.mu);
    mutex_unlock(&l.mu);
    pthread_cond_destroy(&l.over);
    pthread_mutex_destroy(&l.mu);
    if (l.result < 0)
        return l.result == -ENODATA ? -EBADMSG : l.result;
    return sums_of(buf, GRANULE_BYTES) == l.read.sums[0] ? 0 : -EBADMSG;
}

int spill_load(const struct spill *s, uint32_t granule, void *buf)
{
    if (spill_copy(s, (struct cache_spilled){granule, 0}, buf, GRANULE_BYTES) == 0)
        return 0;
    return load_from_file(s, granule, buf);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/spill.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/mailbox.h"
#include "cache/internal.h"
#include "cache/segments.h"
#include "cache/spill_internal.h"
#include "cache/tier.h"
#include "cache/tiered.h"
#include "format/sums.h"

#define SWEEP     32u /* retired granules that are tried again at a time */
#define CLEANINGS 64u /* segments that are moved for one write: 2 MiB at most */
#define NONE      UINT32_MAX

static void write_came(struct message *m);

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
    s->nudge.deliver = spill_nudge_came;
    for (unsigned i = 0; i < SPILL_WRITES; i++) {
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
    for (unsigned i = 0; i < SPILL_WRITES; i++)
        assert(!s->writes[i].busy);
    assert(!s->listed);
    count_live(s, -(int64_t)s->live);
    numbers_finish(&s->numbers);
    if (s->blocks)
        munmap(s->blocks, s->blocks_bytes);
    free(s);
}

unsigned spill_writes_under_way(const struct spill *s)
{
    unsigned n = 0;

    for (unsigned i = 0; i < SPILL_WRITES; i++)
        n += s->writes[i].busy;
    return n;
}

unsigned cache_spill_under_way(const struct cache *c)
{
    const struct spill *s = log_spill(&c->memory);

    return s ? spill_writes_under_way(s) + atomic_load(&s->nudged) : 0;
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

void spill_clean(const struct spill *s)
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

int spill_start(struct spill *s)
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

void spill_pump(struct spill *s)
{
    spill_enlist(s);
    sweep(s);
    while (spill_is_due(s) && spill_writes_under_way(s) < SPILL_WRITES) {
        spill_clean(s);
        if (!spill_is_due(s) || spill_start(s) <= 0)
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
    spill_landed(s);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Where flights read: from the disk tier what is there, everything else from the store. */
#include "base/clock.h"
#include "fetch/internal.h"

size_t flight_bytes(const struct flight *fl)
{
    return (fl->count - 1) * GRANULE_BYTES +
           cache_granule_bytes(fl->object->cache, fl->first + fl->count - 1);
}

bool source_is_tier(const struct fetch_object *o, uint32_t granule)
{
    if (!o->tier)
        return false;
    /* What was spilled is nowhere else, and waited for however long it takes. */
    return o->data ? tier_serves(o->tier, granule) : tier_has(o->tier, granule);
}

/* Where to: memory of granules that is adjacent is one piece. Returns how many there are. */
static unsigned set_pieces(struct flight *fl)
{
    size_t left = round_up(flight_bytes(fl), PAGE_BYTES);
    struct iovec *last = fl->pieces;
    unsigned n = 0;

    for (uint32_t i = 0; i < fl->count; i++) {
        size_t len = MIN(left, GRANULE_BYTES);

        if (i > 0 && fl->memory[i] == (char *)last->iov_base + last->iov_len) {
            last->iov_len += len;
        } else {
            last = &fl->pieces[n++];
            *last = (struct iovec){fl->memory[i], len};
        }
        left -= len;
    }
    return n;
}

/* --- the store --- */

static void store_done(struct flight *fl)
{
    /* acq_rel: the last one sees what the other one's thread wrote. */
    if (atomic_fetch_sub_explicit(&fl->pending, 1, memory_order_acq_rel) == 1)
        flight_land(fl);
}

static void data_done(struct store_read *r, int64_t result)
{
    struct flight *fl = container_of(r, struct flight, data);

    fl->data_result = result;
    store_done(fl);
}

static void sums_done(struct store_read *r, int64_t result)
{
    struct flight *fl = container_of(r, struct flight, sums);

    fl->sums_result = result;
    store_done(fl);
}

static void read_store(struct flight *fl, unsigned pieces)
{
    struct fetch_object *o = fl->object;
    bool read_sums = o->sums.object && !sums_table_loaded(&o->sums, fl->first);

    atomic_store_explicit(&fl->pending, read_sums ? 2 : 1, memory_order_relaxed);
    fl->data.object = o->data;
    fl->data.buf = fl->memory[0];
    fl->data.iov = fl->pieces;
    fl->data.iov_count = pieces > 1 ? pieces : 0; /* one piece needs no list */
    fl->data.len_bytes = flight_bytes(fl);
    fl->data.offset = (struct c_off){fl->first * GRANULE_BYTES};
    fl->data.priority = fl->priority;
    fl->data.done = data_done;
    if (read_sums) {
        fl->sums.object = o->sums.object;
        fl->sums.buf = fl->sums_page;
        fl->sums.len_bytes = SUMS_PAGE_BYTES;
        fl->sums.offset = (struct c_off){fl->first / SUMS_PER_PAGE * (uint64_t)SUMS_PAGE_BYTES};
        fl->sums.priority = fl->priority;
        fl->sums.done = sums_done;
        store_read(&fl->sums);
    }
    store_read(&fl->data);
}

/* --- the disk tier --- */

static_assert(TIER_READ_GRANULES >= READ_AHEAD_GRANULES, "a flight is one read of the tier");

static void tier_done(struct tier_read *r, int result)
{
    struct flight *fl = container_of(r, struct flight, tier);

    fl->data_result = result < 0 ? result : (int64_t)flight_bytes(fl);
    flight_land(fl);
}

static void read_tier(struct flight *fl, unsigned pieces)
{
    fl->tier.file = fl->object->tier;
    fl->tier.first = fl->first;
    fl->tier.count = fl->count;
    fl->tier.iov = fl->pieces;
    fl->tier.iov_count = pieces;
    fl->tier.priority = fl->priority;
    fl->tier.done = tier_done;
    tier_read(&fl->tier);
}

/* --- */

void flight_start(struct flight *fl, enum io_priority priority)
{
    unsigned pieces = set_pieces(fl);

    fl->priority = priority;
    fl->start_ns = clock_now_ns();
    if (fl->from_tier) {
        read_tier(fl, pieces);
        return;
    }
    atomic_fetch_add_explicit(&fl->object->fetch->flight_count, 1, memory_order_relaxed);
    read_store(fl, pieces);
}

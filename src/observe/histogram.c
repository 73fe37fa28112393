/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/histogram.h"

#include <assert.h>
#include <math.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <string.h>

#include "base/units.h"

/*
 * Theory of operation
 *
 * The recording thread is the only writer, so that adding is a load and a store. Two things change
 * a histogram. Counting stores one slot, and perhaps moves an end of the window outwards: a reader
 * who sees the one and not the other has a state that was, or is about to be, true. Rearranging
 * (the first bucket, a smaller scale) moves counts between slots, and half of that is never true:
 * it happens between an odd and an even value of `sequence`, and a reader who saw either begins
 * again.
 *
 * All stores are releases and all loads of a reader are acquires, which costs nothing on x86 and
 * little on arm64. So a reader who sees any value that was stored in or after a rearrangement sees
 * the sequence number of that rearrangement as well, and no fences are needed.
 */

#define MANTISSA_BITS 52
#define MANTISSA_MASK ((UINT64_C(1) << MANTISSA_BITS) - 1)
#define EXPONENT_MASK 0x7ff
#define EXPONENT_BIAS 1023

#define MINE(field)     atomic_load_explicit(&(field), memory_order_relaxed)
#define THEIRS(field)   atomic_load_explicit(&(field), memory_order_acquire)
#define STORE(field, v) atomic_store_explicit(&(field), (v), memory_order_release)
#define ADD(field, n)   STORE(field, MINE(field) + (n))
#define SLOT(h, index)  ((h)->slots[(uint32_t)(index) % HISTOGRAM_SLOTS])
#define PAIR_UP(index, n)                                                                          \
    ((index) >> (n)) /* rounds down, also below 0: gcc and clang promise it                        \
                      */

static_assert(HISTOGRAM_SIZE <= HISTOGRAM_SLOTS, "two buckets of a window never share a slot");

/* The exponent of @v; its mantissa, 1 <= m < 2, in @ret_mantissa as a double. */
static int32_t split(double v, double *ret_mantissa)
{
    int32_t exponent = -EXPONENT_BIAS;
    uint64_t bits;

    if (v < 0x1p-1022) { /* subnormal */
        v *= 0x1p52;
        exponent -= MANTISSA_BITS;
    }
    memcpy(&bits, &v, sizeof(bits));
    exponent += (int32_t)(bits >> MANTISSA_BITS & EXPONENT_MASK);
    bits = (bits & MANTISSA_MASK) | (uint64_t)EXPONENT_BIAS << MANTISSA_BITS;
    memcpy(ret_mantissa, &bits, sizeof(bits));
    return exponent;
}

int32_t histogram_index(double v, int32_t scale)
{
    double mantissa, position;
    int32_t exponent = split(v, &mantissa);
    int32_t per_octave, within;

    if (scale <= 0)
        return PAIR_UP(exponent - (mantissa == 1.0), -scale);
    per_octave = 1 << scale;
    if (mantissa == 1.0) /* the bounds that a double can hit: no logarithm decides about them */
        return exponent * per_octave - 1;
    position = log2(mantissa) * per_octave;
    within = (int32_t)position;
    if (within == position && within > 0)
        within--; /* rounded up to a bound: it cannot have been one */
    return exponent * per_octave + MIN(within, per_octave - 1);
}

double histogram_bound(int32_t index, int32_t scale)
{
    int64_t n = (int64_t)index + 1;
    int32_t per_octave;

    if (scale <= 0)
        return ldexp(1.0, (int)(n * (1 << -scale)));
    per_octave = 1 << scale;
    return ldexp(exp2((double)(n & (per_octave - 1)) / per_octave), (int)PAIR_UP(n, scale));
}

int32_t histogram_octave(int32_t index, int32_t scale)
{
    return scale >= 0 ? PAIR_UP(index, scale) + 1 : (index + 1) * (1 << -scale);
}

static void begin_rearranging(struct histogram *h)
{
    STORE(h->sequence, MINE(h->sequence) + 1);
}

static void end_rearranging(struct histogram *h)
{
    uint32_t next = MINE(h->sequence) + 1;

    STORE(h->sequence, next ? next : 2); /* 0 says that there are no buckets */
}

/* Join 2^@shift buckets into one, all over the window. */
static void join_buckets(struct histogram *h, int32_t shift)
{
    uint64_t counts[HISTOGRAM_SIZE];
    int32_t first = MINE(h->first), n = MINE(h->last) - first + 1;

    begin_rearranging(h);
    for (int32_t i = 0; i < n; i++) {
        counts[i] = MINE(SLOT(h, first + i));
        STORE(SLOT(h, first + i), 0);
    }
    for (int32_t i = 0; i < n; i++)
        ADD(SLOT(h, PAIR_UP(first + i, shift)), counts[i]);
    STORE(h->first, PAIR_UP(first, shift));
    STORE(h->last, PAIR_UP(first + n - 1, shift));
    STORE(h->scale, MINE(h->scale) - shift);
    end_rearranging(h);
}

/* Have the buckets @lo to @hi of @scale in the window. Afterwards the scale of @h may be less. */
static void make_room(struct histogram *h, int32_t scale, int32_t lo, int32_t hi)
{
    int32_t target = MIN(scale, MINE(h->scale));
    int32_t first = PAIR_UP(MINE(h->first), MINE(h->scale) - target);
    int32_t last = PAIR_UP(MINE(h->last), MINE(h->scale) - target);

    lo = MIN(first, PAIR_UP(lo, scale - target));
    hi = MAX(last, PAIR_UP(hi, scale - target));
    while ((int64_t)hi - lo >= HISTOGRAM_SIZE) {
        lo = PAIR_UP(lo, 1);
        hi = PAIR_UP(hi, 1);
        target--;
    }
    if (target < MINE(h->scale))
        join_buckets(h, MINE(h->scale) - target);
    STORE(h->first, lo);
    STORE(h->last, hi);
}

/* The first window of @h. */
static void make_window(struct histogram *h, int32_t scale, int32_t first, int32_t last)
{
    begin_rearranging(h);
    STORE(h->scale, scale);
    STORE(h->first, first);
    STORE(h->last, last);
    end_rearranging(h);
}

static void count_in_bucket(struct histogram *h, double v, uint64_t n)
{
    int32_t scale = MINE(h->scale);
    int32_t index;

    if (MINE(h->sequence) == 0) {
        scale = HISTOGRAM_MAX_SCALE;
        index = histogram_index(v, scale);
        make_window(h, scale, index, index);
    } else {
        index = histogram_index(v, scale);
        if (index < MINE(h->first) || index > MINE(h->last)) {
            make_room(h, scale, index, index);
            index = PAIR_UP(index, scale - MINE(h->scale));
        }
    }
    ADD(SLOT(h, index), n);
}

void histogram_record_many(struct histogram *h, double v, uint64_t n)
{
    if (!isfinite(v)) {
        ADD(h->rejected, n);
        return;
    }
    if (v > HISTOGRAM_ZERO)
        count_in_bucket(h, v, n);
    else
        ADD(h->zero_count, n);
    if (v > 0)
        ADD(h->sum, v * (double)n);
    if (v > MINE(h->max))
        STORE(h->max, v);
}

static bool try_read(struct histogram *h, struct histogram *ret)
{
    uint32_t sequence = THEIRS(h->sequence);

    if (sequence % 2)
        return false;
    memset(ret, 0, sizeof(*ret));
    ret->sequence = sequence;
    ret->zero_count = THEIRS(h->zero_count);
    ret->rejected = THEIRS(h->rejected);
    ret->sum = THEIRS(h->sum);
    ret->max = THEIRS(h->max);
    ret->scale = THEIRS(h->scale);
    ret->first = THEIRS(h->first);
    ret->last = THEIRS(h->last);
    /* The ends of two windows may have met here, of which the wider one is within the size. */
    for (int64_t i = ret->first; sequence && i <= ret->last && i - ret->first < HISTOGRAM_SIZE; i++)
        SLOT(ret, i) = THEIRS(SLOT(h, i));
    return MINE(h->sequence) == sequence;
}

void histogram_read(struct histogram *h, struct histogram *ret)
{
    while (!try_read(h, ret))
        sched_yield(); /* the writer needs a microsecond, if it runs at all */
}

void histogram_merge(struct histogram *to, const struct histogram *from)
{
    ADD(to->zero_count, from->zero_count);
    ADD(to->rejected, from->rejected);
    ADD(to->sum, from->sum);
    STORE(to->max, MAX(to->max, from->max));
    if (from->sequence == 0)
        return;
    if (to->sequence == 0)
        make_window(to, from->scale, from->first, from->last);
    else
        make_room(to, from->scale, from->first, from->last);
    for (int32_t i = from->first; i <= from->last; i++)
        ADD(SLOT(to, PAIR_UP(i, from->scale - to->scale)), SLOT(from, i));
}

void histogram_downscale(struct histogram *h, int32_t scale)
{
    if (h->sequence && h->scale > scale)
        join_buckets(h, h->scale - scale);
}

uint32_t histogram_used(const struct histogram *h)
{
    return h->sequence ? (uint32_t)(h->last - h->first + 1) : 0;
}

uint64_t histogram_count(const struct histogram *h)
{
    uint64_t n = h->zero_count;

    for (uint32_t i = 0; i < histogram_used(h); i++)
        n += SLOT(h, (uint32_t)h->first + i);
    return n;
}

struct quantile histogram_quantile(const struct histogram *h, double q)
{
    uint64_t count = histogram_count(h), below = h->zero_count, rank;
    struct quantile result = {0};
    int32_t index = h->first;

    if (count == 0)
        return result;
    rank = (uint64_t)ceil(q * (double)count);
    rank = MIN(MAX(rank, 1), count);
    if (rank <= below)
        return result;
    while ((below += SLOT(h, index)) < rank)
        index++;
    result.low = histogram_bound(index - 1, h->scale);
    result.high = MIN(histogram_bound(index, h->scale), h->max);
    result.low = MIN(result.low, result.high);
    /* 2 * low * high / (low + high), which neither overflows nor divides 0 by 0 */
    result.value = result.high / (0.5 + 0.5 * (result.high / result.low));
    return result;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_HISTOGRAM_H
#define THAW_OBSERVE_HISTOGRAM_H

/*
 * Base-2 exponential histogram, as the OpenTelemetry data model has it: at scale s the bucket of
 * index i holds the values v with base^i < v <= base^(i+1), where base = 2^(2^-s). It begins with
 * the finest scale; a value that would need more than HISTOGRAM_SIZE buckets makes the scale
 * smaller, which joins neighbours in pairs and loses no count. The scale never grows again.
 *
 * One thread records, without locks and without allocation; any other may take a copy meanwhile
 * with histogram_read(). Everything else is for copies, which belong to one thread. All zero bytes
 * are an empty histogram.
 */

#include <stdint.h>

/* What OpenTelemetry's SDKs use by default, and what the metrics of this project promise. */
#define HISTOGRAM_SIZE      160
#define HISTOGRAM_MAX_SCALE 20

/* Up to here a value counts as zero: the default of OpenTelemetry's translation to Prometheus. */
#define HISTOGRAM_ZERO 1e-128

#define HISTOGRAM_SLOTS 256 /* a power of two that HISTOGRAM_SIZE fits in */

struct histogram {
    /* [a] odd while the buckets are rearranged, 0 as long as there are none; see histogram.c */
    _Atomic uint32_t sequence;
    _Atomic int32_t scale, first, last; /* [a] the window: indexes of the outermost buckets */
    _Atomic uint64_t zero_count;        /* [a] values in -inf to HISTOGRAM_ZERO */
    _Atomic uint64_t rejected;          /* [a] not a number, or infinite: not part of the rest */
    _Atomic double sum, max;            /* [a] negative values are taken for 0 */
    /* [a] bucket i is in slot i % HISTOGRAM_SLOTS, so that the window grows without moving any */
    _Atomic uint64_t slots[HISTOGRAM_SLOTS];
};

/* A quantile lies between @low and @high; @value is where the relative error is the least. */
struct quantile {
    double value, low, high;
};

/**
 * histogram_record_many() - count @v @n times. The recording thread only; tens of nanoseconds
 *
 * Zero, anything below it and HISTOGRAM_ZERO count as zero; what is not finite as rejected.
 */
void histogram_record_many(struct histogram *h, double v, uint64_t n);

/** histogram_record() - count @v once */
static inline void histogram_record(struct histogram *h, double v)
{
    histogram_record_many(h, v, 1);
}

/**
 * histogram_read() - a copy of @h, which another thread may be recording in
 *
 * The buckets are those of one moment up to the values that come meanwhile. A value that is being
 * recorded may be in the sum and not in its bucket yet, or the other way round.
 */
void histogram_read(struct histogram *h, struct histogram *ret);

/** histogram_merge() - add all of @from, a copy, to @to */
void histogram_merge(struct histogram *to, const struct histogram *from);

/** histogram_downscale() - make the scale of @h at most @scale, which is -10 or more */
void histogram_downscale(struct histogram *h, int32_t scale);

/** histogram_count() - values that were recorded, without the rejected ones */
uint64_t histogram_count(const struct histogram *h);

/** histogram_used() - how many buckets the window has; 0 if there are none but the zero bucket */
uint32_t histogram_used(const struct histogram *h);

/** histogram_bucket() - the count of bucket @index, which is within the window */
static inline uint64_t histogram_bucket(const struct histogram *h, int32_t index)
{
    return h->slots[(uint32_t)index % HISTOGRAM_SLOTS];
}

/**
 * histogram_quantile() - where the value of rank ceil(@q * count) lies, for @q in 0 to 1
 *
 * Its bucket is known, it is not: at scale s the relative error of @value is at most
 * (base - 1) / (base + 1): 9 % at scale 2, 4.4 % at 3, 2.2 % at 4. Zeros for an empty histogram.
 */
struct quantile histogram_quantile(const struct histogram *h, double q);

/** histogram_index() - the bucket of @v, finite and above 0, at @scale of -10 to 20 */
int32_t histogram_index(double v, int32_t scale);

/** histogram_bound() - the upper bound of bucket @index; infinite beyond what a double holds */
double histogram_bound(int32_t index, int32_t scale);

/**
 * histogram_octave() - the least k for which all of bucket @index is <= 2^k
 *
 * Where the scale is 0 or more no bucket reaches across a power of two, so that counts up to 2^k
 * are exact; below, a bucket counts as what its upper bound is.
 */
int32_t histogram_octave(int32_t index, int32_t scale);

#endif

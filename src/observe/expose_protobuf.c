/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/expose.h"

#include <math.h>
#include <string.h>

#include "observe/registry.h"

/*
 * MetricFamily of Prometheus' client model, by hand: protobuf.dev, "Encoding", and the field
 * numbers of io/prometheus/client/metrics.proto. A message inside another one is made in a buffer
 * of its own, as its length comes first; these are tens of bytes.
 */

enum wire_type { WIRE_VARINT = 0, WIRE_FIXED64 = 1, WIRE_BYTES = 2 };

enum { FAMILY_NAME = 1, FAMILY_HELP = 2, FAMILY_TYPE = 3, FAMILY_METRIC = 4 };
enum { TYPE_COUNTER = 0, TYPE_GAUGE = 1, TYPE_HISTOGRAM = 4 };
enum { METRIC_LABEL = 1, METRIC_GAUGE = 2, METRIC_COUNTER = 3, METRIC_HISTOGRAM = 7 };
enum { LABEL_NAME = 1, LABEL_VALUE = 2 };
enum { VALUE = 1 }; /* of a Gauge and of a Counter */
enum {
    HISTOGRAM_SAMPLE_COUNT = 1,
    HISTOGRAM_SAMPLE_SUM = 2,
    HISTOGRAM_BUCKET = 3,
    HISTOGRAM_SCHEMA = 5,
    HISTOGRAM_ZERO_THRESHOLD = 6,
    HISTOGRAM_ZERO_COUNT = 7,
    HISTOGRAM_POSITIVE_SPAN = 12,
    HISTOGRAM_POSITIVE_DELTA = 13,
};
enum { BUCKET_CUMULATIVE_COUNT = 1, BUCKET_UPPER_BOUND = 2 };
enum { SPAN_OFFSET = 1, SPAN_LENGTH = 2 };

/* Two empty buckets between others cost less as zeros than as a span. */
#define GAP_MAX 2

/* ---- protobuf ---- */

static void put_varint(struct buf *to, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        buf_put_u8(to, (uint8_t)(v | 0x80));
    buf_put_u8(to, (uint8_t)v);
}

/* sint32 and sint64: 0, -1, 1, -2 ... as 0, 1, 2, 3 ... */
static uint64_t zigzag(int64_t v)
{
    return (uint64_t)v << 1 ^ (v < 0 ? UINT64_MAX : 0);
}

static void put_key(struct buf *to, unsigned field, enum wire_type type)
{
    put_varint(to, (uint64_t)field << 3 | type);
}

static void put_number(struct buf *to, unsigned field, uint64_t v)
{
    put_key(to, field, WIRE_VARINT);
    put_varint(to, v);
}

static void put_double(struct buf *to, unsigned field, double v)
{
    uint64_t bits;

    memcpy(&bits, &v, sizeof(bits));
    put_key(to, field, WIRE_FIXED64);
    buf_put_u64(to, bits);
}

static void put_string(struct buf *to, unsigned field, const char *text)
{
    size_t len = strlen(text);

    put_key(to, field, WIRE_BYTES);
    put_varint(to, len);
    buf_put(to, text, len);
}

/* Append @message as a field of @to, and empty it for the next one. */
static void put_message(struct buf *to, unsigned field, struct buf *message)
{
    put_key(to, field, WIRE_BYTES);
    put_varint(to, message->len);
    buf_put(to, message->data, message->len);
    to->failed |= message->failed;
    message->len = 0;
}

/* ---- histograms ---- */

static void put_classic_buckets(struct buf *to, const struct histogram *h)
{
    struct buf bucket CLEANUP_BUF = {0};
    uint64_t counts[EXPOSE_LADDER_STEPS];

    expose_ladder(h, counts);
    for (int i = 0; i < EXPOSE_LADDER_STEPS; i++) {
        put_number(&bucket, BUCKET_CUMULATIVE_COUNT, counts[i]);
        put_double(&bucket, BUCKET_UPPER_BOUND, ldexp(1.0, EXPOSE_LADDER_LOW + i));
        put_message(to, HISTOGRAM_BUCKET, &bucket);
    }
}

static void put_span(struct buf *to, int64_t offset, uint32_t len)
{
    struct buf span CLEANUP_BUF = {0};

    put_number(&span, SPAN_OFFSET, zigzag(offset));
    put_number(&span, SPAN_LENGTH, len);
    put_message(to, HISTOGRAM_POSITIVE_SPAN, &span);
}

/* How many buckets are one span that begins with @at: up to the last one before a wider gap. */
static uint32_t span_length(const struct histogram *h, int32_t at)
{
    uint32_t len = 0;

    for (int32_t i = at; i <= h->last && i - at - (int32_t)len <= GAP_MAX; i++) {
        if (histogram_bucket(h, i))
            len = (uint32_t)(i - at) + 1;
    }
    return len;
}

/*
 * The buckets that hold something, as runs and as the difference of each count to the one before
 * it. Prometheus numbers a bucket by its upper bound, OpenTelemetry by its lower one: 1 apart.
 */
static void put_native_buckets(struct buf *to, const struct histogram *h)
{
    struct buf deltas CLEANUP_BUF = {0};
    int64_t before = 0, next = 0; /* the count before; where an offset of 0 would be */
    int32_t at = h->first;

    while (histogram_used(h) && at <= h->last) {
        uint32_t len;

        if (histogram_bucket(h, at) == 0) {
            at++;
            continue;
        }
        len = span_length(h, at);
        put_span(to, (int64_t)at + 1 - next, len);
        for (uint32_t i = 0; i < len; i++, at++) {
            int64_t count = (int64_t)histogram_bucket(h, at);

            put_varint(&deltas, zigzag(count - before));
            before = count;
        }
        next = (int64_t)at + 1;
    }
    if (deltas.len > 0)
        put_message(to, HISTOGRAM_POSITIVE_DELTA, &deltas); /* packed: a run of varints */
    to->failed |= deltas.failed;
}

static void put_histogram(struct buf *to, const struct histogram *from)
{
    struct histogram h = *from;

    histogram_downscale(&h, EXPOSE_SCHEMA_MAX);
    put_number(to, HISTOGRAM_SAMPLE_COUNT, histogram_count(&h));
    put_double(to, HISTOGRAM_SAMPLE_SUM, h.sum);
    put_classic_buckets(to, &h);
    put_number(to, HISTOGRAM_SCHEMA, zigzag(histogram_used(&h) ? h.scale : EXPOSE_SCHEMA_MAX));
    put_double(to, HISTOGRAM_ZERO_THRESHOLD, HISTOGRAM_ZERO);
    put_number(to, HISTOGRAM_ZERO_COUNT, h.zero_count);
    put_native_buckets(to, &h);
}

/* ---- families ---- */

static void put_labels(struct buf *to, const struct metric *m, unsigned n)
{
    struct buf label CLEANUP_BUF = {0};

    for (unsigned i = 0; i < METRIC_ATTRIBUTES_MAX && m->attributes[i]; i++) {
        put_string(&label, LABEL_NAME, m->attributes[i]->name);
        put_string(&label, LABEL_VALUE, metric_value_of(m, n, i));
        put_message(to, METRIC_LABEL, &label);
    }
}

static void put_series(struct buf *to, const struct metric *m, unsigned n,
                       const struct metrics *from)
{
    static const unsigned fields[] = {
        [METRIC_KIND_COUNTER] = METRIC_COUNTER,
        [METRIC_KIND_GAUGE] = METRIC_GAUGE,
        [METRIC_KIND_HISTOGRAM] = METRIC_HISTOGRAM,
    };
    struct buf value CLEANUP_BUF = {0};

    if (m->kind == METRIC_KIND_HISTOGRAM)
        put_histogram(&value, &from->histograms[m->histogram + n]);
    else
        put_double(&value, VALUE, from->values[m->series + n]);
    put_labels(to, m, n);
    put_message(to, fields[m->kind], &value);
}

static void put_family(struct buf *to, const struct metric *m, const struct metrics *from)
{
    static const unsigned types[] = {
        [METRIC_KIND_COUNTER] = TYPE_COUNTER,
        [METRIC_KIND_GAUGE] = TYPE_GAUGE,
        [METRIC_KIND_HISTOGRAM] = TYPE_HISTOGRAM,
    };
    struct buf series CLEANUP_BUF = {0};
    char name[METRIC_PROMETHEUS_NAME_MAX];

    metric_prometheus_name(m, name);
    put_string(to, FAMILY_NAME, name);
    put_string(to, FAMILY_HELP, m->help);
    put_number(to, FAMILY_TYPE, types[m->kind]);
    for (unsigned i = 0; i < m->count; i++) {
        put_series(&series, m, i, from);
        put_message(to, FAMILY_METRIC, &series);
    }
}

void expose_protobuf(const struct metrics *m, struct buf *to)
{
    struct buf family CLEANUP_BUF = {0};

    for (unsigned i = 0; i < METRICS; i++) {
        put_family(&family, &metric_registry[i], m);
        put_varint(to, family.len);
        buf_put(to, family.data, family.len);
        to->failed |= family.failed;
        family.len = 0;
    }
}

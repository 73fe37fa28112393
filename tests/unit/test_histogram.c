/* SPDX-License-Identifier: Apache-2.0 */
#include "unit.h"

#include <float.h>
#include <math.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/test_random.h"
#include "base/thread.h"
#include "base/units.h"
#include "observe/histogram.h"

#define MIN_SCALE (-4) /* at which 160 buckets hold every double */

/* ---- the model: keeps every value, and knows no shortcuts ---- */

struct model {
    double v[5000];
    size_t n;
};

/* By a logarithm that is more precise than a double, which the histogram does not use. */
static int64_t model_index(double v, int32_t scale)
{
    return (int64_t)ceill(log2l((long double)v) * powl(2, scale)) - 1;
}

static int32_t model_scale(const struct model *m)
{
    double lo = INFINITY, hi = 0;
    int32_t scale = HISTOGRAM_MAX_SCALE;

    for (size_t i = 0; i < m->n; i++) {
        if (m->v[i] > HISTOGRAM_ZERO) {
            lo = fmin(lo, m->v[i]);
            hi = fmax(hi, m->v[i]);
        }
    }
    while (hi > 0 && model_index(hi, scale) - model_index(lo, scale) >= HISTOGRAM_SIZE)
        scale--;
    return scale;
}

static void check_against_model(const struct histogram *h, const struct model *m)
{
    static uint64_t counts[2 * HISTOGRAM_SIZE];
    int32_t scale = model_scale(m);
    uint64_t zeros = 0;
    double sum = 0;

    memset(counts, 0, sizeof(counts));
    for (size_t i = 0; i < m->n; i++) {
        sum += fmax(m->v[i], 0);
        if (m->v[i] <= HISTOGRAM_ZERO)
            zeros++;
        else
            counts[model_index(m->v[i], scale) - h->first]++;
    }
    assert_int_equal(h->zero_count, zeros);
    assert_int_equal(histogram_count(h), m->n);
    assert_true(fabs(h->sum - sum) <= 1e-9 * sum);
    if (histogram_used(h) == 0) {
        assert_int_equal(zeros, m->n);
        return;
    }
    assert_int_equal(h->scale, scale);
    assert_in_range(histogram_used(h), 1, HISTOGRAM_SIZE);
    for (uint32_t i = 0; i < histogram_used(h); i++)
        assert_int_equal(histogram_bucket(h, h->first + (int32_t)i), counts[i]);
    assert_true(histogram_bucket(h, h->first) > 0);
    assert_true(histogram_bucket(h, h->last) > 0);
}

/* From very close together to all that a double can be, and now and then something special. */
static double random_value(struct test_random *random, unsigned kind)
{
    static const double spread[] = {1e-5, 0.01, 1, 8, 40, 200, 1000};
    double unit = (double)(test_random_next(random) >> 11) * 0x1p-53;

    switch (test_random_next(random) % 16) {
    case 0:
        return 0;
    case 1:
        return -unit;
    case 2: /* a bound of every scale */
        return ldexp(1, (int)((unit - 0.5) * spread[kind]));
    default:
        return exp2((unit - 0.5) * spread[kind]);
    }
}

static void records_as_the_model(void **state)
{
    struct test_random seed = {1};

    (void)state;
    for (unsigned round = 0; round < 140; round++) {
        static struct model m;
        struct histogram h = {0};

        m.n = 1 + test_random_next(&seed) % (round < 100 ? 30 : ARRAY_SIZE(m.v));
        for (size_t i = 0; i < m.n; i++) {
            m.v[i] = random_value(&seed, round % 7);
            histogram_record(&h, m.v[i]);
        }
        check_against_model(&h, &m);
    }
}

static void merges_as_the_model(void **state)
{
    struct test_random seed = {2};

    (void)state;
    for (unsigned round = 0; round < 140; round++) {
        static struct model m;
        static struct histogram part[5];
        struct histogram sum = {0};

        memset(part, 0, sizeof(part));
        m.n = test_random_next(&seed) % (round < 100 ? 40 : ARRAY_SIZE(m.v));
        for (size_t i = 0; i < m.n; i++) {
            unsigned to = (unsigned)(test_random_next(&seed) % ARRAY_SIZE(part));

            /* Each part has values of another size, so that scales and windows differ. */
            m.v[i] =
                random_value(&seed, (round + to) % 7) * (round % 2 ? 1 : ldexp(1, 10 * (int)to));
            histogram_record(&part[to], m.v[i]);
        }
        for (unsigned i = 0; i < ARRAY_SIZE(part); i++) {
            struct histogram copy;

            histogram_read(&part[i], &copy);
            histogram_merge(&sum, &copy);
        }
        check_against_model(&sum, &m);
    }
}

static void bounds_at_powers_of_two(void **state)
{
    (void)state;
    for (int32_t scale = MIN_SCALE; scale <= HISTOGRAM_MAX_SCALE; scale++) {
        for (int e = -1074; e <= 1023; e++) {
            double v = ldexp(1, e);
            int64_t at = model_index(v, scale);

            assert_int_equal(histogram_index(v, scale), at);
            if (scale < 0)
                continue;
            /* The bound belongs to the bucket below it, and what follows it to the next one. */
            assert_int_equal(at, (int64_t)e * (1 << scale) - 1);
            assert_true(histogram_bound((int32_t)at, scale) == v);
            if (e > -1022) {
                assert_int_equal(histogram_index(nextafter(v, INFINITY), scale), at + 1);
                assert_int_equal(histogram_index(nextafter(v, 0), scale), at);
            }
            assert_int_equal(histogram_octave((int32_t)at, scale), e);
            if (e < 1023)
                assert_int_equal(histogram_octave((int32_t)at + 1, scale), e + 1);
        }
    }
    assert_int_equal(histogram_index(DBL_MAX, 0), 1023);
    assert_int_equal(histogram_index(DBL_MAX, MIN_SCALE), 63);
    assert_int_equal(histogram_index(0x1p-1074, MIN_SCALE), -68);
    assert_true(isinf(histogram_bound(1023, 0)));
}

static void values_lie_within_their_bounds(void **state)
{
    struct test_random seed = {3};

    (void)state;
    for (unsigned i = 0; i < 200000; i++) {
        int32_t scale = MIN_SCALE + (int32_t)(test_random_next(&seed) % 25);
        double v = fabs(random_value(&seed, i % 7));
        double ulp = v * DBL_EPSILON * 2; /* what log2() and exp2() may be off */
        int32_t index;

        if (v == 0)
            continue;
        index = histogram_index(v, scale);
        assert_true(histogram_bound(index - 1, scale) < v + ulp);
        assert_true(histogram_bound(index, scale) >= v - ulp);
    }
}

static void takes_subnormals_for_what_they_are(void **state)
{
    (void)state;
    assert_int_equal(histogram_index(0x1p-1074, 0), -1075);
    assert_int_equal(histogram_index(0x1.8p-1073, 0), -1073);
    assert_int_equal(histogram_index(0x1p-1030, 3), -1030 * 8 - 1);
    assert_int_equal(histogram_index(0x1.8p-1030, 1), -1030 * 2 + 1);
}

static void rejects_what_is_not_finite(void **state)
{
    struct histogram h = {0};

    (void)state;
    histogram_record(&h, NAN);
    histogram_record(&h, INFINITY);
    histogram_record(&h, -INFINITY);
    assert_int_equal(h.rejected, 3);
    assert_int_equal(histogram_count(&h), 0);
    assert_true(h.sum == 0);
    histogram_record(&h, DBL_MAX);
    histogram_record(&h, DBL_TRUE_MIN);
    histogram_record(&h, -5);
    assert_int_equal(histogram_count(&h), 3);
    assert_int_equal(h.zero_count, 2);
    assert_true(h.sum == DBL_MAX && h.max == DBL_MAX);
}

static void many_at_once_are_as_one_by_one(void **state)
{
    static const double values[] = {-1, 0, 0.25, 3, 1e9, NAN};
    struct histogram many = {0}, one = {0};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(values); i++) {
        histogram_record_many(&many, values[i], i + 2);
        for (size_t n = 0; n < i + 2; n++)
            histogram_record(&one, values[i]);
    }
    assert_true(many.sum == one.sum);
    assert_int_equal(many.rejected, one.rejected);
    assert_int_equal(many.zero_count, one.zero_count);
    assert_memory_equal(many.slots, one.slots, sizeof(one.slots));
}

/* 160 buckets fit, 161 do not; and what is made coarser keeps what is below 1, too. */
static void scale_is_the_finest_that_fits(void **state)
{
    struct histogram fits = {0}, does_not = {0}, around_one = {0};

    (void)state;
    histogram_record(&fits, 1);
    histogram_record(&fits, 0x1p159);
    assert_int_equal(fits.scale, 0);
    assert_int_equal(histogram_used(&fits), HISTOGRAM_SIZE);
    histogram_record(&does_not, 1);
    histogram_record(&does_not, 0x1p160);
    assert_int_equal(does_not.scale, -1);
    assert_int_equal(histogram_used(&does_not), 81);

    histogram_record(&around_one, 0.9999);
    histogram_record(&around_one, 1.0001);
    histogram_downscale(&around_one, 8);
    assert_int_equal(around_one.scale, 8);
    assert_int_equal(around_one.first, -1);
    assert_int_equal(around_one.last, 0);
    assert_int_equal(histogram_count(&around_one), 2);
    histogram_downscale(&around_one, 10);
    assert_int_equal(around_one.scale, 8);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void quantiles_enclose_the_true_ones(void **state)
{
    static const double qs[] = {0, 0.01, 0.5, 0.9, 0.95, 0.99, 1};
    struct test_random seed = {4};

    (void)state;
    for (unsigned round = 0; round < 60; round++) {
        static struct model m;
        struct histogram h = {0};
        double base;

        m.n = 1 + test_random_next(&seed) % ARRAY_SIZE(m.v);
        for (size_t i = 0; i < m.n; i++) {
            m.v[i] = fmax(random_value(&seed, round % 5), 0);
            histogram_record(&h, m.v[i]);
        }
        qsort(m.v, m.n, sizeof(m.v[0]), compare);
        base = exp2(exp2(-(double)h.scale));
        for (unsigned i = 0; i < ARRAY_SIZE(qs); i++) {
            size_t rank = (size_t)fmax(ceil(qs[i] * (double)m.n), 1);
            struct quantile q = histogram_quantile(&h, qs[i]);
            double v = m.v[rank - 1], error = (base - 1) / (base + 1);

            assert_true(q.low <= v * (1 + 1e-12) && v <= q.high * (1 + 1e-12));
            assert_true(fabs(q.value - v) <= v * (error + 1e-12));
        }
    }
}

static void no_quantile_of_nothing(void **state)
{
    struct histogram h = {0};
    struct quantile q = histogram_quantile(&h, 0.5);

    (void)state;
    assert_true(q.value == 0 && q.low == 0 && q.high == 0);
}

/* ---- recorded while it is read ---- */

struct race {
    struct histogram h;
    _Atomic uint64_t started, done;
};

#define RACE_VALUES 300000

static void *record_wider_and_wider(void *arg)
{
    struct race *r = arg;

    for (uint64_t i = 0; i < RACE_VALUES; i++) {
        /* A new scale every now and then: 30 octaves, in steps that become rarer. */
        atomic_store(&r->started, i + 1);
        histogram_record(&r->h, exp2(-15 + 30 * (double)(i * 7919 % (i + 1)) / RACE_VALUES));
        atomic_store(&r->done, i + 1);
    }
    return NULL;
}

static void copies_are_whole_while_it_is_recorded_in(void **state)
{
    static struct race r;
    uint64_t last = 0, before, after;
    pthread_t t;

    (void)state;
    assert_int_equal(thread_start(&t, "recorder", record_wider_and_wider, &r), 0);
    do {
        struct histogram copy;
        uint64_t n;

        before = atomic_load(&r.done);
        histogram_read(&r.h, &copy);
        after = atomic_load(&r.started);
        n = histogram_count(&copy);
        assert_true(n >= last && n <= after);
        assert_true(n >= before);
        last = n;
    } while (before < RACE_VALUES);
    thread_join(t);
    assert_int_equal(histogram_count(&r.h), RACE_VALUES);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(records_as_the_model),
        cmocka_unit_test(merges_as_the_model),
        cmocka_unit_test(bounds_at_powers_of_two),
        cmocka_unit_test(values_lie_within_their_bounds),
        cmocka_unit_test(takes_subnormals_for_what_they_are),
        cmocka_unit_test(rejects_what_is_not_finite),
        cmocka_unit_test(many_at_once_are_as_one_by_one),
        cmocka_unit_test(scale_is_the_finest_that_fits),
        cmocka_unit_test(quantiles_enclose_the_true_ones),
        cmocka_unit_test(no_quantile_of_nothing),
        cmocka_unit_test(copies_are_whole_while_it_is_recorded_in),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

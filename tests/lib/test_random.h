/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_TEST_RANDOM_H
#define THAW_TESTS_TEST_RANDOM_H

/* Seeded numbers for property tests: the same sequence on every machine (SplitMix64). */

#include <stdint.h>

struct test_random {
    uint64_t state;
};

static inline uint64_t test_random_next(struct test_random *t)
{
    uint64_t z = t->state += UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ z >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ z >> 27) * UINT64_C(0x94d049bb133111eb);
    return z ^ z >> 31;
}

/** test_random_below() - a number below @n, which is not 0 */
static inline uint64_t test_random_below(struct test_random *t, uint64_t n)
{
    return test_random_next(t) % n;
}

#endif

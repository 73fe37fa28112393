/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/numbers.h"

#include <assert.h>
#include <errno.h>
#include <sys/mman.h>

#include "base/units.h"

#define NONE UINT32_MAX
#define ALL  UINT16_MAX

_Static_assert(NUMBERS_GROUP == 16, "a bit of a uint16_t for each");

/* Costs nothing until it is touched. */
static void *table(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);

    return p == MAP_FAILED ? NULL : p;
}

int numbers_init(struct numbers *n, uint32_t count)
{
    *n = (struct numbers){.groups = (uint32_t)div_round_up(count, NUMBERS_GROUP), .free = NONE};
    n->used = table(n->groups * sizeof(*n->used));
    n->next = table(n->groups * sizeof(*n->next));
    return n->used && n->next ? 0 : -ENOMEM;
}

void numbers_finish(struct numbers *n)
{
    if (n->used)
        munmap(n->used, n->groups * sizeof(*n->used));
    if (n->next)
        munmap(n->next, n->groups * sizeof(*n->next));
    *n = (struct numbers){0};
}

/* A group of which nothing is used; or NONE. */
static uint32_t take_group(struct numbers *n)
{
    uint32_t group = n->free;

    if (group != NONE)
        n->free = n->next[group];
    else if (n->fresh < n->groups)
        group = n->fresh++;
    return group;
}

/* The first one with a gap. This is for the end of the table, which few ever come to. */
static uint32_t find_gap(const struct numbers *n)
{
    for (uint32_t group = 0; group < n->groups; group++) {
        if (n->used[group] != ALL)
            return group;
    }
    return NONE;
}

uint32_t numbers_take(struct numbers *n, uint32_t want, uint32_t *ret)
{
    uint32_t group = want > 0 ? take_group(n) : NONE, first, count = 0;

    if (group == NONE && want > 0)
        group = find_gap(n);
    if (group == NONE)
        return 0;
    first = (uint32_t)__builtin_ctz(~(uint32_t)n->used[group]);
    while (count < want && first + count < NUMBERS_GROUP &&
           !(n->used[group] >> (first + count) & 1))
        n->used[group] |= (uint16_t)(1u << (first + count++));
    *ret = group * NUMBERS_GROUP + first;
    return count;
}

void numbers_put(struct numbers *n, uint32_t number)
{
    uint32_t group = number / NUMBERS_GROUP;
    uint16_t bit = (uint16_t)(1u << number % NUMBERS_GROUP);

    assert(n->used[group] & bit);
    n->used[group] &= (uint16_t)~bit;
    if (n->used[group] == 0) {
        n->next[group] = n->free;
        n->free = group;
    }
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "format/build_table.h"

#include <errno.h>
#include <stdlib.h>

#include <xxhash.h>

#define FIRST_SLOTS 64

/* The slot that holds @id, or the free one where it belongs. There is always a free one. */
static uint16_t *slot_of(const struct build_table *t, const struct uuid *id)
{
    size_t i = XXH3_64bits_withSeed(id->b, sizeof(id->b), t->seed) & (t->slot_count - 1);

    while (t->slots[i] > 0 && uuid_compare(&t->builds[t->slots[i] - 1].id, id) != 0)
        i = (i + 1) & (t->slot_count - 1);
    return &t->slots[i];
}

struct header_build *build_table_find(const struct build_table *t, const struct uuid *id)
{
    uint16_t slot = t->slot_count > 0 ? *slot_of(t, id) : 0;

    return slot > 0 ? &t->builds[slot - 1] : NULL;
}

static int grow_slots(struct build_table *t)
{
    size_t count = t->slot_count ? t->slot_count * 2 : FIRST_SLOTS;
    uint16_t *slots = calloc(count, sizeof(*slots));

    if (!slots)
        return -ENOMEM;
    free(t->slots);
    t->slots = slots;
    t->slot_count = count;
    for (size_t i = 0; i < t->count; i++)
        *slot_of(t, &t->builds[i].id) = (uint16_t)(i + 1);
    return 0;
}

static int grow_builds(struct build_table *t)
{
    size_t cap = t->cap ? t->cap * 2 : 16;
    void *grown = reallocarray(t->builds, cap, sizeof(*t->builds));

    if (!grown)
        return -ENOMEM;
    t->builds = grown;
    t->cap = cap;
    return 0;
}

int build_table_add(struct build_table *t, const struct uuid *id, uint16_t *ret)
{
    const struct header_build *found = build_table_find(t, id);

    if (found) {
        *ret = (uint16_t)(found - t->builds);
        return 0;
    }
    if (t->count == MAP_MAX_BUILDS)
        return -E2BIG;
    if (t->count == t->cap && grow_builds(t) < 0)
        return -ENOMEM;
    if ((t->count + 1) * 2 > t->slot_count && grow_slots(t) < 0)
        return -ENOMEM;
    t->builds[t->count] = (struct header_build){.id = *id};
    t->count++;
    *slot_of(t, id) = (uint16_t)t->count;
    *ret = (uint16_t)(t->count - 1);
    return 0;
}

void header_builds_destroy(struct header_build *builds, size_t count)
{
    for (size_t i = 0; i < count; i++)
        frame_table_finish(&builds[i].frames);
    free(builds);
}

void build_table_finish(struct build_table *t)
{
    header_builds_destroy(t->builds, t->count);
    free(t->slots);
    *t = (struct build_table){0};
}

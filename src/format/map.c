/* SPDX-License-Identifier: Apache-2.0 */
#include "format/map.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/*
 * Of the starts, every 64th is kept a second time: a search of a million runs then spends its first
 * fourteen steps in 64 KiB that stay in the nearest caches, and its last six in four cache lines.
 */
#define RUNS_PER_SAMPLE 64

struct map {
    uint32_t *starts; /* columns, owned, run_count entries each; ascending from 0 */
    uint32_t *storage;
    uint16_t *builds;
    size_t run_count;
    uint32_t *samples; /* owned; starts of runs 0, 64, 128 … */
    size_t sample_count;
    uint32_t page_count; /* end of the last run */
};

/* The last of @count ascending numbers that is at most @page; the first one is. */
static size_t last_up_to(const uint32_t *numbers, size_t count, uint32_t page)
{
    const uint32_t *first = numbers;

    /* The half to look at is picked without a branch: a mispredicted one would cost more. */
    while (count > 1) {
        size_t half = count / 2;

        first += first[half] <= page ? half : 0;
        count -= half;
    }
    return (size_t)(first - numbers);
}

static size_t run_of_page(const struct map *m, uint32_t page)
{
    size_t from = last_up_to(m->samples, m->sample_count, page) * RUNS_PER_SAMPLE;

    return from + last_up_to(m->starts + from, MIN(RUNS_PER_SAMPLE, m->run_count - from), page);
}

static bool run_holds(const struct map *m, size_t i, uint32_t page)
{
    return i < m->run_count && m->starts[i] <= page &&
           (i + 1 == m->run_count || page < m->starts[i + 1]);
}

int map_lookup(const struct map *m, struct image_off off, struct map_extent *ret)
{
    size_t near = m->run_count;

    return map_lookup_near(m, off, &near, ret);
}

int map_lookup_near(const struct map *m, struct image_off off, size_t *near, struct map_extent *ret)
{
    uint64_t end = (uint64_t)m->page_count * PAGE_BYTES;
    uint32_t page = (uint32_t)(off.v / PAGE_BYTES);
    uint64_t start;
    size_t i = *near;

    if (off.v >= end)
        return -ERANGE;
    if (!run_holds(m, i, page) && !run_holds(m, ++i, page))
        i = run_of_page(m, page);
    *near = i;
    start = m->starts[i] * PAGE_BYTES;
    if (i + 1 < m->run_count)
        end = m->starts[i + 1] * PAGE_BYTES;
    *ret = (struct map_extent){
        .zero = m->builds[i] == MAP_ZERO,
        .build = m->builds[i],
        .len_bytes = end - off.v,
    };
    if (!ret->zero)
        ret->storage.v = m->storage[i] * PAGE_BYTES + (off.v - start);
    return 0;
}

uint32_t map_page_count(const struct map *m)
{
    return m->page_count;
}

size_t map_run_count(const struct map *m)
{
    return m->run_count;
}

struct map_run map_run_at(const struct map *m, size_t i)
{
    assert(i < m->run_count);
    return (struct map_run){
        .start = m->starts[i],
        .storage = m->storage[i],
        .build = m->builds[i],
    };
}

uint32_t map_run_pages(const struct map *m, size_t i)
{
    assert(i < m->run_count);
    return (i + 1 < m->run_count ? m->starts[i + 1] : m->page_count) - m->starts[i];
}

bool map_equal(const struct map *a, const struct map *b)
{
    if (a->page_count != b->page_count || a->run_count != b->run_count)
        return false;
    for (size_t i = 0; i < a->run_count; i++) {
        if (a->starts[i] != b->starts[i] || a->storage[i] != b->storage[i] ||
            a->builds[i] != b->builds[i])
            return false;
    }
    return true; /* both are normal: equal content has equal runs */
}

void map_destroy(struct map *m)
{
    if (!m)
        return;
    free(m->starts);
    free(m->storage);
    free(m->builds);
    free(m->samples);
    free(m);
}

/* Gives @column room for @count entries; it stays as it is when there is no memory. */
static int resize_column(void *column, size_t count, size_t entry_bytes)
{
    void **p = column;
    void *grown = reallocarray(*p, count ? count : 1, entry_bytes);

    if (!grown)
        return -ENOMEM;
    *p = grown;
    return 0;
}

static int resize_columns(struct map *m, size_t count)
{
    if (resize_column(&m->starts, count, sizeof(*m->starts)) < 0 ||
        resize_column(&m->storage, count, sizeof(*m->storage)) < 0 ||
        resize_column(&m->builds, count, sizeof(*m->builds)) < 0)
        return -ENOMEM;
    return 0;
}

int map_builder_reserve(struct map_builder *b, size_t run_count)
{
    if (!b->map) {
        b->map = calloc(1, sizeof(*b->map));
        if (!b->map)
            return -ENOMEM;
    }
    if (run_count <= b->cap)
        return 0;
    if (resize_columns(b->map, run_count) < 0)
        return -ENOMEM; /* a column that grew all the same does no harm */
    b->cap = run_count;
    return 0;
}

static bool continues_last_run(const struct map *m, uint16_t build, uint32_t storage)
{
    size_t last = m->run_count - 1;

    if (m->run_count == 0 || m->builds[last] != build)
        return false;
    return build == MAP_ZERO ||
           (uint64_t)m->storage[last] + (m->page_count - m->starts[last]) == storage;
}

int map_builder_add(struct map_builder *b, uint32_t pages, uint16_t build, uint32_t storage)
{
    struct map *m;

    if (pages == 0)
        return 0;
    if (build == MAP_ZERO)
        storage = 0;
    if (pages > MAP_MAX_PAGES - storage)
        return -EOVERFLOW;
    if (map_builder_reserve(b, 1) < 0)
        return -ENOMEM;
    m = b->map;
    if (pages > MAP_MAX_PAGES - m->page_count)
        return -EOVERFLOW;
    if (!continues_last_run(m, build, storage)) {
        if (m->run_count == b->cap && map_builder_reserve(b, b->cap * 2) < 0)
            return -ENOMEM;
        m->starts[m->run_count] = m->page_count;
        m->storage[m->run_count] = storage;
        m->builds[m->run_count] = build;
        m->run_count++;
    }
    m->page_count += pages;
    return 0;
}

static int take_samples(struct map *m)
{
    size_t count = div_round_up(m->run_count, RUNS_PER_SAMPLE);

    if (resize_column(&m->samples, count, sizeof(*m->samples)) < 0)
        return -ENOMEM;
    for (size_t i = 0; i < count; i++)
        m->samples[i] = m->starts[i * RUNS_PER_SAMPLE];
    m->sample_count = count;
    return 0;
}

int map_builder_finish(struct map_builder *b, struct map **ret)
{
    if (map_builder_reserve(b, 1) < 0)
        return -ENOMEM;
    if (take_samples(b->map) < 0)
        return -ENOMEM;
    /* Giving back what is unused may fail; nothing is wrong with the map then. */
    if (b->map->run_count < b->cap)
        (void)resize_columns(b->map, b->map->run_count);
    b->cap = 0;
    *ret = TAKE_PTR(b->map);
    return 0;
}

void map_builder_discard(struct map_builder *b)
{
    map_destroy(b->map);
    *b = (struct map_builder){0};
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "format/map_layer.h"

#include <assert.h>
#include <errno.h>

/*
 * Merging walks three sequences in step: the parent's runs and the two page sets. At each page a
 * cursor tells who owns it and how far that holds; the smallest of the distances is one step.
 */

struct set_cursor {
    const struct page_set *set;
    size_t at;       /* the range that holds the page, or the next one behind it */
    uint64_t packed; /* pages of the set before range @at */
};

static void set_cursor_seek(struct set_cursor *c, uint64_t page)
{
    while (c->at < c->set->count) {
        const struct page_range *r = &c->set->ranges[c->at];

        if (page < (uint64_t)r->start + r->pages)
            return;
        c->packed += r->pages;
        c->at++;
    }
}

/* Whether the set holds @page; *@end becomes at most the page where that changes. */
static bool set_cursor_holds(const struct set_cursor *c, uint64_t page, uint64_t *end)
{
    const struct page_range *r;

    if (c->at == c->set->count)
        return false;
    r = &c->set->ranges[c->at];
    if (page < r->start) {
        *end = MIN(*end, r->start);
        return false;
    }
    *end = MIN(*end, (uint64_t)r->start + r->pages);
    return true;
}

/* Where @page, which the set holds, lies in the data packed from the set. */
static uint64_t set_cursor_storage(const struct set_cursor *c, uint64_t page)
{
    return c->packed + (page - c->set->ranges[c->at].start);
}

static bool set_within(const struct page_set *s, uint32_t page_count)
{
    const struct page_range *last = s->count > 0 ? &s->ranges[s->count - 1] : NULL;

    return !last || (uint64_t)last->start + last->pages <= page_count;
}

/* Appends pages [@from, @to) of @m, which lie in its run @i. */
static int add_part_of_run(struct map_builder *b, const struct map *m, size_t i, uint32_t from,
                           uint32_t to)
{
    struct map_run run = map_run_at(m, i);

    return map_builder_add(b, to - from, run.build, run.storage + (from - run.start));
}

static int merge_run(struct map_builder *b, const struct map *parent, size_t i,
                     struct set_cursor *dirty, struct set_cursor *empty, uint16_t build)
{
    uint64_t page = map_run_at(parent, i).start;
    uint64_t run_end = page + map_run_pages(parent, i);

    while (page < run_end) {
        uint64_t end = run_end;
        bool is_empty, is_dirty;
        int r;

        set_cursor_seek(dirty, page);
        set_cursor_seek(empty, page);
        is_empty = set_cursor_holds(empty, page, &end);
        is_dirty = set_cursor_holds(dirty, page, &end);
        if (is_empty)
            r = map_builder_add(b, (uint32_t)(end - page), MAP_ZERO, 0);
        else if (is_dirty)
            r = map_builder_add(b, (uint32_t)(end - page), build,
                                (uint32_t)set_cursor_storage(dirty, page));
        else
            r = add_part_of_run(b, parent, i, (uint32_t)page, (uint32_t)end);
        if (r < 0)
            return r;
        page = end;
    }
    return 0;
}

int map_create_zero(uint32_t page_count, struct map **ret)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    int r = map_builder_add(&b, page_count, MAP_ZERO, 0);

    return r < 0 ? r : map_builder_finish(&b, ret);
}

int map_merge(const struct map *parent, const struct page_set *dirty, const struct page_set *empty,
              uint16_t build, struct map **ret)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    struct set_cursor dirty_at = {.set = dirty}, empty_at = {.set = empty};
    uint32_t page_count = map_page_count(parent);

    if (build == MAP_ZERO)
        return -EINVAL;
    if (!set_within(dirty, page_count) || !set_within(empty, page_count))
        return -ERANGE;
    for (size_t i = 0; i < map_run_count(parent); i++) {
        int r = merge_run(&b, parent, i, &dirty_at, &empty_at, build);

        if (r < 0)
            return r;
    }
    return map_builder_finish(&b, ret);
}

int map_resize(const struct map *m, uint32_t page_count, struct map **ret)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    uint32_t kept = MIN(page_count, map_page_count(m));
    int r;

    for (size_t i = 0; i < map_run_count(m); i++) {
        uint32_t start = map_run_at(m, i).start;

        if (start >= kept)
            break;
        r = add_part_of_run(&b, m, i, start, start + MIN(map_run_pages(m, i), kept - start));
        if (r < 0)
            return r;
    }
    r = map_builder_add(&b, page_count - kept, MAP_ZERO, 0);
    return r < 0 ? r : map_builder_finish(&b, ret);
}

int map_renumber(const struct map *m, const uint16_t *indexes, size_t count, struct map **ret)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};

    for (size_t i = 0; i < map_run_count(m); i++) {
        struct map_run run = map_run_at(m, i);
        uint16_t build = run.build;
        int r;

        if (build != MAP_ZERO && build >= count)
            return -ERANGE;
        if (build != MAP_ZERO)
            build = indexes[build];
        r = map_builder_add(&b, map_run_pages(m, i), build, run.storage);
        if (r < 0)
            return r;
    }
    return map_builder_finish(&b, ret);
}

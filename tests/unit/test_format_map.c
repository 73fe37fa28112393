/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "../lib/test_random.h"
#include "format/map.h"
#include "format/map_layer.h"
#include "unit.h"

/* The naive model: for each page of the image, build and storage page. */
#define MAX_PAGES 300

struct model_page {
    uint16_t build;
    uint32_t storage;
};

struct model {
    struct model_page pages[MAX_PAGES];
    uint32_t count;
};

static void add(struct map_builder *b, uint32_t pages, uint16_t build, uint32_t storage)
{
    assert_int_equal(map_builder_add(b, pages, build, storage), 0);
}

static struct map *finish(struct map_builder *b)
{
    struct map *m = NULL;

    assert_int_equal(map_builder_finish(b, &m), 0);
    return m;
}

static void assert_same_extent(const struct map_extent *x, const struct map_extent *want)
{
    assert_int_equal(x->zero, want->zero);
    assert_int_equal(x->build, want->build);
    assert_int_equal(x->storage.v, want->storage.v);
    assert_int_equal(x->len_bytes, want->len_bytes);
}

/* Whatever the walker remembers: the answer is the same, and so is what it remembers next. */
static void assert_hints_change_nothing(const struct map *m, struct image_off off,
                                        const struct map_extent *want)
{
    size_t hints[] = {0, off.v / PAGE_BYTES, map_run_count(m) - 1, map_run_count(m), SIZE_MAX};

    for (size_t i = 0; i < ARRAY_SIZE(hints); i++) {
        size_t near = hints[i];
        struct map_extent x;

        assert_int_equal(map_lookup_near(m, off, &near, &x), 0);
        assert_same_extent(&x, want);
        assert_int_equal(map_run_at(m, near).build, want->build);
        assert_int_equal(map_lookup_near(m, off, &near, &x), 0);
        assert_same_extent(&x, want);
    }
}

/* Every byte offset around every page border answers as the model says. */
static void assert_is_model(const struct map *m, const struct model *model)
{
    struct map_extent x;

    assert_int_equal(map_page_count(m), model->count);
    for (uint32_t page = 0; page < model->count; page++) {
        const struct model_page *p = &model->pages[page];
        uint32_t end = page + 1;

        while (end < model->count && model->pages[end].build == p->build &&
               (p->build == MAP_ZERO || model->pages[end].storage == p->storage + (end - page)))
            end++;
        for (uint64_t in_page = 0; in_page < PAGE_BYTES; in_page += 4095) {
            struct image_off off = {page * PAGE_BYTES + in_page};

            assert_int_equal(map_lookup(m, off, &x), 0);
            assert_int_equal(x.zero, p->build == MAP_ZERO);
            assert_int_equal(x.build, p->build);
            assert_int_equal(x.storage.v, x.zero ? 0 : p->storage * PAGE_BYTES + in_page);
            assert_int_equal(x.len_bytes, end * PAGE_BYTES - off.v);
            assert_hints_change_nothing(m, off, &x);
        }
    }
    assert_int_equal(map_lookup(m, (struct image_off){model->count * PAGE_BYTES}, &x), -ERANGE);
    assert_int_equal(map_lookup(m, (struct image_off){UINT64_MAX}, &x), -ERANGE);
}

/* No two neighbours that could be one run, and every run in its place. */
static void assert_normal(const struct map *m)
{
    uint32_t page = 0;

    for (size_t i = 0; i < map_run_count(m); i++) {
        struct map_run run = map_run_at(m, i);

        assert_int_equal(run.start, page);
        assert_true(map_run_pages(m, i) > 0);
        page += map_run_pages(m, i);
        if (i + 1 < map_run_count(m)) {
            struct map_run next = map_run_at(m, i + 1);

            assert_false(
                next.build == run.build &&
                (run.build == MAP_ZERO || next.storage == run.storage + map_run_pages(m, i)));
        }
    }
    assert_int_equal(page, map_page_count(m));
}

/* A random image of runs from a few builds, as map and as model. */
static struct map *random_map(struct test_random *t, struct model *model)
{
    struct map_builder b = {0};

    model->count = 0;
    while (model->count < MAX_PAGES - 20 && test_random_below(t, 40) > 0) {
        uint32_t pages = (uint32_t)test_random_below(t, 12);
        uint32_t storage = (uint32_t)test_random_below(t, 50);
        uint16_t build = (uint16_t)test_random_below(t, 4);

        if (build == 3)
            build = MAP_ZERO;
        /* Often go on where the last page ended, so that runs join. */
        if (model->count > 0 && test_random_below(t, 3) == 0) {
            build = model->pages[model->count - 1].build;
            storage = model->pages[model->count - 1].storage + 1;
        }
        add(&b, pages, build, storage);
        for (uint32_t i = 0; i < pages; i++)
            model->pages[model->count++] = (struct model_page){build, storage + i};
    }
    return finish(&b);
}

static void random_set(struct test_random *t, uint32_t limit, struct page_set *set,
                       bool member[MAX_PAGES])
{
    uint64_t page = test_random_below(t, 30);

    memset(member, 0, MAX_PAGES * sizeof(*member));
    while (page < limit) {
        uint64_t pages = 1 + test_random_below(t, 6);

        pages = MIN(pages, limit - page);
        assert_int_equal(page_set_add(set, (uint32_t)page, (uint32_t)pages), 0);
        for (uint64_t i = 0; i < pages; i++)
            member[page + i] = true;
        page += pages + test_random_below(t, 20); /* 0: touches the next one */
    }
}

static void runs_join_only_where_they_continue(void **state)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    struct map *m CLEANUP_MAP = NULL;

    (void)state;
    add(&b, 2, 1, 10);
    add(&b, 3, 1, 12); /* continues: joins */
    add(&b, 1, 1, 16); /* same build, but a page of storage is left out */
    add(&b, 1, 2, 17); /* contiguous numbers of another build */
    add(&b, 4, MAP_ZERO, 5);
    add(&b, 0, 7, 7); /* nothing */
    add(&b, 4, MAP_ZERO, 99);
    m = finish(&b);
    assert_int_equal(map_run_count(m), 4);
    assert_int_equal(map_run_pages(m, 0), 5);
    assert_int_equal(map_run_at(m, 1).storage, 16);
    assert_int_equal(map_run_at(m, 2).build, 2);
    assert_int_equal(map_run_pages(m, 3), 8);
    assert_int_equal(map_run_at(m, 3).storage, 0);
    assert_int_equal(map_page_count(m), 15);
}

static void builder_refuses_what_the_format_cannot_count(void **state)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    struct map *m CLEANUP_MAP = NULL;
    struct map_extent x;

    (void)state;
    assert_int_equal(map_builder_add(&b, 2, 0, UINT32_MAX - 1), -EOVERFLOW);
    add(&b, 1, 0, UINT32_MAX - 1);
    assert_int_equal(map_builder_add(&b, UINT32_MAX, MAP_ZERO, 0), -EOVERFLOW);
    add(&b, UINT32_MAX - 1, MAP_ZERO, 0);
    assert_int_equal(map_builder_add(&b, 1, MAP_ZERO, 0), -EOVERFLOW);
    m = finish(&b);
    assert_int_equal(map_page_count(m), UINT32_MAX);
    assert_int_equal(map_lookup(m, (struct image_off){UINT32_MAX * PAGE_BYTES - 1}, &x), 0);
    assert_int_equal(x.len_bytes, 1);
    assert_int_equal(map_lookup(m, (struct image_off){0}, &x), 0);
    assert_int_equal(x.storage.v, (UINT32_MAX - 1) * PAGE_BYTES);
    assert_int_equal(map_lookup(m, (struct image_off){UINT32_MAX * PAGE_BYTES}, &x), -ERANGE);
}

static void empty_map_has_no_page(void **state)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    struct map *m CLEANUP_MAP = finish(&b);
    struct map_extent x = {.len_bytes = 77};

    (void)state;
    assert_int_equal(map_page_count(m), 0);
    assert_int_equal(map_lookup(m, (struct image_off){0}, &x), -ERANGE);
    assert_int_equal(x.len_bytes, 77);
}

static void lookup_is_the_model(void **state)
{
    struct test_random t = {.state = 1};

    (void)state;
    for (int round = 0; round < 200; round++) {
        struct model model;
        struct map *m CLEANUP_MAP = random_map(&t, &model);

        assert_is_model(m, &model);
        assert_normal(m);
    }
}

/* Around the borders of what the lookup's coarse first step covers. */
static void lookup_in_many_runs(void **state)
{
    static const uint32_t counts[] = {1, 63, 64, 65, 127, 128, 129, 1000, 4096};
    struct test_random t = {.state = 6};

    (void)state;
    for (size_t c = 0; c < ARRAY_SIZE(counts); c++) {
        struct map_builder b CLEANUP_MAP_BUILDER = {0};
        struct map *m CLEANUP_MAP = NULL;
        struct map_extent x;
        uint32_t page = 0;

        for (uint32_t i = 0; i < counts[c]; i++) /* never joined: every other run has its build */
            add(&b, 1 + (uint32_t)test_random_below(&t, 3), (uint16_t)(i % 2), i);
        m = finish(&b);
        assert_int_equal(map_run_count(m), counts[c]);
        for (uint32_t i = 0; i < counts[c]; i++) {
            for (uint32_t end = page + map_run_pages(m, i); page < end; page++) {
                assert_int_equal(map_lookup(m, (struct image_off){page * PAGE_BYTES}, &x), 0);
                assert_int_equal(x.build, i % 2);
                assert_int_equal(x.storage.v, (i + page - map_run_at(m, i).start) * PAGE_BYTES);
                assert_int_equal(x.len_bytes, (end - page) * PAGE_BYTES);
            }
        }
        assert_int_equal(page, map_page_count(m));
    }
}

static void merge_is_the_model(void **state)
{
    struct test_random t = {.state = 2};

    (void)state;
    for (int round = 0; round < 500; round++) {
        struct model model;
        struct map *parent CLEANUP_MAP = random_map(&t, &model);
        struct page_set dirty CLEANUP_PAGE_SET = {0}, empty CLEANUP_PAGE_SET = {0};
        struct map *child CLEANUP_MAP = NULL;
        bool is_dirty[MAX_PAGES], is_empty[MAX_PAGES];
        uint32_t packed = 0;

        random_set(&t, model.count, &dirty, is_dirty);
        random_set(&t, model.count, &empty, is_empty);
        assert_int_equal(map_merge(parent, &dirty, &empty, 9, &child), 0);
        for (uint32_t page = 0; page < model.count; page++) {
            if (is_dirty[page])
                model.pages[page] = (struct model_page){9, packed++};
            if (is_empty[page])
                model.pages[page].build = MAP_ZERO;
        }
        assert_int_equal(packed, page_set_pages(&dirty));
        assert_is_model(child, &model);
        assert_normal(child);
    }
}

static void merge_wants_a_parent_that_covers(void **state)
{
    struct page_set at_end CLEANUP_PAGE_SET = {0}, none CLEANUP_PAGE_SET = {0};
    struct map *zero CLEANUP_MAP = NULL;
    struct map *child CLEANUP_MAP = NULL;

    (void)state;
    assert_int_equal(map_create_zero(10, &zero), 0);
    assert_int_equal(page_set_add(&at_end, 9, 2), 0);
    assert_int_equal(map_merge(zero, &at_end, &none, 0, &child), -ERANGE);
    assert_int_equal(map_merge(zero, &none, &at_end, 0, &child), -ERANGE);
    assert_int_equal(map_merge(zero, &none, &none, MAP_ZERO, &child), -EINVAL);
    assert_null(child);
    assert_int_equal(map_merge(zero, &none, &none, 0, &child), 0);
    assert_true(map_equal(zero, child));
}

static void resize_is_the_model(void **state)
{
    struct test_random t = {.state = 3};

    (void)state;
    for (int round = 0; round < 300; round++) {
        struct model model;
        struct map *m CLEANUP_MAP = random_map(&t, &model);
        struct map *resized CLEANUP_MAP = NULL;
        uint32_t count = (uint32_t)test_random_below(&t, MAX_PAGES + 1);

        for (uint32_t page = model.count; page < count; page++)
            model.pages[page] = (struct model_page){MAP_ZERO, 0};
        model.count = count;
        assert_int_equal(map_resize(m, count, &resized), 0);
        assert_is_model(resized, &model);
        assert_normal(resized);
    }
}

static void renumber_replaces_builds(void **state)
{
    static const uint16_t indexes[] = {7, 7, 8};
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    struct map *m CLEANUP_MAP = NULL;
    struct map *renumbered CLEANUP_MAP = NULL;

    (void)state;
    add(&b, 1, 0, 0);
    add(&b, 1, 1, 1);
    add(&b, 1, MAP_ZERO, 0);
    add(&b, 1, 2, 0);
    m = finish(&b);
    assert_int_equal(map_renumber(m, indexes, 2, &renumbered), -ERANGE);
    assert_int_equal(map_renumber(m, indexes, 3, &renumbered), 0);
    assert_int_equal(map_run_count(renumbered), 3); /* the first two have become one */
    assert_int_equal(map_run_at(renumbered, 0).build, 7);
    assert_int_equal(map_run_at(renumbered, 1).build, MAP_ZERO);
    assert_int_equal(map_run_at(renumbered, 2).build, 8);
    assert_false(map_equal(m, renumbered));
}

static void page_set_takes_ranges_in_order(void **state)
{
    struct page_set s CLEANUP_PAGE_SET = {0};

    (void)state;
    assert_int_equal(page_set_add(&s, 5, 2), 0);
    assert_int_equal(page_set_add(&s, 7, 1), 0); /* touches: one range */
    assert_int_equal(page_set_add(&s, 9, 0), 0);
    assert_int_equal(s.count, 1);
    assert_int_equal(page_set_add(&s, 7, 1), -EINVAL);
    assert_int_equal(page_set_add(&s, 0, 1), -EINVAL);
    assert_int_equal(page_set_add(&s, UINT32_MAX, 1), -EOVERFLOW);
    assert_int_equal(page_set_add(&s, UINT32_MAX - 1, 1), 0);
    assert_int_equal(page_set_pages(&s), 4);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(runs_join_only_where_they_continue),
        cmocka_unit_test(builder_refuses_what_the_format_cannot_count),
        cmocka_unit_test(empty_map_has_no_page),
        cmocka_unit_test(lookup_is_the_model),
        cmocka_unit_test(lookup_in_many_runs),
        cmocka_unit_test(merge_is_the_model),
        cmocka_unit_test(merge_wants_a_parent_that_covers),
        cmocka_unit_test(resize_is_the_model),
        cmocka_unit_test(renumber_replaces_builds),
        cmocka_unit_test(page_set_takes_ranges_in_order),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

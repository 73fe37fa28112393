/* SPDX-License-Identifier: Apache-2.0 */
#include "image/image.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>

#include "../lib/test_random.h"
#include "build_fixture.h"
#include "format/header.h"
#include "image/export.h"
#include "image/export_plan.h"
#include "image/layout.h"
#include "image/scan.h"
#include "image/validate.h"
#include "thaw/build.h"

#define PAGES 700u /* of the image; more than two reads of 1 MiB */
#define BYTES (PAGES * PAGE_BYTES)

static struct build_fixture f; /* with a build of thaw's: every page stored */
static unsigned char *content;
static struct thaw_error e;

static int set_up(void **state)
{
    (void)state;
    content = random_bytes(BYTES, 7);
    build_fixture_init(&f, content, BYTES);
    e = (struct thaw_error)THAW_ERROR_INIT;
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    build_fixture_finish(&f);
    free(content);
    return 0;
}

static void says(const char *word)
{
    if (!strstr(e.text, word))
        fail_msg("'%s' does not say '%s'", e.text, word);
}

/* --- builds as E2B writes them --- */

static void put(const struct uuid *build, const char *name, const void *bytes, size_t len)
{
    assert_int_equal(store_put(f.store, build, name, bytes, len, &e), 0);
}

static void put_header(const char *image, struct header *h, unsigned version)
{
    struct buf bytes CLEANUP_BUF = {0};
    char name[OBJECT_NAME_BYTES];

    h->version = version;
    assert_int_equal(header_encode(h, &bytes, &e), 0);
    put(&h->build, build_header_name(image, name), bytes.data, bytes.len);
}

/* A header that stores pages [0, dirty) of an image of PAGES. */
static struct header *make_header(const struct uuid *build, uint32_t dirty)
{
    struct page_set set CLEANUP_PAGE_SET = {0};
    struct header *h;

    if (dirty > 0)
        assert_int_equal(page_set_add(&set, 0, dirty), 0);
    assert_int_equal(header_create_base(build, PAGE_BYTES, BYTES, &set, &h, &e), 0);
    return h;
}

/* memfile holds @dirty pages of content; the disk is all zeros and has no data. */
static void make_e2b(const struct uuid *build, uint32_t dirty, unsigned version)
{
    struct header *memory CLEANUP_HEADER = make_header(build, dirty);
    struct header *rootfs CLEANUP_HEADER = make_header(build, 0);

    put(build, IMAGE_MEMORY, content, dirty * PAGE_BYTES);
    put_header(IMAGE_MEMORY, memory, version);
    put_header(IMAGE_ROOTFS, rootfs, version);
    put(build, SNAPFILE_NAME, "state", 5);
    put(build, METADATA_NAME, "{\"version\":2}", 13);
}

static void a_manifest_is_made_up(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = NULL;
    struct uuid id;

    (void)state;
    assert_int_equal(uuid_random(&id), 0);
    make_e2b(&id, 20, HEADER_V3);
    assert_int_equal(build_manifest_load(f.store, &id, &m, &e), 0);
    assert_int_equal(e.code, 0); /* that there is no manifest is no failure */
    assert_true(build_is_unverified(m));
    assert_false(build_is_unverified(f.manifest));
    assert_int_equal(m->object_count, 5);
    assert_int_equal(manifest_find(m, IMAGE_MEMORY)->uncompressed_bytes, 20 * PAGE_BYTES);
    assert_false(build_object_known(manifest_find(m, IMAGE_MEMORY)));
    assert_null(manifest_find(m, IMAGE_ROOTFS));
}

static void what_is_missing_is_named(void **state)
{
    static const char *const names[] = {"memfile.header", "rootfs.ext4.header", "snapfile",
                                        "metadata.json", "memfile"};
    struct uuid id;

    (void)state;
    assert_int_equal(uuid_random(&id), 0);
    make_e2b(&id, 20, HEADER_V3);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        struct manifest *m CLEANUP_MANIFEST = NULL;
        struct buf kept CLEANUP_BUF = {0};

        assert_int_equal(store_get(f.store, &id, names[i], MIB, &kept, &e), 0);
        assert_int_equal(store_object_delete(f.store, &id, names[i], &e), 0);
        assert_int_equal(build_manifest_load(f.store, &id, &m, &e), -ENOENT);
        says("it lacks ");
        says(names[i]);
        /* All but the data can be missing of a build that others are layered on. */
        assert_int_equal(build_ancestor_load(f.store, &id, &m, &e), 0);
        assert_int_equal(m->object_count, 4);
        put(&id, names[i], kept.data, kept.len);
    }
}

static void sums_without_manifest_are_thaws(void **state)
{
    struct manifest *m;
    struct uuid id;

    (void)state;
    assert_int_equal(uuid_random(&id), 0);
    make_e2b(&id, 20, HEADER_V3);
    put(&id, IMAGE_ROOTFS ".sums", "", 0);
    assert_int_equal(build_manifest_load(f.store, &id, &m, &e), -ENOENT);
    says("rootfs.ext4.sums");
    assert_int_equal(build_ancestor_load(f.store, &id, &m, &e), -ENOENT);
    says("never finished");
}

/* --- layouts --- */

static void maps_stay_within_their_objects(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = NULL;
    struct layout *l CLEANUP_LAYOUT = NULL;
    struct header *lying CLEANUP_HEADER = NULL;
    struct uuid id;

    (void)state;
    assert_int_equal(uuid_random(&id), 0);
    make_e2b(&id, 20, HEADER_V3);
    lying = make_header(&id, 21);
    assert_int_equal(store_object_delete(f.store, &id, IMAGE_MEMORY ".header", &e), 0);
    put_header(IMAGE_MEMORY, lying, HEADER_V3);
    assert_int_equal(build_manifest_load(f.store, &id, &m, &e), 0);
    assert_int_equal(layout_load(f.store, m, IMAGE_MEMORY, &l, &e), -EBADMSG);
    says("ends at byte 86016 of object memfile");
    says("only 81920");
    assert_int_equal(layout_load(f.store, m, IMAGE_ROOTFS, &l, &e), 0); /* needs no data */
    assert_int_equal(l->header->size_bytes, BYTES);
}

/* A child of thaw's build whose map has the parent's pages and one of its own. */
static void make_child(const struct uuid *build, struct manifest **ret)
{
    struct header *parent CLEANUP_HEADER = NULL, *child CLEANUP_HEADER = NULL;
    struct header *rootfs CLEANUP_HEADER = make_header(build, 0);
    struct page_set dirty CLEANUP_PAGE_SET = {0}, empty CLEANUP_PAGE_SET = {0};

    assert_int_equal(build_header_load(f.store, f.manifest, IMAGE_MEMORY, &parent, &e), 0);
    assert_int_equal(page_set_add(&dirty, 5, 1), 0);
    assert_int_equal(header_create_child(parent, build, BYTES, &dirty, &empty, &child, &e), 0);
    put(build, IMAGE_MEMORY, content, PAGE_BYTES);
    put_header(IMAGE_MEMORY, child, HEADER_V3);
    put_header(IMAGE_ROOTFS, rootfs, HEADER_V3);
    put(build, SNAPFILE_NAME, "", 0);
    put(build, METADATA_NAME, "{\"version\":2}", 13);
    assert_int_equal(build_manifest_load(f.store, build, ret, &e), 0);
}

static void ancestors_are_found(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = NULL;
    struct layout *l CLEANUP_LAYOUT = NULL;
    char id[UUID_TEXT_BYTES];
    struct uuid child;

    (void)state;
    assert_int_equal(uuid_random(&child), 0);
    make_child(&child, &m);
    assert_int_equal(layout_load(f.store, m, IMAGE_MEMORY, &l, &e), 0);
    assert_int_equal(l->header->build_count, 2);
    for (size_t i = 0; i < 2; i++) {
        bool own = uuid_compare(&l->header->builds[i].id, &child) == 0;

        assert_true(l->objects[i].used);
        assert_int_equal(build_object_known(&l->objects[i].data), !own);
        assert_string_equal(l->objects[i].sums.name, own ? "" : "memfile.sums");
        assert_int_equal(l->objects[i].data.size_bytes, own ? PAGE_BYTES : BYTES);
    }
    layout_destroy(TAKE_PTR(l));
    assert_int_equal(store_object_delete(f.store, &f.id, MANIFEST_NAME, &e), 0);
    assert_int_equal(layout_load(f.store, m, IMAGE_MEMORY, &l, &e), -ENOENT);
    says(uuid_format(&f.id, id));
    says("never finished");
}

/* --- an image without sums, as a guest reads it --- */

static void unverified_bytes_are_counted(void **state)
{
    struct manifest *m CLEANUP_MANIFEST = NULL;
    struct image *im CLEANUP_IMAGE = NULL;
    uint64_t before = fetch_counters(f.fetch).unverified_bytes;
    struct image_extent at;
    const char *bytes;
    struct uuid id;

    (void)state;
    assert_int_equal(uuid_random(&id), 0);
    make_e2b(&id, 20, HEADER_V4);
    assert_int_equal(build_manifest_load(f.store, &id, &m, &e), 0);
    assert_int_equal(image_open(f.fetch, f.store, m, IMAGE_MEMORY, &im, &e), 0);
    assert_int_equal(image_bytes(im), BYTES);
    assert_int_equal(image_lookup(im, (struct image_off){17 * PAGE_BYTES}, &at), 0);
    bytes = fixture_pin(im, &at);
    assert_memory_equal(bytes + at.offset, content + 17 * PAGE_BYTES, PAGE_BYTES);
    image_unpin(im, &at);
    assert_int_equal(fetch_counters(f.fetch).unverified_bytes - before, 4 * PAGE_BYTES);
    assert_int_equal(image_lookup(im, (struct image_off){20 * PAGE_BYTES}, &at), 0);
    assert_true(at.zero);
    assert_true(image_allocated_bytes(im) > 0);
    image_close(TAKE_PTR(im));
    /* An image that nothing is stored of needs no object. */
    assert_int_equal(image_open(f.fetch, f.store, m, IMAGE_ROOTFS, &im, &e), 0);
    assert_int_equal(image_allocated_bytes(im), 0);
}

/* --- reading in order --- */

struct reader_log {
    struct store_object *object;
    uint64_t asked, taken, end;
    uint64_t stop_at; /* fail there */
    int64_t last;
};

static bool next_page(void *arg, struct scan_range *ret)
{
    struct reader_log *log = arg;

    if (log->asked >= log->end)
        return false;
    *ret = (struct scan_range){
        .object = log->object,
        .offset = {log->asked},
        .len_bytes = MIN(3 * PAGE_BYTES, log->end - log->asked),
    };
    log->asked += ret->len_bytes;
    return true;
}

static int take_page(void *arg, const struct scan_range *range, void *bytes, int64_t result)
{
    struct reader_log *log = arg;

    assert_int_equal(range->offset.v, log->taken);
    log->last = result;
    if (result < 0)
        return (int)result;
    assert_memory_equal(bytes, content + range->offset.v, (size_t)result);
    log->taken += range->len_bytes;
    return log->taken > log->stop_at ? -ECANCELED : 0;
}

static int scan(const char *name, struct reader_log *log)
{
    struct scan_source source = {.next = next_page, .take = take_page, .arg = log};
    int r;

    assert_int_equal(store_object_open(f.store, &f.id, name, &log->object), 0);
    r = scan_run(&source);
    store_object_close(log->object);
    return r;
}

static void scans_come_in_order(void **state)
{
    struct reader_log all = {.end = BYTES, .stop_at = UINT64_MAX};
    struct reader_log stopped = {.end = BYTES, .stop_at = BYTES / 2};
    struct reader_log past = {.end = BYTES + 8 * PAGE_BYTES, .stop_at = UINT64_MAX};
    struct reader_log missing = {.end = BYTES, .stop_at = UINT64_MAX};

    (void)state;
    assert_int_equal(scan(IMAGE_MEMORY, &all), 0);
    assert_int_equal(all.taken, BYTES);
    assert_int_equal(scan(IMAGE_MEMORY, &stopped), -ECANCELED);
    assert_true(stopped.asked < BYTES);
    assert_int_equal(scan(IMAGE_MEMORY, &past), 0);
    assert_int_equal(past.last, 0); /* nothing is there any more */
    assert_int_equal(scan("absent", &missing), -ENOENT);
    assert_int_equal(missing.taken, 0);
}

/* --- plans of an export --- */

#define PLAN_PAGES  20000u
#define PLAN_BUILDS 3u

/* Runs anywhere in the data of a few builds, also several on the same bytes. */
static struct layout random_layout(struct test_random *rng, struct layout_object *objects)
{
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    struct header *h = calloc(1, sizeof(*h));
    uint32_t at = 0;

    while (at < PLAN_PAGES) {
        uint32_t pages =
            1 + (uint32_t)test_random_below(rng, test_random_below(rng, 20) == 0 ? 2000 : 12);
        uint16_t build = (uint16_t)test_random_below(rng, PLAN_BUILDS + 1);

        pages = MIN(pages, PLAN_PAGES - at);
        if (build == PLAN_BUILDS)
            build = MAP_ZERO;
        assert_int_equal(map_builder_add(&b, pages, build,
                                         (uint32_t)test_random_below(rng, PLAN_PAGES - pages + 1)),
                         0);
        at += pages;
    }
    assert_int_equal(map_builder_finish(&b, &h->map), 0);
    for (size_t i = 0; i < PLAN_BUILDS; i++) {
        objects[i].used = true;
        objects[i].data.uncompressed_bytes = PLAN_PAGES * PAGE_BYTES;
    }
    h->build_count = PLAN_BUILDS;
    return (struct layout){.header = h, .objects = objects};
}

static void check_piece(const struct layout *l, const struct export_piece *piece, uint8_t *seen)
{
    for (uint32_t k = 0; k < piece->pages; k++) {
        struct map_extent x;

        assert_int_equal(seen[piece->image + k]++, 0); /* each page once */
        assert_int_equal(
            map_lookup(l->header->map, (struct image_off){(piece->image + k) * PAGE_BYTES}, &x), 0);
        assert_int_equal(x.build, piece->build);
        assert_int_equal(x.storage.v, (piece->storage + k) * PAGE_BYTES);
    }
}

static void check_plan(const struct export_plan *p, const struct layout *l, uint8_t *seen)
{
    size_t pieces = 0;
    uint64_t bytes = 0;

    for (size_t i = 0; i < p->group_count; i++) {
        const struct export_group *g = &p->groups[i];

        assert_int_equal(g->first_piece, pieces);
        assert_int_equal(g->offset % GRANULE_BYTES, 0);
        assert_in_range(g->len_bytes, 1, SCAN_RANGE_BYTES);
        for (uint32_t k = 0; k < g->piece_count; k++) {
            const struct export_piece *piece = &p->pieces[pieces + k];

            assert_int_equal(piece->build, p->pieces[pieces].build);
            assert_true(piece->storage * PAGE_BYTES >= g->offset);
            assert_true((piece->storage + piece->pages) * PAGE_BYTES <= g->offset + g->len_bytes);
            check_piece(l, piece, seen);
        }
        pieces += g->piece_count;
        bytes += g->len_bytes;
    }
    assert_int_equal(pieces, p->piece_count);
    assert_int_equal(bytes, p->read_bytes);
    /* Each part of an object is read at most once. */
    assert_true(bytes <= PLAN_BUILDS * round_up(PLAN_PAGES * PAGE_BYTES, GRANULE_BYTES));
}

static void plans_bring_every_page_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 20; seed++) {
        struct export_plan p CLEANUP_EXPORT_PLAN = {0};
        struct layout_object objects[PLAN_BUILDS] = {0};
        struct test_random rng = {seed};
        struct layout l = random_layout(&rng, objects);
        uint8_t *seen = calloc(PLAN_PAGES, 1);

        assert_int_equal(export_plan_init(&p, &l, &e), 0);
        check_plan(&p, &l, seen);
        for (uint32_t page = 0; page < PLAN_PAGES; page++) {
            struct map_extent x;

            assert_int_equal(map_lookup(l.header->map, (struct image_off){page * PAGE_BYTES}, &x),
                             0);
            assert_int_equal(seen[page], !x.zero);
        }
        free(seen);
        map_destroy(l.header->map);
        free(l.header);
    }
}

/* --- from end to end, for the sanitizers: threads, and every way out --- */

static void exports_are_equal(void **state)
{
    const struct scan_progress silent = {0};
    struct thaw_export_info info;
    struct buf got CLEANUP_BUF = {0};
    char *dir = scratch_path(f.folder, "out");
    char *file = scratch_path(dir, IMAGE_MEMORY);

    (void)state;
    build_fixture_flip(&f, IMAGE_MEMORY, 600 * PAGE_BYTES);
    assert_int_equal(build_export(f.store, &f.id, dir, &silent, &info, &e), -EBADMSG);
    says("granule 37");
    assert_int_equal(access(dir, F_OK), -1);
    build_fixture_flip(&f, IMAGE_MEMORY, 600 * PAGE_BYTES);
    assert_int_equal(build_export(f.store, &f.id, dir, &silent, &info, &e), 0);
    assert_int_equal(info.file_count, 2);
    assert_string_equal(info.files[0].name, IMAGE_MEMORY);
    assert_int_equal(info.read_bytes, BYTES);
    assert_int_equal(file_load(AT_FDCWD, file, BYTES, &got), 0);
    assert_int_equal(got.len, BYTES);
    assert_memory_equal(got.data, content, BYTES);
    free(file);
    free(dir);
}

struct progress_log {
    uint64_t done, total;
};

static void log_progress(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct progress_log *log = arg;

    assert_true(done_bytes > log->done);
    *log = (struct progress_log){done_bytes, total_bytes};
}

static void validation_judges_each_object(void **state)
{
    struct progress_log log = {0};
    const struct scan_progress progress = {.report = log_progress, .arg = &log};
    struct verdicts v = {0};

    (void)state;
    assert_int_equal(build_validate(f.store, &f.id, true, &progress, &v, &e), 0);
    assert_int_equal(v.build_count, 1);
    assert_int_equal(v.count, 5);
    for (size_t i = 0; i < v.count; i++)
        assert_int_equal(v.list[i].kind, THAW_VERDICT_OK);
    assert_int_equal(log.done, BYTES);
    assert_int_equal(log.total, BYTES);
    verdicts_finish(&v);
    log = (struct progress_log){0};
    build_fixture_flip(&f, IMAGE_MEMORY, BYTES - 1);
    assert_int_equal(build_validate(f.store, &f.id, false, &progress, &v, &e), 0);
    for (size_t i = 0; i < v.count; i++) {
        bool bad = strcmp(v.list[i].object, IMAGE_MEMORY) == 0;

        assert_int_equal(v.list[i].kind, bad ? THAW_VERDICT_BAD : THAW_VERDICT_OK);
    }
    verdicts_finish(&v);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(a_manifest_is_made_up),
        TEST(what_is_missing_is_named),
        TEST(sums_without_manifest_are_thaws),
        TEST(maps_stay_within_their_objects),
        TEST(ancestors_are_found),
        TEST(unverified_bytes_are_counted),
        TEST(scans_come_in_order),
        TEST(plans_bring_every_page_once),
        TEST(exports_are_equal),
        TEST(validation_judges_each_object),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

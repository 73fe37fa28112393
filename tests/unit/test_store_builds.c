/* SPDX-License-Identifier: Apache-2.0 */

/* What is in a store: lists of builds and of their objects, and how they are deleted. */
#include "store_fixture.h"

/* --- lists --- */

/* -1: not listed, 0: without manifest, 1: with one */
static int listed(const struct store_builds *builds, const struct uuid *id)
{
    for (size_t i = 0; i < builds->count; i++) {
        if (uuid_compare(&builds->list[i].id, id) == 0)
            return builds->list[i].has_manifest;
    }
    return -1;
}

static void builds_are_listed(void **state)
{
    struct store_builds builds CLEANUP_STORE_BUILDS = {0};
    struct uuid ids[20];
    char *path;

    (void)state;
    assert_int_equal(store_list_builds(store, &builds, NULL), 0);
    assert_int_equal(builds.count, 0);
    store_builds_finish(&builds);
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        assert_int_equal(uuid_random(&ids[i]), 0);
        assert_int_equal(
            store_put(store, &ids[i], i % 2 ? "manifest.json" : "memfile", "x", 1, NULL), 0);
    }
    path = scratch_path(folder, "6BA7B810-9DAD-11D1-80B4-00C04FD430C8"); /* not as we write it */
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);
    assert_int_equal(store_list_builds(store, &builds, NULL), 0);
    assert_int_equal(builds.count, ARRAY_SIZE(ids));
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++)
        assert_int_equal(listed(&builds, &ids[i]), i % 2);
}

/* What a manifest says is not the store's business. */
static void an_empty_manifest_is_one(void **state)
{
    struct store_builds builds CLEANUP_STORE_BUILDS = {0};

    (void)state;
    assert_int_equal(store_put(store, &build, "manifest.json", NULL, 0, NULL), 0);
    assert_int_equal(store_list_builds(store, &builds, NULL), 0);
    assert_int_equal(builds.count, 1);
    assert_true(builds.list[0].has_manifest);
}

static void objects_are_listed(void **state)
{
    struct store_objects objects CLEANUP_STORE_OBJECTS = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct store_writer *w;
    char text[UUID_TEXT_BYTES];

    (void)state;
    assert_int_equal(store_list_objects(store, &build, &objects, &e), -ENOENT);
    assert_non_null(strstr(e.text, uuid_format(&build, text)));
    for (size_t i = 0; i < 9; i++) {
        char name[16];

        snprintf(name, sizeof(name), "object-%zu", i);
        assert_int_equal(store_put(store, &build, name, "12345678", i, NULL), 0);
    }
    assert_int_equal(store_writer_open(store, &build, "unfinished", &w, NULL), 0);
    assert_int_equal(store_list_objects(store, &build, &objects, &e), 0);
    assert_int_equal(objects.count, 9);
    assert_null(store_objects_find(&objects, "unfinished"));
    for (size_t i = 0; i < 9; i++) {
        const struct store_entry *found;
        char name[16];

        snprintf(name, sizeof(name), "object-%zu", i);
        found = store_objects_find(&objects, name);
        assert_non_null(found);
        assert_int_equal(found->size_bytes, i);
    }
    store_writer_close(w);
}

/* --- deleting --- */

static bool build_is_there(const struct uuid *id)
{
    char *path = object_path(id, "");
    bool there = access(path, F_OK) == 0;

    free(path);
    return there;
}

static void objects_are_deleted(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    uint64_t size;

    (void)state;
    assert_int_equal(store_put(store, &build, "x", "1", 1, NULL), 0);
    assert_int_equal(store_put(store, &build, "y", "1", 1, NULL), 0);
    assert_int_equal(store_object_delete(store, &build, "x", &e), 0);
    assert_int_equal(store_size(store, &build, "x", &size), -ENOENT);
    assert_int_equal(store_size(store, &build, "y", &size), 0);
    assert_int_equal(store_object_delete(store, &build, "x", &e), -ENOENT);
    assert_non_null(strstr(e.text, "/x"));
}

static void builds_are_deleted_whole(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct store *other;
    struct store_writer *w;
    uint64_t size;
    char *path;

    (void)state;
    assert_int_equal(store_build_delete(store, &build, &e), -ENOENT);
    for (size_t i = 0; i < ARRAY_SIZE(odd_kinds); i++) {
        char name[16];

        assert_int_equal(store_put(store, &build, "true", "1", 1, NULL), i ? -EEXIST : 0);
        snprintf(name, sizeof(name), "odd-%zu", i);
        make_odd(name, odd_kinds[i]);
    }
    assert_int_equal(store_put(store, &build, "manifest.json", "1", 1, NULL), 0);
    path = object_path(&build, ".tmp-left-by-a-crash");
    close(open(path, O_WRONLY | O_CREAT, 0600));
    free(path);

    /* A folder in it may be anything: nothing is removed. */
    assert_int_equal(store_build_delete(store, &build, &e), -ENOTEMPTY);
    assert_non_null(strstr(e.text, "odd-4"));
    assert_int_equal(store_size(store, &build, "manifest.json", &size), 0);
    path = object_path(&build, "odd-4");
    assert_int_equal(rmdir(path), 0);
    free(path);

    /* Nor while somebody writes. */
    other = another_store();
    assert_int_equal(store_writer_open(other, &build, "more", &w, &e), 0);
    assert_int_equal(store_build_delete(store, &build, &e), -EBUSY);
    assert_non_null(strstr(e.text, "another process"));
    store_writer_close(w);
    store_close(other);

    assert_int_equal(store_build_delete(store, &build, &e), 0);
    assert_false(build_is_there(&build));
    path = scratch_path(folder, "outside");
    assert_int_equal(access(path, F_OK), 0); /* links are removed, not what they lead to */
    free(path);
    assert_int_equal(store_build_delete(store, &build, &e), -ENOENT);
    assert_int_equal(store_put(store, &build, "true", "2", 1, NULL), 0);
}

static void leftovers_are_discarded(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct store *other = another_store();
    struct store_writer *w;

    (void)state;
    assert_int_equal(store_put(store, &build, "memfile", "1", 1, NULL), 0);
    assert_int_equal(store_writer_open(store, &build, "snapfile", &w, NULL), 0);
    /* Not by anybody else while a creator is alive ... */
    assert_int_equal(store_build_discard(other, &build, &e), -EBUSY);
    assert_int_equal(entries(), 2);
    store_writer_close(w);
    /* ... but by itself when it gives up, ... */
    assert_int_equal(store_build_discard(store, &build, &e), 0);
    assert_false(build_is_there(&build));
    /* ... and by anybody when it is gone. */
    assert_int_equal(store_put(store, &build, "memfile", "1", 1, NULL), 0);
    store_close(store);
    store = another_store();
    assert_int_equal(store_build_discard(other, &build, &e), 0);
    assert_false(build_is_there(&build));
    assert_int_equal(store_build_discard(other, &build, &e), -ENOENT);
    store_close(other);
}

static void whole_builds_are_not_discarded(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    assert_int_equal(store_put(store, &build, "memfile", "1", 1, NULL), 0);
    assert_int_equal(store_put(store, &build, "manifest.json", "1", 1, NULL), 0);
    assert_int_equal(store_build_discard(store, &build, &e), -EEXIST);
    assert_non_null(strstr(e.text, "manifest.json"));
    assert_int_equal(entries(), 2);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(builds_are_listed),
        TEST(an_empty_manifest_is_one),
        TEST(objects_are_listed),
        TEST(objects_are_deleted),
        TEST(builds_are_deleted_whole),
        TEST(leftovers_are_discarded),
        TEST(whole_builds_are_not_discarded),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Objects: written once, found by name, read in ranges; and what is no object or no build. */
#include "store_fixture.h"

#include "base/thread.h"

static void objects_come_back(void **state)
{
    struct buf got CLEANUP_BUF = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    uint64_t size;

    (void)state;
    assert_int_equal(store_put(store, &build, "snapfile", "content", 7, &e), 0);
    assert_int_equal(store_get(store, &build, "snapfile", 7, &got, &e), 0);
    assert_int_equal(got.len, 7);
    assert_memory_equal(got.data, "content", 7);
    assert_int_equal(store_size(store, &build, "snapfile", &size), 0);
    assert_int_equal(size, 7);
    assert_int_equal(store_get(store, &build, "snapfile", 6, &got, &e), -EFBIG);
    assert_int_equal(store_get(store, &build, "absent", 6, &got, &e), -ENOENT);
    assert_non_null(strstr(e.text, "absent"));
    assert_int_equal(store_put(store, &build, "empty", NULL, 0, &e), 0);
    assert_int_equal(store_size(store, &build, "empty", &size), 0);
    assert_int_equal(size, 0);
}

static void objects_are_immutable(void **state)
{
    struct store_writer *first, *second;
    struct buf got CLEANUP_BUF = {0};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    /* Two creators of one object: one wins, the other is told; nothing is overwritten. */
    assert_int_equal(store_writer_open(store, &build, "x", &first, &e), 0);
    assert_int_equal(store_writer_open(store, &build, "x", &second, &e), 0);
    assert_int_equal(store_writer_append(first, "first", 5, &e), 0);
    assert_int_equal(store_writer_append(second, "second", 6, &e), 0);
    assert_int_equal(store_writer_commit(second, &e), 0);
    assert_int_equal(store_writer_commit(first, &e), -EEXIST);
    store_writer_close(first);
    store_writer_close(second);
    assert_int_equal(store_put(store, &build, "x", "third", 5, &e), -EEXIST);
    assert_int_equal(store_get(store, &build, "x", 100, &got, &e), 0);
    assert_memory_equal(got.data, "second", 6);
    assert_int_equal(entries(), 1);
}

static void nothing_is_seen_before_commit(void **state)
{
    struct store_writer *w;
    struct buf got CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(store_writer_open(store, &build, "x", &w, NULL), 0);
    assert_int_equal(store_writer_append(w, "part", 4, NULL), 0);
    assert_int_equal(store_get(store, &build, "x", 100, &got, NULL), -ENOENT);
    assert_int_equal(entries(), 1);
    store_writer_close(w);
    assert_int_equal(entries(), 0);
}

static void odd_names_are_refused(void **state)
{
    static const char *const names[] = {"../x", "a/b", ".tmp-x", "", ".", "..", "a b", "\n"};
    char too_long[STORE_NAME_MAX + 2];
    struct buf got CLEANUP_BUF = {0};
    struct thaw_error e;
    struct store_object *o;
    struct store_writer *w;
    uint64_t size;

    (void)state;
    memset(too_long, 'x', sizeof(too_long) - 1);
    too_long[sizeof(too_long) - 1] = '\0';
    for (size_t i = 0; i <= ARRAY_SIZE(names); i++) {
        const char *name = i < ARRAY_SIZE(names) ? names[i] : too_long;

        assert_int_equal(store_object_open(store, &build, name, &o), -EINVAL);
        assert_int_equal(store_get(store, &build, name, 100, &got, &e), -EINVAL);
        assert_non_null(strstr(e.text, name));
        assert_int_equal(store_size(store, &build, name, &size), -EINVAL);
        assert_int_equal(store_put(store, &build, name, "x", 1, NULL), -EINVAL);
        assert_int_equal(store_writer_open(store, &build, name, &w, NULL), -EINVAL);
        assert_int_equal(store_object_delete(store, &build, name, NULL), -EINVAL);
    }
    assert_int_equal(entries(), 0);
    assert_int_equal(store_put(store, &build, too_long + 1, "x", 1, NULL), 0);
}

static void urls_are_checked(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct store *s;
    char *url;

    (void)state;
    assert_int_equal(store_open("s3://bucket/x", io, false, &s, &e), -EPROTONOSUPPORT);
    assert_int_equal(store_open("", io, false, &s, &e), -EINVAL);
    assert_int_equal(store_open("/nowhere/at/all", io, true, &s, &e), -ENOENT);
    assert_true(asprintf(&url, "file://%s/new", folder) > 0);
    assert_int_equal(store_open(url, io, false, &s, &e), -ENOENT);
    assert_int_equal(store_open(url, io, true, &s, &e), 0);
    store_close(s);
    free(url);
}

/* --- ranges --- */

struct pending {
    struct store_read read;
    pthread_mutex_t mu;
    pthread_cond_t changed;
    int64_t result;
    bool done;
};

static void read_done(struct store_read *r, int64_t result)
{
    struct pending *p = container_of(r, struct pending, read);

    mutex_lock(&p->mu);
    p->result = result;
    p->done = true;
    pthread_cond_signal(&p->changed);
    mutex_unlock(&p->mu);
}

static void start(struct pending *p, struct store_object *o, uint64_t offset, size_t len)
{
    *p = (struct pending){.mu = PTHREAD_MUTEX_INITIALIZER, .changed = PTHREAD_COND_INITIALIZER};
    p->read.object = o;
    p->read.buf = aligned_alloc(PAGE_BYTES, round_up(len, PAGE_BYTES));
    p->read.len_bytes = len;
    p->read.offset = (struct c_off){offset};
    p->read.done = read_done;
    store_read(&p->read);
}

static int64_t finish(struct pending *p)
{
    mutex_lock(&p->mu);
    while (!p->done)
        pthread_cond_wait(&p->changed, &p->mu);
    mutex_unlock(&p->mu);
    return p->result;
}

static void ranges_are_read(void **state)
{
    struct store_object *o;
    struct pending p[20];
    char content[100000];

    (void)state;
    for (size_t i = 0; i < sizeof(content); i++)
        content[i] = (char)(i / 7);
    assert_int_equal(store_put(store, &build, "memfile", content, sizeof(content), NULL), 0);
    assert_int_equal(store_object_open(store, &build, "memfile", &o), 0);
    /* All at once: the first one opens the file, the others wait for it. */
    for (unsigned i = 0; i < ARRAY_SIZE(p); i++)
        start(&p[i], o, i * PAGE_BYTES, 10000);
    for (unsigned i = 0; i < ARRAY_SIZE(p); i++) {
        int64_t want = MIN(10000, (int64_t)sizeof(content) - (int64_t)(i * PAGE_BYTES));

        assert_int_equal(finish(&p[i]), want);
        assert_memory_equal(p[i].read.buf, content + i * PAGE_BYTES, want);
        free(p[i].read.buf);
    }
    store_object_close(o);
}

static void a_missing_object_is_looked_for_again(void **state)
{
    struct store_object *o;
    struct pending p;

    (void)state;
    assert_int_equal(store_object_open(store, &build, "late", &o), 0);
    start(&p, o, 0, 4096);
    assert_int_equal(finish(&p), -ENOENT);
    free(p.read.buf);
    assert_int_equal(store_put(store, &build, "late", "here", 4, NULL), 0);
    start(&p, o, 0, 4096);
    assert_int_equal(finish(&p), 4);
    assert_memory_equal(p.read.buf, "here", 4);
    free(p.read.buf);
    store_object_close(o);
}

/* --- things that are no objects --- */

static int64_t read_once(struct store_object *o)
{
    struct pending p;
    int64_t result;

    start(&p, o, 0, 4096);
    result = finish(&p);
    free(p.read.buf);
    return result;
}

/* All three ways to get at an object say that it is none, and none of them waits or leads out. */
static void assert_no_object(const struct uuid *id, const char *name, int code)
{
    struct buf got CLEANUP_BUF = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct store_object *o;
    uint64_t size;

    assert_int_equal(store_get(store, id, name, 100, &got, &e), code);
    assert_non_null(strstr(e.text, name));
    assert_int_equal(got.len, 0);
    assert_int_equal(store_size(store, id, name, &size), code);
    assert_int_equal(store_object_open(store, id, name, &o), 0);
    assert_int_equal(read_once(o), code);
    assert_int_equal(read_once(o), code);
    store_object_close(o);
}

static void only_files_are_objects(void **state)
{
    struct store_objects objects CLEANUP_STORE_OBJECTS = {0};

    (void)state;
    assert_int_equal(store_put(store, &build, "true", "1", 1, NULL), 0);
    for (size_t i = 0; i < ARRAY_SIZE(odd_kinds); i++) {
        char name[16];

        snprintf(name, sizeof(name), "odd-%zu", i);
        make_odd(name, odd_kinds[i]);
        assert_no_object(&build, name, -EBADMSG);
        /* The name is taken all the same. */
        assert_int_equal(store_put(store, &build, name, "x", 1, NULL), -EEXIST);
    }
    assert_int_equal(store_list_objects(store, &build, &objects, NULL), 0);
    assert_int_equal(objects.count, 1);
    assert_string_equal(objects.list[0].name, "true");
    assert_int_equal(store_object_delete(store, &build, "odd-4", NULL), -EBADMSG);
}

static void only_folders_are_builds(void **state)
{
    struct store_builds builds CLEANUP_STORE_BUILDS = {0};
    struct store_objects objects CLEANUP_STORE_OBJECTS = {0};
    char text[UUID_TEXT_BYTES], other_text[UUID_TEXT_BYTES];
    struct uuid link, file;
    char *path;

    (void)state;
    assert_int_equal(store_put(store, &build, "x", "1", 1, NULL), 0);
    assert_int_equal(uuid_random(&link), 0);
    assert_int_equal(uuid_random(&file), 0);
    path = scratch_path(folder, uuid_format(&link, text));
    assert_int_equal(symlink(uuid_format(&build, other_text), path), 0);
    free(path);
    path = scratch_path(folder, uuid_format(&file, text));
    close(open(path, O_WRONLY | O_CREAT, 0600));
    free(path);
    path = scratch_path(folder, "other-things");
    assert_int_equal(mkdir(path, 0700), 0);
    free(path);

    assert_no_object(&link, "x", -ENOTDIR);
    assert_no_object(&file, "x", -ENOTDIR);
    assert_int_equal(store_put(store, &link, "y", "1", 1, NULL), -ENOTDIR);
    assert_int_equal(store_put(store, &file, "y", "1", 1, NULL), -ENOTDIR);
    assert_int_equal(store_list_objects(store, &link, &objects, NULL), -ENOTDIR);
    assert_int_equal(store_build_delete(store, &link, NULL), -ENOTDIR);
    assert_int_equal(store_list_builds(store, &builds, NULL), 0);
    assert_int_equal(builds.count, 1);
    assert_int_equal(uuid_compare(&builds.list[0].id, &build), 0);
}

int main(void)
{
#define READ_TEST(name) TEST_ON(name, uring), TEST_ON(name, pool)
    const struct CMUnitTest tests[] = {
        TEST(objects_come_back),
        TEST(objects_are_immutable),
        TEST(nothing_is_seen_before_commit),
        TEST(odd_names_are_refused),
        TEST(urls_are_checked),
        READ_TEST(ranges_are_read),
        READ_TEST(a_missing_object_is_looked_for_again),
        READ_TEST(only_files_are_objects),
        READ_TEST(only_folders_are_builds),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

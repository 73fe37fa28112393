/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/thread.h"
#include "scratch.h"

static char *folder;
static struct io_engine *io;
static struct store *store;
static struct uuid build;

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    assert_int_equal(store_open(folder, io, false, &store, NULL), 0);
    return uuid_random(&build);
}

static int tear_down(void **state)
{
    (void)state;
    store_close(store);
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

/* How many entries the build's folder has, temporary ones too. */
static unsigned entries(void)
{
    char id[UUID_TEXT_BYTES];
    char *path = scratch_path(folder, uuid_format(&build, id));
    DIR *d = opendir(path);
    unsigned n = 0;
    const struct dirent *entry;

    free(path);
    while (d && (entry = readdir(d)) != NULL)
        n += strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
    if (d)
        closedir(d);
    return n;
}

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
    struct store_object *o;

    (void)state;
    assert_int_equal(store_object_open(store, &build, "../x", &o), -EINVAL);
    assert_int_equal(store_object_open(store, &build, "a/b", &o), -EINVAL);
    assert_int_equal(store_object_open(store, &build, ".tmp-x", &o), -EINVAL);
    assert_int_equal(store_object_open(store, &build, "", &o), -EINVAL);
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

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(objects_come_back),
        TEST(objects_are_immutable),
        TEST(nothing_is_seen_before_commit),
        TEST(odd_names_are_refused),
        TEST(urls_are_checked),
        TEST(ranges_are_read),
        TEST(a_missing_object_is_looked_for_again),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

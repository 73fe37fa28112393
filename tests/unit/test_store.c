/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/thread.h"
#include "scratch.h"

static char *folder;
static struct io_engine *io;
static struct store *store;
static struct uuid build;

/* @state: which I/O engine to use */
static int set_up(void **state)
{
    enum io_kind kind = *(const enum io_kind *)*state;

    folder = scratch_make();
    if (io_engine_create(kind, &io, NULL) < 0) {
        print_message("this machine has no io_uring\n");
        io = NULL;
        kind = IO_KIND_POOL;
        assert_int_equal(io_engine_create(kind, &io, NULL), 0);
    }
    assert_int_equal(io_engine_kind(io), kind);
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

/* "FOLDER/BUILD/NAME", from malloc */
static char *object_path(const struct uuid *id, const char *name)
{
    char text[UUID_TEXT_BYTES];
    char *path;

    assert_true(asprintf(&path, "%s/%s/%s", folder, uuid_format(id, text), name) > 0);
    return path;
}

static struct store *another_store(void)
{
    struct store *s;

    assert_int_equal(store_open(folder, io, false, &s, NULL), 0);
    return s;
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

/* An object of @kind beside a true one named "true". */
static void make_odd(const char *name, const char *kind)
{
    char *path = object_path(&build, name), *target = scratch_path(folder, "outside");
    int fd = open(target, O_WRONLY | O_CREAT, 0600);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, "secret", 6), 6);
    close(fd);
    if (strcmp(kind, "link out") == 0) {
        assert_int_equal(symlink(target, path), 0);
    } else if (strcmp(kind, "link inside") == 0) {
        assert_int_equal(symlink("true", path), 0);
    } else if (strcmp(kind, "dangling link") == 0) {
        assert_int_equal(symlink("nowhere", path), 0);
    } else if (strcmp(kind, "fifo") == 0) {
        assert_int_equal(mkfifo(path, 0600), 0);
    } else if (strcmp(kind, "folder") == 0) {
        assert_int_equal(mkdir(path, 0700), 0);
    } else {
        struct sockaddr_un address = {.sun_family = AF_UNIX};
        int s = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);

        assert_string_equal(kind, "socket");
        assert_true(strlen(path) < sizeof(address.sun_path));
        memcpy(address.sun_path, path, strlen(path) + 1);
        assert_int_equal(bind(s, (struct sockaddr *)&address, sizeof(address)), 0);
        close(s);
    }
    free(path);
    free(target);
}

static const char *const odd_kinds[] = {"link out", "link inside", "dangling link",
                                        "fifo",     "folder",      "socket"};

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

/* --- two creators --- */

#define CREATORS 4u
#define ROUNDS   25u

struct creator {
    pthread_t thread;
    pthread_barrier_t *together;
    struct store *store;
    struct uuid id;
    int result;
    bool discarded; /* and it could discard what was there */
};

static void *put_one(void *arg)
{
    struct creator *c = arg;

    pthread_barrier_wait(c->together);
    c->result = store_put(c->store, &c->id, "memfile", &c, sizeof(c), NULL);
    return NULL;
}

static void *make_build(void *arg)
{
    static const char *const names[] = {"memfile", "snapfile", "memfile.header", "manifest.json"};
    struct creator *c = arg;

    pthread_barrier_wait(c->together);
    c->result = 0;
    for (size_t i = 0; i < ARRAY_SIZE(names) && c->result == 0; i++)
        c->result = store_put(c->store, &c->id, names[i], &c, sizeof(c), NULL);
    /* As a creator does that failed: it must not take the winner's objects. */
    if (c->result < 0)
        c->discarded = store_build_discard(c->store, &c->id, NULL) == 0;
    return NULL;
}

/* Runs @run on CREATORS threads; the one that won. */
static struct creator *compete(struct creator *creators, void *(*run)(void *arg))
{
    pthread_barrier_t together;
    struct creator *winner = NULL;

    pthread_barrier_init(&together, NULL, CREATORS);
    for (unsigned i = 0; i < CREATORS; i++) {
        creators[i].together = &together;
        assert_int_equal(thread_start(&creators[i].thread, "creator", run, &creators[i]), 0);
    }
    for (unsigned i = 0; i < CREATORS; i++) {
        thread_join(creators[i].thread);
        if (creators[i].result == 0) {
            assert_null(winner);
            winner = &creators[i];
        } else {
            assert_int_equal(creators[i].result, -EEXIST);
            assert_false(creators[i].discarded);
        }
    }
    pthread_barrier_destroy(&together);
    assert_non_null(winner);
    return winner;
}

static void assert_written_by(const struct creator *winner, const char *name)
{
    struct buf got CLEANUP_BUF = {0};

    assert_int_equal(store_get(store, &winner->id, name, 100, &got, NULL), 0);
    assert_int_equal(got.len, sizeof(winner));
    assert_memory_equal(got.data, &winner, sizeof(winner));
}

static void one_writer_of_an_object_wins(void **state)
{
    (void)state;
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct creator creators[CREATORS];

        assert_int_equal(uuid_random(&build), 0);
        for (unsigned i = 0; i < CREATORS; i++)
            creators[i] = (struct creator){.store = store, .id = build};
        assert_written_by(compete(creators, put_one), "memfile");
        assert_int_equal(entries(), 1);
    }
}

static void one_creator_of_a_build_wins(void **state)
{
    struct store *stores[CREATORS];

    (void)state;
    for (unsigned i = 0; i < CREATORS; i++)
        stores[i] = another_store();
    for (unsigned round = 0; round < ROUNDS; round++) {
        struct creator creators[CREATORS];
        const struct creator *winner;

        assert_int_equal(uuid_random(&build), 0);
        for (unsigned i = 0; i < CREATORS; i++)
            creators[i] = (struct creator){.store = stores[i], .id = build};
        winner = compete(creators, make_build);
        assert_written_by(winner, "memfile");
        assert_written_by(winner, "memfile.header");
        assert_written_by(winner, "manifest.json");
        assert_int_equal(entries(), 4);
    }
    for (unsigned i = 0; i < CREATORS; i++)
        store_close(stores[i]);
}

/* Who comes second is told before it has written anything. */
static void the_second_creator_is_told_at_once(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct store *other = another_store();
    struct store_writer *w;

    (void)state;
    assert_int_equal(store_put(store, &build, "memfile", "1", 1, NULL), 0);
    assert_int_equal(store_writer_open(other, &build, "snapfile", &w, &e), -EEXIST);
    assert_non_null(strstr(e.text, "somebody else"));
    assert_int_equal(store_put(store, &build, "manifest.json", "1", 1, NULL), 0);
    assert_int_equal(store_writer_open(other, &build, "memfile", &w, &e), -EEXIST);
    store_close(other);
    /* With the manifest the creator is done: others may delete the build. */
    other = another_store();
    assert_int_equal(store_build_delete(other, &build, &e), 0);
    store_close(other);
}

int main(void)
{
    static enum io_kind uring = IO_KIND_URING, pool = IO_KIND_POOL;

#define TEST_ON(name, kind)                                                                        \
    {                                                                                              \
#name ":" #kind, name, set_up, tear_down, &kind                                            \
    }
#define TEST(name)      TEST_ON(name, pool)
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
        TEST(builds_are_listed),
        TEST(an_empty_manifest_is_one),
        TEST(objects_are_listed),
        TEST(objects_are_deleted),
        TEST(builds_are_deleted_whole),
        TEST(leftovers_are_discarded),
        TEST(whole_builds_are_not_discarded),
        TEST(one_writer_of_an_object_wins),
        TEST(one_creator_of_a_build_wins),
        TEST(the_second_creator_is_told_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

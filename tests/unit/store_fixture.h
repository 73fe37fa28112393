/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_STORE_FIXTURE_H
#define THAW_TESTS_STORE_FIXTURE_H

/* A store in a folder of its own, and one build in it that the tests fill. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include "base/error.h"
#include "base/units.h"
#include "scratch.h"
#include "store/store.h"

static char *folder;
static struct io_engine *io;
static struct store *store;
static struct uuid build; /* its name; nothing is there yet */

/* @state: which I/O engine to use */
static inline int set_up(void **state)
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

static inline int tear_down(void **state)
{
    (void)state;
    store_close(store);
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

enum { pool, uring };

static enum io_kind engines[] = {[pool] = IO_KIND_POOL, [uring] = IO_KIND_URING};

#define TEST_ON(name, kind)                                                                        \
    {                                                                                              \
#name ":" #kind, name, set_up, tear_down, &engines[kind]                                   \
    }
#define TEST(name) TEST_ON(name, pool)

/** object_path() - "FOLDER/BUILD/NAME", from malloc */
static inline char *object_path(const struct uuid *id, const char *name)
{
    char text[UUID_TEXT_BYTES];
    char *path;

    assert_true(asprintf(&path, "%s/%s/%s", folder, uuid_format(id, text), name) > 0);
    return path;
}

/** another_store() - as another process would open the same one */
static inline struct store *another_store(void)
{
    struct store *s;

    assert_int_equal(store_open(folder, io, false, &s, NULL), 0);
    return s;
}

/** entries() - how many the build's folder has, temporary ones too */
static inline unsigned entries(void)
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

/* --- what is in the way of objects --- */

/* What has the name of an object and is none. */
static const char *const odd_kinds[] = {"link out", "link inside", "dangling link",
                                        "fifo",     "folder",      "socket"};

/** make_odd() - an object of @kind beside a true one named "true" */
static inline void make_odd(const char *name, const char *kind)
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

#endif

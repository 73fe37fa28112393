/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_BUILD_FIXTURE_H
#define THAW_TESTS_BUILD_FIXTURE_H

/* A store in a scratch folder with one build made of given memory, and what reads it. */

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "base/uuid.h"
#include "cache/set.h"
#include "fetch/fetch.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/create.h"
#include "image/image.h"
#include "kernel/io.h"
#include "scratch.h"
#include "store/store.h"
#include "waiting.h"

struct build_fixture {
    char *folder;
    struct io_engine *io;
    struct store *store;
    struct cache_set *caches;
    struct fetch *fetch;
    struct uuid id;
    struct manifest *manifest;
};

/** build_fixture_init() - make a build of @memory, a multiple of 4096 bytes */
static inline void build_fixture_init(struct build_fixture *f, const void *memory, size_t len)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct metadata *metadata;
    char *path;
    int fd;

    f->folder = scratch_make();
    path = scratch_path(f->folder, "memory");
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    assert_int_equal(file_write_at(fd, memory, len, 0), 0);
    close(fd);
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &f->io, &e), 0);
    assert_int_equal(store_open(f->folder, f->io, false, &f->store, &e), 0);
    assert_int_equal(cache_set_create(&(struct cache_set_options){0}, &f->caches, &e), 0);
    assert_int_equal(fetch_create(f->caches, &f->fetch, &e), 0);
    assert_int_equal(uuid_random(&f->id), 0);
    assert_int_equal(metadata_create(&metadata), 0);
    assert_int_equal(build_create(f->store, &f->id,
                                  &(struct build_source){.memory_path = path, .metadata = metadata},
                                  &e),
                     0);
    assert_int_equal(build_manifest_load(f->store, &f->id, &f->manifest, &e), 0);
    metadata_destroy(metadata);
    free(path);
}

static inline void build_fixture_finish(struct build_fixture *f)
{
    manifest_destroy(f->manifest);
    fetch_destroy(f->fetch);
    cache_set_destroy(f->caches);
    store_close(f->store);
    io_engine_destroy(f->io);
    scratch_remove(f->folder);
}

/** build_fixture_object() - the path of an object's file, from malloc */
static inline char *build_fixture_object(const struct build_fixture *f, const char *name)
{
    char id[UUID_TEXT_BYTES];
    char *path;

    assert_true(asprintf(&path, "%s/%s/%s", f->folder, uuid_format(&f->id, id), name) > 0);
    return path;
}

/** build_fixture_flip() - change one byte of an object's file; twice gives the old one back */
static inline void build_fixture_flip(const struct build_fixture *f, const char *name,
                                      uint64_t offset)
{
    char *path = build_fixture_object(f, name);
    int fd = open(path, O_RDWR);
    unsigned char byte;

    assert_int_equal(file_read_at(fd, &byte, 1, offset), 1);
    byte ^= 0x40;
    assert_int_equal(file_write_at(fd, &byte, 1, offset), 0);
    close(fd);
    free(path);
}

/* Somebody who waits for one granule. */
struct fixture_wait {
    struct fetch_waiter waiter;
    bool told;
};

static inline void fixture_told(struct message *m)
{
    container_of(container_of(m, struct fetch_waiter, msg), struct fixture_wait, waiter)->told =
        true;
}

/** fetch_one() - ask for a granule and wait: 0 if it was fetched, else -errno, as -EALREADY */
static inline int fetch_one(struct fetch_object *o, uint32_t granule)
{
    struct mailbox inbox;
    struct fixture_wait w = {.waiter = {.to = &inbox, .msg.deliver = fixture_told}};
    int r;

    assert_int_equal(mailbox_init(&inbox), 0);
    r = fetch_want(o, granule, IO_DEMAND, &w.waiter);
    while (r == 0 && !w.told)
        await_messages(&inbox);
    mailbox_finish(&inbox);
    return r < 0 ? r : w.waiter.result;
}

/** fixture_pin() - the granule at @at of @im, waiting for it; to be unpinned with image_unpin() */
static inline const char *fixture_pin(struct image *im, const struct image_extent *at)
{
    const void *memory;
    struct mailbox inbox;

    assert_int_equal(mailbox_init(&inbox), 0);
    while (!(memory = image_pin(im, at))) {
        struct fixture_wait w = {.waiter = {.to = &inbox, .msg.deliver = fixture_told}};

        if (image_want(im, at, IO_DEMAND, &w.waiter) < 0)
            continue;
        while (!w.told)
            await_messages(&inbox);
        assert_true(w.waiter.result == 0 || w.waiter.result == -EAGAIN);
    }
    mailbox_finish(&inbox);
    return memory;
}

/** random_bytes() - reproducible bytes, none of the pages zero */
static inline unsigned char *random_bytes(size_t len, uint64_t seed)
{
    unsigned char *p = malloc(len);

    for (size_t i = 0; i < len; i++) {
        seed = seed * 6364136223846793005u + 1442695040888963407u;
        p[i] = (unsigned char)(seed >> 33);
    }
    return p;
}

#endif

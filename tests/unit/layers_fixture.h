/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_LAYERS_FIXTURE_H
#define THAW_TESTS_LAYERS_FIXTURE_H

/*
 * A store in a scratch folder with an image in three layers, and a gate in front of the store's
 * reads: while it is closed, whoever wants something that is not there waits until the test says
 * otherwise.
 */

#include <poll.h>
#include <sys/eventfd.h>

#include "../lib/test_random.h"
#include "base/thread.h"
#include "build_fixture.h"
#include "kernel/io_internal.h"

#define LAYERS 3u

struct gate {
    struct io_engine engine;
    struct io_engine *inner; /* owned */
    pthread_mutex_t mu;
    int came_fd;          /* owned: an eventfd */
    struct io_queue held; /* [m] mu */
    unsigned held_count;  /* [m] mu */
    bool closed;          /* [m] mu */
};

static inline void gate_submit(struct io_engine *self, struct io_request *r)
{
    struct gate *g = container_of(self, struct gate, engine);
    bool hold;

    mutex_lock(&g->mu);
    hold = g->closed && r->op == IO_READ;
    if (hold) {
        io_queue_push(&g->held, r);
        g->held_count++;
        assert_int_equal(eventfd_write(g->came_fd, 1), 0);
    }
    mutex_unlock(&g->mu);
    if (!hold)
        io_submit(g->inner, r);
}

static inline void gate_init(struct gate *g)
{
    *g = (struct gate){.engine.submit = gate_submit,
                       .mu = PTHREAD_MUTEX_INITIALIZER,
                       .came_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    assert_true(g->came_fd >= 0);
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &g->inner, NULL), 0);
    g->engine.kind = io_engine_kind(g->inner);
}

static inline void gate_close(struct gate *g)
{
    mutex_lock(&g->mu);
    g->closed = true;
    mutex_unlock(&g->mu);
}

static inline void gate_open(struct gate *g)
{
    struct io_queue held;
    struct io_request *r;

    mutex_lock(&g->mu);
    held = g->held;
    g->held = (struct io_queue){0};
    g->held_count = 0;
    g->closed = false;
    mutex_unlock(&g->mu);
    while ((r = io_queue_pop(&held)) != NULL)
        io_submit(g->inner, r);
}

/** gate_await() - until @n reads are held; @box is of those who want them */
static inline void gate_await(struct gate *g, struct mailbox *box, unsigned n)
{
    struct pollfd p[] = {{.fd = g->came_fd, .events = POLLIN},
                         {.fd = box->event_fd, .events = POLLIN}};
    eventfd_t count;
    unsigned held;

    for (;;) {
        mutex_lock(&g->mu);
        held = g->held_count;
        mutex_unlock(&g->mu);
        if (held >= n)
            return;
        assert_true(poll(p, ARRAY_SIZE(p), 60000) > 0);
        eventfd_read(g->came_fd, &count);
        mailbox_deliver(box);
    }
}

struct layers_fixture {
    char *folder;
    struct gate gate;
    struct store *store;
    struct cache_set *caches;
    struct fetch *fetch;
    struct uuid ids[LAYERS]; /* the last one is the build */
    struct manifest *manifest;
    unsigned char *content; /* owned: what the image holds */
    size_t bytes;
};

/* Some pages with new bytes, some zeros; runs of up to 40 pages. */
static inline void layers_change(struct layers_fixture *f, struct test_random *rng)
{
    size_t pages = f->bytes / PAGE_BYTES;

    for (size_t page = test_random_below(rng, 20); page < pages;
         page += test_random_below(rng, 300)) {
        size_t most = 1 + test_random_below(rng, 40), n = MIN(most, pages - page);
        unsigned char *start = f->content + page * PAGE_BYTES;

        if (test_random_below(rng, 3) == 0)
            memset(start, 0, n * PAGE_BYTES);
        else
            for (size_t i = 0; i < n * PAGE_BYTES; i += 8)
                memcpy(start + i, &(uint64_t){test_random_next(rng)}, 8);
        page += n;
    }
}

static inline void layers_add(struct layers_fixture *f, unsigned i)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char *path = scratch_path(f->folder, "disk");
    int fd = open(path, O_WRONLY | O_CREAT, 0600);
    struct metadata *metadata;

    assert_int_equal(file_write_at(fd, f->content, f->bytes, 0), 0);
    close(fd);
    assert_int_equal(metadata_create(&metadata), 0);
    assert_int_equal(uuid_random(&f->ids[i]), 0);
    assert_int_equal(build_create(f->store, &f->ids[i],
                                  &(struct build_source){.rootfs_path = path,
                                                         .base = i > 0 ? &f->ids[i - 1] : NULL,
                                                         .metadata = metadata},
                                  &e),
                     0);
    metadata_destroy(metadata);
    free(path);
}

/** layers_fixture_init() - @bytes is a multiple of 4096 */
static inline void layers_fixture_init(struct layers_fixture *f, size_t bytes, uint64_t seed)
{
    struct test_random rng = {seed};

    f->folder = scratch_make();
    f->bytes = bytes;
    gate_init(&f->gate);
    assert_int_equal(store_open(f->folder, &f->gate.engine, false, &f->store, NULL), 0);
    assert_int_equal(cache_set_create(&(struct cache_set_options){0}, &f->caches, NULL), 0);
    assert_int_equal(fetch_create(f->caches, &f->fetch, NULL), 0);
    f->content = random_bytes(bytes, seed);
    for (unsigned i = 0; i < LAYERS; i++) {
        layers_change(f, &rng);
        layers_add(f, i);
    }
    assert_int_equal(build_manifest_load(f->store, &f->ids[LAYERS - 1], &f->manifest, NULL), 0);
}

static inline void layers_fixture_finish(struct layers_fixture *f)
{
    manifest_destroy(f->manifest);
    fetch_destroy(f->fetch);
    cache_set_destroy(f->caches);
    store_close(f->store);
    io_engine_destroy(f->gate.inner);
    close(f->gate.came_fd);
    scratch_remove(f->folder);
    free(f->content);
}

static inline struct image *layers_fixture_open(struct layers_fixture *f)
{
    struct image *image;

    assert_int_equal(image_open(f->fetch, f->store, f->manifest, IMAGE_ROOTFS, &image, NULL), 0);
    return image;
}

/** layers_fixture_flip() - change all bytes of the object of layer @i; twice gives them back */
static inline void layers_fixture_flip(const struct layers_fixture *f, unsigned i)
{
    char id[UUID_TEXT_BYTES], *path;
    unsigned char bytes[16 * KIB];
    uint64_t off = 0;
    ssize_t n;
    int fd;

    assert_true(asprintf(&path, "%s/%s/%s", f->folder, uuid_format(&f->ids[i], id), IMAGE_ROOTFS) >
                0);
    fd = open(path, O_RDWR);
    assert_true(fd >= 0);
    while ((n = file_read_at(fd, bytes, sizeof(bytes), off)) > 0) {
        for (ssize_t k = 0; k < n; k++)
            bytes[k] ^= 0x40;
        assert_int_equal(file_write_at(fd, bytes, (size_t)n, off), 0);
        off += (uint64_t)n;
    }
    close(fd);
    free(path);
}

/** layers_fixture_damage() - no granule verifies any more; the second time, all do again */
static inline void layers_fixture_damage(const struct layers_fixture *f)
{
    for (unsigned i = 0; i < LAYERS; i++)
        layers_fixture_flip(f, i);
}

#endif

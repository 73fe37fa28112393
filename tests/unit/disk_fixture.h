/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_DISK_FIXTURE_H
#define THAW_TESTS_DISK_FIXTURE_H

/* A disk over an image in layers, requests to it, and an array of what it should hold. */

#include "disk/disk.h"
#include "layers_fixture.h"

/* More than the largest request; not a whole number of granules. */
#define DISK_TEST_BYTES (34 * MIB + 3 * PAGE_BYTES)

static struct layers_fixture layers;
static struct image *image;
static struct mailbox inbox;
static struct disk *disk;
static unsigned char *model;

/* One request. */
struct job {
    struct disk_request request;
    unsigned char *data;     /* owned; NULL when the job is not in use */
    unsigned char *expected; /* owned, or NULL */
    bool done;
    unsigned order; /* as which one it was completed */
};

static unsigned completions;

static inline void deliver(void)
{
    await_messages(&inbox);
}

/* Whatever has been posted by now. */
static inline void deliver_what_is_there(void)
{
    while (mailbox_deliver(&inbox) > 0)
        ;
}

static inline void job_done(struct disk_request *r)
{
    struct job *j = container_of(r, struct job, request);

    assert_false(j->done);
    j->done = true;
    j->order = ++completions;
}

static inline void *memdup(const void *from, size_t len)
{
    void *p = malloc(len + 1);

    memcpy(p, from, len);
    return p;
}

static inline void job_init(struct job *j, enum disk_op op, uint64_t off, uint64_t len)
{
    *j = (struct job){.data = calloc(1, len + 1)};
    j->request = (struct disk_request){.op = op,
                                       .off = off,
                                       .len_bytes = (uint32_t)len,
                                       .data = j->data,
                                       .done = job_done,
                                       .result = 1};
}

static inline void job_submit(struct job *j)
{
    int r = disk_submit(disk, &j->request);

    assert_in_range(r, 0, 1);
    assert_false(j->done); /* not from within */
    if (r == 1)
        job_done(&j->request);
}

static inline void job_await(struct job *j)
{
    while (!j->done)
        deliver();
}

static inline void job_run(struct job *j)
{
    job_submit(j);
    job_await(j);
}

static inline void job_finish(struct job *j)
{
    free(j->data);
    free(j->expected);
    *j = (struct job){0};
}

/** model_apply() - what a request makes of the disk */
static inline void model_apply(const struct disk_request *r)
{
    uint64_t start = r->off, end_off = r->off + r->len_bytes;

    if (r->op == DISK_TRIM) {
        start = round_up(start, PAGE_BYTES);
        end_off = round_down(end_off, PAGE_BYTES);
    }
    if (r->op == DISK_WRITE)
        memcpy(model + start, r->data, r->len_bytes);
    else if ((r->op == DISK_ZERO || r->op == DISK_TRIM) && start < end_off)
        memset(model + start, 0, end_off - start);
}

/** check_all() - the disk holds what the model says */
static inline void check_all(void)
{
    for (uint64_t off = 0; off < layers.bytes; off += 4 * MIB) {
        struct job j;

        job_init(&j, DISK_READ, off, MIN(4 * MIB, layers.bytes - off));
        job_run(&j);
        assert_int_equal(j.request.result, 0);
        assert_memory_equal(j.data, model + off, j.request.len_bytes);
        job_finish(&j);
    }
}

/**
 * view() - as disk_view(), of what the model says
 *
 * Returns: how many pieces there are, or what disk_view() said.
 */
static inline int view(uint64_t off, uint32_t len)
{
    struct disk_view v;
    uint64_t at = off;
    bool same = true;
    int r = disk_view(disk, off, len, &v);

    if (r < 0)
        return r;
    r = (int)v.pieces;
    for (unsigned i = 0; i < v.pieces; i++) {
        same = same && memcmp(v.iov[i].iov_base, model + at, v.iov[i].iov_len) == 0;
        at += v.iov[i].iov_len;
    }
    disk_view_end(disk, &v); /* before anything fails: what is pinned cannot be closed */
    disk_view_end(disk, &v); /* of nothing */
    assert_true(same);
    assert_int_equal(at, off + len);
    return r;
}

static inline void disk_fixture_init_group(size_t bytes)
{
    layers_fixture_init(&layers, bytes, 3);
}

static inline int disk_fixture_finish_group(void **state)
{
    (void)state;
    layers_fixture_finish(&layers);
    return 0;
}

static inline void disk_fixture_open(bool read_only)
{
    struct disk_options options = {.build = layers.ids[LAYERS - 1], .read_only = read_only};

    image = layers_fixture_open(&layers);
    assert_int_equal(mailbox_init(&inbox), 0);
    options.image = image;
    options.inbox = &inbox;
    assert_int_equal(disk_create(&options, &disk, NULL), 0);
    model = memdup(layers.content, layers.bytes);
    completions = 0;
}

/* As an owner does it: nothing is under way any more, whatever was. */
static inline void disk_fixture_close(void)
{
    gate_open(&layers.gate);
    disk_cancel_all(disk);
    while (disk_under_way(disk) > 0)
        deliver();
    disk_destroy(disk);
    image_close(image); /* would not return if anything were pinned */
    mailbox_finish(&inbox);
    free(model);
}

static inline void disk_fixture_reopen(void)
{
    disk_fixture_close();
    disk_fixture_open(false);
}

static inline int disk_fixture_set_up(void **state)
{
    (void)state;
    disk_fixture_open(false);
    return 0;
}

static inline int disk_fixture_tear_down(void **state)
{
    (void)state;
    disk_fixture_close();
    return 0;
}

#define DISK_TEST(name)                                                                            \
    cmocka_unit_test_setup_teardown(name, disk_fixture_set_up, disk_fixture_tear_down)

#endif

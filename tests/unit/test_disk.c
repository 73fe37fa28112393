/* SPDX-License-Identifier: Apache-2.0 */

/* The disk against an array: one request after the other, and many at once. */
#include "disk/disk.h"

#include <errno.h>
#include <string.h>

#include "disk_fixture.h"

#define PLAY (3 * MIB) /* where the random requests go, at either end of the disk */

static int set_up_group(void **state)
{
    (void)state;
    disk_fixture_init_group(DISK_TEST_BYTES);
    return 0;
}

/* --- one at a time --- */

static uint64_t some_offset(struct test_random *rng, uint64_t len)
{
    uint64_t off = test_random_below(rng, PLAY - len + 1);

    if (test_random_below(rng, 3) == 0)
        off = round_down(off, PAGE_BYTES);
    return test_random_below(rng, 2) ? off : DISK_TEST_BYTES - PLAY + off;
}

static uint64_t some_length(struct test_random *rng)
{
    static const uint64_t most[] = {100, 2 * PAGE_BYTES, 40 * PAGE_BYTES};
    uint64_t len = test_random_below(rng, most[test_random_below(rng, 3)]);

    return test_random_below(rng, 3) ? len : round_up(len, PAGE_BYTES);
}

static enum disk_op some_op(struct test_random *rng)
{
    static const enum disk_op ops[] = {DISK_READ,  DISK_READ, DISK_READ, DISK_READ, DISK_WRITE,
                                       DISK_WRITE, DISK_ZERO, DISK_TRIM, DISK_FLUSH};

    return ops[test_random_below(rng, ARRAY_SIZE(ops))];
}

static void prepare(struct job *j, struct test_random *rng)
{
    uint64_t len = some_length(rng);

    job_init(j, some_op(rng), some_offset(rng, len), len);
    for (uint64_t i = 0; i < len; i++)
        j->data[i] = (unsigned char)(test_random_next(rng) >> 20);
}

static void one_after_the_other(void **state)
{
    unsigned seen = 0;

    (void)state;
    for (uint64_t seed = 1; seed <= 3; seed++) {
        struct test_random rng = {seed};

        disk_fixture_reopen();
        for (unsigned i = 0; i < 400; i++) {
            struct job j;
            int r;

            prepare(&j, &rng);
            job_run(&j);
            assert_int_equal(j.request.result, 0);
            if (j.request.op == DISK_READ)
                assert_memory_equal(j.data, model + j.request.off, j.request.len_bytes);
            else
                model_apply(&j.request);
            r = view(j.request.off, j.request.len_bytes);
            assert_true(r >= 0 || r == -EAGAIN);
            seen += r > 0;
            job_finish(&j);
        }
        check_all();
    }
    assert_true(seen > 100);
}

/* --- many at once, with a store that stops and goes --- */

#define MANY 24u

struct player {
    struct job jobs[MANY];
    bool *unsure[MANY]; /* of a read: bytes that a change under way may have reached or not */
};

static bool both(const struct disk_request *a, const struct disk_request *b)
{
    return a->off < b->off + b->len_bytes && b->off < a->off + a->len_bytes;
}

/* A read and a change that are under way at the same time. */
static void mark_unsure(struct player *p, unsigned read, const struct disk_request *change)
{
    const struct disk_request *r = &p->jobs[read].request;

    for (uint64_t i = 0; i < r->len_bytes; i++) {
        uint64_t at = r->off + i;

        if (at >= change->off && at - change->off < change->len_bytes)
            p->unsure[read][i] = true;
    }
}

static void note_overlaps(struct player *p, unsigned fresh)
{
    const struct disk_request *r = &p->jobs[fresh].request;

    for (unsigned i = 0; i < MANY; i++) {
        const struct job *other = &p->jobs[i];

        if (i == fresh || !other->data || other->done || !both(r, &other->request))
            continue;
        if (r->op == DISK_READ && other->request.op != DISK_READ)
            mark_unsure(p, fresh, &other->request);
        if (r->op != DISK_READ && other->request.op == DISK_READ)
            mark_unsure(p, i, r);
    }
}

static void start(struct player *p, unsigned i, struct test_random *rng)
{
    struct job *j = &p->jobs[i];

    prepare(j, rng);
    p->unsure[i] = calloc(j->request.len_bytes + 1, 1);
    note_overlaps(p, i);
    /* Changes that overlap are done in the order in which they were submitted. */
    if (j->request.op == DISK_READ)
        j->expected = memdup(model + j->request.off, j->request.len_bytes);
    else
        model_apply(&j->request);
    job_submit(j);
}

static void end(struct player *p, unsigned i)
{
    struct job *j = &p->jobs[i];

    assert_int_equal(j->request.result, 0);
    for (uint64_t k = 0; j->request.op == DISK_READ && k < j->request.len_bytes; k++)
        assert_true(p->unsure[i][k] || j->data[k] == j->expected[k]);
    free(p->unsure[i]);
    job_finish(j);
}

static void await_some(struct player *p)
{
    bool any = false;

    for (unsigned i = 0; i < MANY; i++)
        any |= p->jobs[i].data && p->jobs[i].done;
    if (!any) {
        gate_open(&layers.gate);
        deliver();
    }
}

static void play(struct player *p, struct test_random *rng, unsigned jobs)
{
    while (jobs > 0) {
        for (unsigned i = 0; i < MANY && jobs > 0; i++) {
            if (p->jobs[i].data && p->jobs[i].done)
                end(p, i);
            if (p->jobs[i].data)
                continue;
            start(p, i, rng);
            jobs--;
            if (test_random_below(rng, 50) == 0)
                gate_close(&layers.gate);
        }
        await_some(p);
    }
    gate_open(&layers.gate);
    for (unsigned i = 0; i < MANY; i++) {
        if (p->jobs[i].data) {
            job_await(&p->jobs[i]);
            end(p, i);
        }
    }
}

static void many_at_once(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 6; seed++) {
        struct test_random rng = {seed};
        struct player p = {0};

        disk_fixture_reopen();
        play(&p, &rng, 600);
        check_all();
    }
}

/* --- large requests --- */

static void requests_of_32_mib(void **state)
{
    const uint64_t len = 32 * MIB, off = 1000;
    struct job big, small;

    (void)state;
    job_init(&big, DISK_READ, off, len);
    job_init(&small, DISK_READ, DISK_TEST_BYTES - 100, 100);
    job_submit(&big);
    job_run(&small);
    assert_false(big.done); /* which goes on in slices, while others have their turn */
    job_await(&big);
    assert_int_equal(big.request.result, 0);
    assert_memory_equal(big.data, model + off, len);
    job_finish(&big);
    job_finish(&small);

    job_init(&big, DISK_WRITE, off, len);
    for (uint64_t i = 0; i < len; i += 8)
        memcpy(big.data + i, &i, 8);
    job_submit(&big);
    job_init(&small, DISK_WRITE, off + len - 50, 100); /* after it, though it could be done now */
    memset(small.data, 's', 100);
    model_apply(&big.request);
    model_apply(&small.request);
    job_submit(&small);
    assert_false(small.done);
    job_await(&small);
    assert_true(big.done);
    check_all();
    job_finish(&big);
    job_finish(&small);

    job_init(&big, DISK_ZERO, off, len);
    model_apply(&big.request);
    job_run(&big);
    assert_int_equal(big.request.result, 0);
    check_all();
    job_finish(&big);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        DISK_TEST(one_after_the_other),
        DISK_TEST(many_at_once),
        DISK_TEST(requests_of_32_mib),
    };

    return cmocka_run_group_tests(tests, set_up_group, disk_fixture_finish_group);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Several creators of one object or build: one of them wins, and the others are told. */
#include "store_fixture.h"

#include "base/thread.h"

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
    const struct CMUnitTest tests[] = {
        TEST(one_writer_of_an_object_wins),
        TEST(one_creator_of_a_build_wins),
        TEST(the_second_creator_is_told_at_once),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

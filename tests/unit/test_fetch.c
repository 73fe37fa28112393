/* SPDX-License-Identifier: Apache-2.0 */
#include "fetch/fetch.h"

#include <errno.h>
#include <stdatomic.h>

#include "base/thread.h"
#include "fetch/internal.h"
#include "fetch_fixture.h"

#define GRANULES 1200u /* more than two pages of sums, and than the pool has flights */
#define BYTES    (GRANULES * GRANULE_BYTES - 3 * PAGE_BYTES)

static struct fetch_object *object;

static int set_up_group(void **state)
{
    (void)state;
    fetch_fixture_init(BYTES);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    object = open_object(f.fetch, "memfile", "memfile.sums");
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    fetch_object_close(object);
    return 0;
}

/* One thread's end: waits for its own messages. */
struct client {
    struct mailbox inbox;
    unsigned outstanding;
};

struct wish {
    struct fetch_waiter waiter;
    struct client *client;
    bool told;
};

static void granted(struct message *m)
{
    struct wish *w = container_of(container_of(m, struct fetch_waiter, msg), struct wish, waiter);

    w->told = true;
    w->client->outstanding--;
}

static int want(struct client *c, struct wish *w, uint32_t granule, enum io_priority priority)
{
    int r;

    *w = (struct wish){.client = c, .waiter.to = &c->inbox, .waiter.msg.deliver = granted};
    c->outstanding++;
    r = fetch_want(object, granule, priority, &w->waiter);
    if (r < 0)
        c->outstanding--;
    return r;
}

static void settle(struct client *c)
{
    while (c->outstanding > 0)
        await_messages(&c->inbox);
}

static void granules_arrive_verified(void **state)
{
    uint32_t granules[] = {0, 5, GRANULES - 1, 508, 509, 1018, 64, 63};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(granules); i++) {
        assert_null(fetch_pin(object, granules[i]));
        assert_int_equal(fetch_one(object, granules[i]), 0);
        assert_true(is_right(object, granules[i]));
        assert_int_equal(fetch_one(object, granules[i]), -EALREADY);
    }
}

static void reads_ahead_of_a_sequence(void **state)
{
    struct client c = {.outstanding = 0};
    uint64_t before = fetch_counters(f.fetch).read_bytes;

    (void)state;
    assert_int_equal(fetch_one(object, 100), 0);
    assert_int_equal(fetch_counters(f.fetch).read_bytes - before, GRANULE_BYTES);
    assert_int_equal(fetch_one(object, 101), 0);
    /* 102 ... 109 are under way, or there: nobody reads them again. */
    assert_int_equal(mailbox_init(&c.inbox), 0);
    for (uint32_t g = 102; g < 110; g++) {
        struct wish w;

        if (want(&c, &w, g, IO_BACKGROUND) == 0) {
            settle(&c);
            assert_int_equal(w.waiter.result, 0);
        }
        assert_true(is_right(object, g));
    }
    assert_int_equal(fetch_counters(f.fetch).read_bytes - before, 10 * GRANULE_BYTES);
    mailbox_finish(&c.inbox);
}

/* Its neighbour has been there for a while: that is no sequence. */
static void reads_nothing_ahead_of_who_jumps_about(void **state)
{
    uint64_t before = fetch_counters(f.fetch).read_bytes;
    uint32_t wanted = 2;

    (void)state;
    assert_int_equal(fetch_one(object, 100), 0);
    for (uint32_t g = 110; wanted <= STREAM_ENDS + 1; g += 10, wanted++)
        assert_int_equal(fetch_one(object, g), 0);
    assert_int_equal(fetch_one(object, 101), 0);
    assert_int_equal(cache_state(object->cache, 102), CACHE_ABSENT);
    assert_int_equal(fetch_counters(f.fetch).read_bytes - before, wanted * GRANULE_BYTES);
}

/* Threads that all want everything, in different orders. */
static _Atomic(unsigned) failures;

static void *want_all(void *arg)
{
    struct client c = {.outstanding = 0};
    uint32_t stride = (uint32_t)(uintptr_t)arg;

    if (mailbox_init(&c.inbox) < 0)
        abort();
    for (uint32_t i = 0; i < GRANULES; i++) {
        uint32_t g = i * stride % GRANULES;
        struct wish w;
        int r;

        do {
            r = want(&c, &w, g, IO_DEMAND);
            settle(&c);
        } while (r == 0 && w.waiter.result == -EAGAIN);
        if (r == 0 && w.waiter.result < 0)
            atomic_fetch_add(&failures, 1);
        assert_true(is_right(object, g));
    }
    mailbox_finish(&c.inbox);
    return NULL;
}

static void one_flight_for_any_number_of_waiters(void **state)
{
    static const uintptr_t strides[] = {1, 7, 11, 1199, 1, 13};
    pthread_t t[ARRAY_SIZE(strides)];
    uint64_t before = fetch_counters(f.fetch).read_bytes;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "client", want_all, (void *)strides[i]), 0);
    for (size_t i = 0; i < ARRAY_SIZE(t); i++)
        thread_join(t[i]);
    assert_int_equal(failures, 0);
    /* Read-ahead may be over the end of what was wanted, but nothing is read twice. */
    assert_int_equal(fetch_counters(f.fetch).read_bytes - before, BYTES);
}

static void waiters_beyond_the_pool_are_told_to_come_back(void **state)
{
    struct wish *wishes = calloc(GRANULES, sizeof(*wishes));
    struct client c = {.outstanding = 0};
    unsigned served = 0, sent_back = 0;

    (void)state;
    assert_int_equal(mailbox_init(&c.inbox), 0);
    /* Every second granule, downwards: no sequence, so each needs a flight of its own. */
    for (uint32_t g = GRANULES - 2; g >= 2; g -= 2) {
        if (want(&c, &wishes[g], g, IO_DEMAND) < 0)
            wishes[g].told = true; /* has landed as somebody's neighbour */
    }
    settle(&c);
    for (uint32_t g = GRANULES - 2; g >= 2; g -= 2) {
        assert_true(wishes[g].told);
        assert_true(wishes[g].waiter.result == 0 || wishes[g].waiter.result == -EAGAIN);
        served += wishes[g].waiter.result == 0;
        sent_back += wishes[g].waiter.result == -EAGAIN;
    }
    assert_true(served >= FLIGHT_POOL);
    print_message("%u served, %u sent back\n", served, sent_back);
    mailbox_finish(&c.inbox);
    free(wishes);
}

/* Messages are delivered in the order in which their granules landed. */
static unsigned landed_before(const struct wish *wishes, unsigned count)
{
    unsigned n = 0;

    for (unsigned i = 0; i < count; i++)
        n += wishes[i].told;
    return n;
}

static void a_demand_overtakes_background(void **state)
{
    struct wish wishes[100], urgent;
    struct client c = {.outstanding = 0};
    unsigned before = 0;
    int r;

    (void)state;
    assert_int_equal(mailbox_init(&c.inbox), 0);
    /* Every third granule: no run, so that each is a flight; most of them must queue. */
    for (uint32_t i = 0; i < ARRAY_SIZE(wishes); i++)
        assert_int_equal(want(&c, &wishes[i], 3 * i, IO_BACKGROUND), 0);
    r = want(&c, &urgent, 3 * (ARRAY_SIZE(wishes) - 1), IO_DEMAND);
    while (r == 0 && !urgent.told) {
        struct message *m = mailbox_take(&c.inbox), *next;

        for (; m; m = next) {
            next = m->next;
            if (!urgent.told)
                before = landed_before(wishes, ARRAY_SIZE(wishes));
            m->deliver(m);
        }
    }
    settle(&c);
    /* -EALREADY: this thread was held up until all had landed, which says nothing. */
    if (r == 0)
        assert_true(before < ARRAY_SIZE(wishes) / 2);
    print_message("%u landed before the demand\n", before);
    mailbox_finish(&c.inbox);
}

static void background_leaves_flights_for_demands(void **state)
{
    struct wish *wishes = calloc(GRANULES, sizeof(*wishes)), urgent;
    struct client c = {.outstanding = 0};

    (void)state;
    assert_int_equal(mailbox_init(&c.inbox), 0);
    /* More than the pool has: the last ones are parked, and none of the reserve is taken. */
    for (uint32_t g = 2; g < 2 * (FLIGHT_POOL + 100); g += 2)
        assert_true(want(&c, &wishes[g], g, IO_BACKGROUND) <= 0);
    if (want(&c, &urgent, GRANULES - 1, IO_DEMAND) == 0) {
        while (!urgent.told)
            mailbox_deliver(&c.inbox);
        assert_int_equal(urgent.waiter.result, 0); /* not sent back for want of a flight */
    }
    settle(&c);
    mailbox_finish(&c.inbox);
    free(wishes);
}

static void a_bad_granule_fails_alone_and_is_tried_again(void **state)
{
    uint64_t before = fetch_counters(f.fetch).failed;

    (void)state;
    build_fixture_flip(&f, "memfile", 20 * GRANULE_BYTES + 5);
    assert_int_equal(fetch_one(object, 20), -EBADMSG);
    assert_null(fetch_pin(object, 20));
    assert_int_equal(fetch_one(object, 19), 0);
    assert_int_equal(fetch_one(object, 21), 0);
    assert_true(is_right(object, 21));
    assert_int_equal(fetch_counters(f.fetch).failed - before, 1);
    build_fixture_flip(&f, "memfile", 20 * GRANULE_BYTES + 5);
    assert_int_equal(fetch_one(object, 20), 0);
    assert_true(is_right(object, 20));
}

static void bad_sums_are_not_believed(void **state)
{
    (void)state;
    build_fixture_flip(&f, "memfile.sums", SUMS_PAGE_BYTES + 100);
    assert_int_equal(fetch_one(object, 600), -EBADMSG);
    assert_int_equal(fetch_one(object, 1), 0);
    build_fixture_flip(&f, "memfile.sums", SUMS_PAGE_BYTES + 100);
    assert_int_equal(fetch_one(object, 600), 0);
    assert_true(is_right(object, 600));
}

static void without_sums_bytes_are_counted_as_unverified(void **state)
{
    uint64_t before = fetch_counters(f.fetch).unverified_bytes;

    (void)state;
    object = open_object(f.fetch, "memfile", NULL);
    assert_int_equal(fetch_one(object, 3), 0);
    assert_true(is_right(object, 3));
    assert_int_equal(fetch_counters(f.fetch).unverified_bytes - before, GRANULE_BYTES);
    fetch_object_close(object);
}

static void a_missing_object_is_an_error_for_each(void **state)
{
    (void)state;
    object = open_object(f.fetch, "absent", "memfile.sums");
    assert_int_equal(fetch_one(object, 0), -ENOENT);
    assert_int_equal(fetch_one(object, 700), -ENOENT);
    fetch_object_close(object);
}

static void close_waits_for_flights(void **state)
{
    struct wish wishes[50];
    struct client c = {.outstanding = 0};

    (void)state;
    object = open_object(f.fetch, "memfile", "memfile.sums");
    assert_int_equal(mailbox_init(&c.inbox), 0);
    for (uint32_t i = 0; i < ARRAY_SIZE(wishes); i++)
        assert_int_equal(want(&c, &wishes[i], i * 3, IO_BACKGROUND), 0);
    fetch_object_close(object);
    /* Every message had been sent by then. */
    mailbox_deliver(&c.inbox);
    assert_int_equal(c.outstanding, 0);
    mailbox_finish(&c.inbox);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(granules_arrive_verified),
        TEST(reads_ahead_of_a_sequence),
        TEST(reads_nothing_ahead_of_who_jumps_about),
        TEST(one_flight_for_any_number_of_waiters),
        TEST(waiters_beyond_the_pool_are_told_to_come_back),
        TEST(a_demand_overtakes_background),
        TEST(background_leaves_flights_for_demands),
        TEST(a_bad_granule_fails_alone_and_is_tried_again),
        TEST(bad_sums_are_not_believed),
        cmocka_unit_test(without_sums_bytes_are_counted_as_unverified),
        cmocka_unit_test(a_missing_object_is_an_error_for_each),
        cmocka_unit_test(close_waits_for_flights),
    };

    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}

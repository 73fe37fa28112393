/* SPDX-License-Identifier: Apache-2.0 */

/* Fetching where the image is eight times the memory budget: all are served, nobody for ever. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <stdatomic.h>

#include "base/thread.h"
#include "fetch/internal.h"
#include "fetch_fixture.h"

#define GRANULES (8 * CACHE_BUDGET_MIN / GRANULE_BYTES)
#define BYTES    (GRANULES * GRANULE_BYTES - 3 * PAGE_BYTES)

static enum cache_backing backing;
static struct cache_set *caches; /* small */
static struct fetch *fetch;
static struct fetch_object *object;

static int set_up_group(void **state)
{
    (void)state;
    fetch_fixture_init(BYTES);
    return 0;
}

static int set_up(void **state)
{
    struct cache_set_options small = {.backing = backing, .budget_bytes = CACHE_BUDGET_MIN};

    (void)state;
    assert_int_equal(cache_set_create(&small, &caches, NULL), 0);
    assert_int_equal(fetch_create(caches, &fetch, NULL), 0);
    object = open_object(fetch, "memfile", "memfile.sums");
    return 0;
}

static int tear_down(void **state)
{
    struct cache_set_counters n;

    (void)state;
    fetch_object_close(object);
    n = cache_set_counters(caches);
    assert_int_equal(n.charged_bytes, 0);
    assert_int_equal(n.passing_bytes, 0);
    assert_int_equal(n.bytes[CACHE_KIND_READ_THROUGH], 0);
    assert_false(cache_room_awaited(caches));
    fetch_destroy(fetch);
    cache_set_destroy(caches);
    return 0;
}

/* --- a page of so many granules, put together one by one in a buffer, as a pager does --- */

#define PAGE_GRANULES 32u
#define PAGES_MAX     4u /* at a time */

struct client {
    struct mailbox inbox;
    unsigned outstanding;
    unsigned repeated; /* asked again for a granule that had been fetched for us */
    unsigned count;    /* granules a page */
    enum io_priority priority;
};

struct page {
    struct client *client;
    uint32_t first;
    unsigned missing;
    struct piece {
        struct fetch_waiter waiter;
        struct page *page;
        uint32_t granule;
    } pieces[PAGE_GRANULES];
};

static bool take(const struct piece *p)
{
    if (!is_right(object, p->granule))
        return false;
    p->page->missing--;
    return true;
}

static void ask(struct piece *p);

static void told(struct message *m)
{
    struct piece *p = container_of(container_of(m, struct fetch_waiter, msg), struct piece, waiter);

    p->page->client->outstanding--;
    assert_true(p->waiter.result == 0 || p->waiter.result == -EAGAIN);
    if (p->waiter.result == 0 && take(p))
        return;
    p->page->client->repeated += p->waiter.result == 0;
    ask(p);
}

static void ask(struct piece *p)
{
    struct client *c = p->page->client;

    while (!take(p)) {
        p->waiter = (struct fetch_waiter){.to = &c->inbox, .msg.deliver = told};
        c->outstanding++;
        if (fetch_want(object, p->granule, c->priority, &p->waiter) == 0)
            return;
        c->outstanding--;
    }
}

static void begin_page(struct page *page, struct client *c, uint32_t first)
{
    page->client = c;
    page->first = first;
    page->missing = c->count;
    for (unsigned i = 0; i < c->count; i++) {
        page->pieces[i].page = page;
        page->pieces[i].granule = (first + i) % (uint32_t)GRANULES;
    }
    for (unsigned i = 0; i < c->count; i++)
        ask(&page->pieces[i]);
}

/* All of @rounds pages, several at a time, at random places. */
static void assemble(struct client *c, unsigned seed, unsigned rounds)
{
    struct page *pages = calloc(PAGES_MAX, sizeof(*pages));
    unsigned begun = 0;

    assert_int_equal(mailbox_init(&c->inbox), 0);
    do {
        for (unsigned i = 0; i < PAGES_MAX && begun < rounds; i++) {
            if (pages[i].missing > 0)
                continue;
            seed = seed * 1103515245u + 12345u;
            begin_page(&pages[i], c, seed / 65536 % (uint32_t)GRANULES);
            begun++;
        }
        if (c->outstanding > 0)
            await_messages(&c->inbox);
    } while (begun < rounds || c->outstanding > 0);
    for (unsigned i = 0; i < PAGES_MAX; i++)
        assert_int_equal(pages[i].missing, 0);
    mailbox_finish(&c->inbox);
    free(pages);
}

#define THREADS 4u

static _Atomic(unsigned) repeated;

static void *assemble_huge(void *arg)
{
    struct client c = {.count = PAGE_GRANULES};

    assemble(&c, (unsigned)(uintptr_t)arg, 24);
    atomic_fetch_add(&repeated, c.repeated);
    return NULL;
}

static void *assemble_small(void *arg)
{
    struct client c = {.count = 1};

    assemble(&c, (unsigned)(uintptr_t)arg, 1000);
    atomic_fetch_add(&repeated, c.repeated);
    return NULL;
}

static void *assemble_background(void *arg)
{
    struct client c = {.count = 8, .priority = IO_BACKGROUND};

    assemble(&c, (unsigned)(uintptr_t)arg, 24);
    atomic_fetch_add(&repeated, c.repeated);
    return NULL;
}

static void run_all(void *(*const functions[THREADS])(void *arg))
{
    struct cache_set_counters n;
    pthread_t t[THREADS];

    atomic_store(&repeated, 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&t[i], "client", functions[i], (void *)(i + 1)), 0);
    for (unsigned i = 0; i < THREADS; i++)
        thread_join(t[i]);
    n = cache_set_counters(caches);
    assert_true(n.charged_bytes + n.passing_bytes <= n.budget_bytes);
    assert_int_equal(n.not_kept > 0, backing == CACHE_BACKING_MEMFD);
    assert_true(n.evicted > 0);
    assert_int_equal(n.bytes[CACHE_KIND_READ_THROUGH], fetch_allocated_bytes(object));
    /* What was fetched for somebody was there when he came: nobody fetched in vain. */
    assert_int_equal(repeated, 0);
}

static void random_pages_of_four_clients(void **state)
{
    (void)state;
    run_all(
        (void *(*const[])(void *)){assemble_small, assemble_small, assemble_small, assemble_small});
}

/* Each of four wants 128 granules at once, where there are places for 64 altogether. */
static void huge_pages_of_four_clients(void **state)
{
    (void)state;
    run_all((void *(*const[])(void *)){assemble_huge, assemble_huge, assemble_huge, assemble_huge});
}

static void clients_of_all_kinds(void **state)
{
    (void)state;
    run_all((void *(*const[])(void *)){assemble_huge, assemble_background, assemble_small,
                                       assemble_background});
}

static void a_sequence_is_still_read_ahead(void **state)
{
    struct client c = {.count = 1};
    struct page page;
    uint64_t flights;

    (void)state;
    assert_int_equal(mailbox_init(&c.inbox), 0);
    for (uint32_t g = 0; g < GRANULES; g++) {
        begin_page(&page, &c, g);
        while (page.missing > 0)
            await_messages(&c.inbox);
    }
    while (c.outstanding > 0)
        await_messages(&c.inbox);
    mailbox_finish(&c.inbox);
    flights = fetch_counters(fetch).flights;
    assert_int_equal(fetch_counters(fetch).read_bytes, BYTES);
    assert_true(flights < GRANULES / 2);
    print_message("%u flights for %u granules\n", (unsigned)flights, (unsigned)GRANULES);
}

/* --- messages that nobody reads for a while --- */

static unsigned counted;

static void count(struct message *m)
{
    (void)m;
    counted++;
}

static void all_flights_land(void)
{
    bool landed;

    do {
        mutex_lock(&fetch->mu);
        landed = fetch->free_count == FLIGHT_POOL;
        mutex_unlock(&fetch->mu);
        sched_yield();
    } while (!landed);
}

/* Every place is taken by what has been fetched for somebody who has not looked yet. */
static void who_waits_for_room_is_sent_when_a_message_is_delivered(void **state)
{
    struct fetch_waiter waiters[PASSING_PLACES] = {0}, late = {0};
    struct mailbox inbox, late_inbox;
    struct pollfd p = {.events = POLLIN};

    a_sequence_is_still_read_ahead(state); /* spends the budget */
    assert_int_equal(mailbox_init(&inbox), 0);
    assert_int_equal(mailbox_init(&late_inbox), 0);
    for (uint32_t i = 0; i < ARRAY_SIZE(waiters); i++) {
        waiters[i] = (struct fetch_waiter){.to = &inbox, .msg.deliver = count};
        assert_int_equal(fetch_want(object, 200 + 2 * i, IO_DEMAND, &waiters[i]), 0);
    }
    all_flights_land();
    late = (struct fetch_waiter){.to = &late_inbox, .msg.deliver = count};
    assert_int_equal(fetch_want(object, 700, IO_DEMAND, &late), 0);
    p.fd = late_inbox.event_fd;
    assert_int_equal(poll(&p, 1, 0), 0);
    counted = 0;
    mailbox_deliver(&inbox);
    assert_int_equal(counted, PASSING_PLACES);
    assert_int_equal(poll(&p, 1, 60000), 1);
    mailbox_deliver(&late_inbox);
    assert_int_equal(counted, PASSING_PLACES + 1);
    assert_int_equal(late.result, -EAGAIN);
    mailbox_finish(&inbox);
    mailbox_finish(&late_inbox);
}

static void pin_it(struct message *m)
{
    const struct fetch_waiter *w = container_of(m, struct fetch_waiter, msg);

    assert_int_equal(w->result, 0);
    assert_non_null(fetch_pin(object, w->granule));
    counted++;
}

/* Nobody tells of the end of a pin: who finds nothing but pins in his way must not wait for it. */
static void who_finds_all_places_pinned_is_not_forgotten(void **state)
{
    struct fetch_waiter waiters[PASSING_PLACES] = {0}, late = {0};
    struct mailbox inbox, late_inbox;
    struct pollfd p = {.events = POLLIN};
    bool also[GRANULES] = {false};

    a_sequence_is_still_read_ahead(state); /* spends the budget */
    assert_int_equal(mailbox_init(&inbox), 0);
    assert_int_equal(mailbox_init(&late_inbox), 0);
    for (uint32_t i = 0; i < ARRAY_SIZE(waiters); i++) {
        waiters[i] = (struct fetch_waiter){.to = &inbox, .msg.deliver = pin_it};
        assert_int_equal(fetch_want(object, 200 + 2 * i, IO_DEMAND, &waiters[i]), 0);
    }
    all_flights_land();
    counted = 0;
    mailbox_deliver(&inbox);
    assert_int_equal(counted, PASSING_PLACES);
    assert_false(cache_room_awaited(caches));
    for (uint32_t g = 0; g < GRANULES; g++) /* in a pool any of them could make room */
        also[g] = fetch_pin(object, g) != NULL;
    late = (struct fetch_waiter){.to = &late_inbox, .msg.deliver = count};
    assert_int_equal(fetch_want(object, 700, IO_DEMAND, &late), 0);
    for (uint32_t i = 0; i < ARRAY_SIZE(waiters); i++)
        fetch_unpin(object, 200 + 2 * i);
    for (uint32_t g = 0; g < GRANULES; g++) {
        if (also[g])
            fetch_unpin(object, g);
    }
    p.fd = late_inbox.event_fd;
    assert_int_equal(poll(&p, 1, 60000), 1);
    mailbox_deliver(&late_inbox);
    assert_int_equal(late.result, -EAGAIN);
    mailbox_finish(&inbox);
    mailbox_finish(&late_inbox);
}

/* A message that is delivered late puts back a hold on a granule that is gone, with its cache. */
static void messages_may_be_delivered_after_the_close(void **state)
{
    struct fetch_waiter waiters[20] = {0};
    struct mailbox inbox;
    unsigned wanted = 0;

    a_sequence_is_still_read_ahead(state); /* spends the budget */
    assert_int_equal(mailbox_init(&inbox), 0);
    for (uint32_t i = 0; i < ARRAY_SIZE(waiters); i++) {
        waiters[i].to = &inbox;
        waiters[i].msg.deliver = count;
        assert_int_equal(fetch_want(object, 200 + 2 * i, IO_DEMAND, &waiters[i]), 0);
        wanted++;
    }
    fetch_object_close(object);
    object = NULL;
    counted = 0;
    mailbox_deliver(&inbox);
    assert_int_equal(counted, wanted);
    mailbox_finish(&inbox);
}

static void of_a_closed_cache_nothing_is_had(void **state)
{
    struct client c = {.count = 1};
    struct page page = {.client = &c};
    struct piece *p = &page.pieces[0];
    struct pollfd poll_fd;

    (void)state;
    assert_int_equal(mailbox_init(&c.inbox), 0);
    assert_int_equal(cache_close(object->cache), 0);
    p->waiter = (struct fetch_waiter){.to = &c.inbox, .msg.deliver = told};
    assert_int_equal(fetch_want(object, 5, IO_DEMAND, &p->waiter), 0);
    poll_fd = (struct pollfd){.fd = c.inbox.event_fd, .events = POLLIN};
    assert_int_equal(poll(&poll_fd, 1, 60000), 1);
    assert_ptr_equal(mailbox_take(&c.inbox), &p->waiter.msg);
    assert_int_equal(p->waiter.result, -ESHUTDOWN);
    mailbox_finish(&c.inbox);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(random_pages_of_four_clients),
        TEST(huge_pages_of_four_clients),
        TEST(clients_of_all_kinds),
        TEST(a_sequence_is_still_read_ahead),
        TEST(who_waits_for_room_is_sent_when_a_message_is_delivered),
        TEST(who_finds_all_places_pinned_is_not_forgotten),
        TEST(messages_may_be_delivered_after_the_close),
        TEST(of_a_closed_cache_nothing_is_had),
    };

    int failed = cmocka_run_group_tests_name("memfd", tests, set_up_group, tear_down_group);

    backing = CACHE_BACKING_TIERED;
    return failed + cmocka_run_group_tests_name("tiered", tests, set_up_group, tear_down_group);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* A disk tier whose reads hang: who waits for one of them waits, and all else is the store's. */
#include <sched.h>
#include <stdatomic.h>

#include "base/clock.h"
#include "cache/cache.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "fetch_fixture.h"
#include "kernel/io_internal.h"

#define GRANULES 64u
#define BYTES    (GRANULES * GRANULE_BYTES)

/* An engine whose reads hang until they are let go; it holds one. */
struct hanging {
    struct io_engine engine;
    struct io_engine *behind;
    _Atomic(bool) hangs;
    _Atomic(struct io_request *) held;
};

struct life {
    struct cache_set *caches;
    struct fetch *fetch;
    struct fetch_object *object;
    struct mailbox inbox;
};

struct wish {
    struct fetch_waiter waiter;
    bool told;
};

static char *folder; /* of the cache */

static int set_up(void **state)
{
    (void)state;
    setenv("THAW_IO", "pool", 1); /* so that no read goes past the engine given */
    fetch_fixture_init(BYTES);
    folder = scratch_make();
    return 0;
}

static int tear_down(void **state)
{
    scratch_remove(folder);
    return tear_down_group(state);
}

static void hanging_submit(struct io_engine *self, struct io_request *r)
{
    struct hanging *h = container_of(self, struct hanging, engine);

    if (atomic_load(&h->hangs))
        assert_null(atomic_exchange(&h->held, r));
    else
        io_submit(h->behind, r);
}

static void begin(struct life *l, struct io_engine *io)
{
    struct cache_set_options set = {
        .backing = CACHE_BACKING_TIERED,
        .folder = folder,
        .io = io,
        .budget_bytes = 2 * BYTES,
    };

    assert_int_equal(mailbox_init(&l->inbox), 0);
    assert_int_equal(cache_set_create(&set, &l->caches, NULL), 0);
    assert_int_equal(fetch_create(l->caches, &l->fetch, NULL), 0);
    l->object = open_object(l->fetch, "memfile", "memfile.sums");
}

static void end(struct life *l)
{
    fetch_object_close(l->object);
    fetch_destroy(l->fetch);
    cache_set_destroy(l->caches);
    mailbox_finish(&l->inbox);
}

static void told(struct message *m)
{
    container_of(container_of(m, struct fetch_waiter, msg), struct wish, waiter)->told = true;
}

/* False if it is there. */
static bool ask(struct life *l, uint32_t granule, struct wish *w)
{
    *w = (struct wish){.waiter = {.to = &l->inbox, .msg.deliver = told}};
    return fetch_want(l->object, granule, IO_DEMAND, &w->waiter) == 0;
}

static void wait_for(struct life *l, const struct wish *w)
{
    while (!w->told)
        await_messages(&l->inbox);
    assert_true(w->waiter.result == 0 || w->waiter.result == -EAGAIN);
}

static void read_granule(struct life *l, uint32_t granule)
{
    struct wish w;

    while (!is_right(l->object, granule)) {
        if (ask(l, granule, &w))
            wait_for(l, &w);
    }
}

static void wait_for_disk(const struct life *l, uint32_t granule, bool has)
{
    uint64_t deadline_ns = clock_now_ns() + 60 * NS_PER_SEC;

    while (fetch_on_disk(l->object, granule) != has) {
        assert_true(clock_now_ns() < deadline_ns);
        sched_yield();
    }
}

static void fill_disk(void)
{
    struct life l;

    begin(&l, f.io);
    for (uint32_t g = 0; g < GRANULES; g++)
        read_granule(&l, g);
    for (uint32_t g = 0; g < GRANULES; g++)
        wait_for_disk(&l, g, true);
    end(&l);
}

static void while_the_disk_hangs_the_store_serves(void **state)
{
    struct hanging h = {.engine = {.submit = hanging_submit}, .behind = f.io};
    struct fetch_counters c;
    struct wish hung;
    struct life l;

    (void)state;
    fill_disk();
    begin(&l, &h.engine);
    read_granule(&l, 2);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, 0);

    atomic_store(&h.hangs, true);
    assert_true(ask(&l, 30, &hung));
    wait_for_disk(&l, 40, false);
    for (uint32_t g = 40; g < GRANULES; g++)
        read_granule(&l, g);
    c = fetch_counters(l.fetch);
    assert_int_equal(c.read_bytes, (GRANULES - 40) * GRANULE_BYTES);
    assert_int_equal(tier_counters(cache_set_tier(l.caches)).stalls, 1);
    assert_false(hung.told);

    /* It goes on: who waited is served, and the disk is asked again. */
    atomic_store(&h.hangs, false);
    io_submit(h.behind, atomic_load(&h.held));
    wait_for(&l, &hung);
    read_granule(&l, 30);
    wait_for_disk(&l, 10, true);
    read_granule(&l, 10);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, c.read_bytes);
    assert_int_equal(tier_counters(cache_set_tier(l.caches)).stalls, 1);
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(while_the_disk_hangs_the_store_serves, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* What the budget does: of memfd caches, as a file takes no memory that is ours to count. */
#include "test_cache.h"

#include <sched.h>
#include <stdatomic.h>

#include "base/error.h"
#include "base/thread.h"
#include "cache/internal.h"

#define KEPT     PASSING_PLACES /* granules that the least budget keeps */
#define GRANULES (8 * 2 * PASSING_PLACES)
#define BYTES    (GRANULES * GRANULE_BYTES - 3 * PAGE_BYTES)

static struct cache *cache;

static int set_up(void **state)
{
    (void)state;
    backing = CACHE_BACKING_MEMFD;
    caches = new_set(backing, NULL, CACHE_BUDGET_MIN);
    cache = new_cache("memfile", BYTES);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    cache_destroy(cache);
    set_is_empty(caches);
    cache_set_destroy(caches);
    return 0;
}

/* Each granule is full of numbers of its own. */
static uint64_t number_of(uint32_t granule)
{
    return granule * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static void fill_memory(void *memory, uint32_t granule)
{
    for (size_t i = 0; i < cache_granule_bytes(cache, granule) / 8; i++)
        ((uint64_t *)memory)[i] = number_of(granule);
}

static void check_memory(const void *memory, uint32_t granule)
{
    for (size_t i = 0; i < cache_granule_bytes(cache, granule) / 8; i += 64)
        assert_true(((const uint64_t *)memory)[i] == number_of(granule));
}

/* Fetches @granule for somebody who has still to come; or the error of the room or reservation. */
static int fetch_for(uint32_t granule, bool demand, struct cache_hold *ret)
{
    struct cache_room room;
    void *memory;
    int r = cache_room_take(caches, 1, demand, &room);

    if (r < 0)
        return r;
    r = cache_reserve(cache, granule, &room, &memory);
    cache_room_put(caches, &room);
    if (r < 0)
        return r;
    fill_memory(memory, granule);
    *ret = cache_publish(cache, granule);
    return 0;
}

static void fetch_and_leave(uint32_t granule)
{
    struct cache_hold hold;

    assert_int_equal(fetch_for(granule, true, &hold), 0);
    cache_hold_put(caches, hold);
}

static struct cache_set_counters counters(void)
{
    return cache_set_counters(caches);
}

static void spend_budget(void)
{
    uint64_t before = counters().not_kept;

    for (uint32_t g = 0; g < KEPT; g++)
        fetch_and_leave(g);
    assert_int_equal(counters().not_kept, before);
    assert_int_equal(counters().charged_bytes, KEPT * GRANULE_BYTES);
}

static void check_accounts(void)
{
    struct cache_set_counters n = counters();

    assert_int_equal(n.bytes[CACHE_KIND_READ_THROUGH], cache_allocated_bytes(cache));
    assert_int_equal(n.bytes[CACHE_KIND_READ_THROUGH], n.charged_bytes + n.passing_bytes);
    assert_true(n.charged_bytes + n.passing_bytes <= n.budget_bytes);
}

static void a_set_has_a_budget(void **state)
{
    struct cache_set_options tiny = {.budget_bytes = CACHE_BUDGET_MIN - 1};
    struct thaw_error e = THAW_ERROR_INIT;
    enum cache_backing b = CACHE_BACKINGS;
    struct cache_set *set;

    (void)state;
    assert_int_equal(cache_set_create(&tiny, &set, &e), -EINVAL);
    assert_non_null(strstr(e.text, "the least is 8 MiB"));
    set = new_set(CACHE_BACKING_MEMFD, NULL, 0);
    assert_true(cache_set_counters(set).budget_bytes >= CACHE_BUDGET_MIN);
    assert_int_equal(cache_set_budget(set, CACHE_BUDGET_MIN - 1), -EINVAL);
    cache_set_destroy(set);
    cache_set_destroy(NULL);
    assert_int_equal(cache_backing_parse("file", &b), 0);
    assert_int_equal(b, CACHE_BACKING_FILE);
    assert_int_equal(cache_backing_parse("memfd", &b), 0);
    assert_int_equal(b, CACHE_BACKING_MEMFD);
    assert_int_equal(cache_backing_parse("tape", &b), -EINVAL);
}

static void beyond_the_budget_granules_pass(void **state)
{
    (void)state;
    spend_budget();
    for (uint32_t g = KEPT; g < GRANULES; g++) {
        const void *pinned;

        fetch_and_leave(g);
        pinned = cache_pin(cache, g);
        assert_non_null(pinned);
        check_memory(pinned, g);
        cache_unpin(cache, g);
        check_accounts();
    }
    assert_int_equal(counters().not_kept, GRANULES - KEPT);
    assert_int_equal(counters().evicted, GRANULES - KEPT - PASSING_PLACES);
    /* The last ones are there, and those that were kept. */
    for (uint32_t g = 0; g < GRANULES; g++)
        assert_int_equal(cache_state(cache, g),
                         g < KEPT || g >= GRANULES - PASSING_PLACES ? CACHE_READY : CACHE_ABSENT);
    /* One that was dropped can be fetched again. */
    fetch_and_leave(KEPT);
    assert_int_equal(cache_state(cache, KEPT), CACHE_READY);
}

static void what_is_pinned_or_held_stays(void **state)
{
    struct cache_hold hold;
    const void *pinned;

    (void)state;
    spend_budget();
    fetch_and_leave(KEPT);
    pinned = cache_pin(cache, KEPT);
    assert_int_equal(fetch_for(KEPT + 1, true, &hold), 0);
    for (uint32_t g = KEPT + 2; g < 4 * KEPT; g++)
        fetch_and_leave(g);
    check_memory(pinned, KEPT);
    assert_int_equal(cache_state(cache, KEPT), CACHE_READY);
    assert_int_equal(cache_state(cache, KEPT + 1), CACHE_READY);
    assert_int_equal(cache_state(cache, KEPT + 2), CACHE_ABSENT);
    cache_unpin(cache, KEPT);
    assert_true(cache_hold_put(caches, hold));
    for (uint32_t g = 4 * KEPT; g < 4 * KEPT + 2; g++)
        fetch_and_leave(g);
    assert_int_equal(cache_state(cache, KEPT), CACHE_ABSENT);
    assert_int_equal(cache_state(cache, KEPT + 1), CACHE_ABSENT);
    assert_false(cache_hold_put(caches, (struct cache_hold){0}));
}

static void who_finds_no_room_is_told_what_to_wait_for(void **state)
{
    struct cache_hold holds[PASSING_PLACES], shared;
    struct cache_room room;

    (void)state;
    spend_budget();
    for (uint32_t i = 0; i < PASSING_PLACES / 2; i++)
        assert_int_equal(fetch_for(KEPT + i, false, &holds[i]), 0);
    assert_int_equal(cache_room_take(caches, 1, false, &room),
                     -EBUSY); /* the rest is for demands */
    for (uint32_t i = PASSING_PLACES / 2; i < PASSING_PLACES; i++)
        assert_int_equal(fetch_for(KEPT + i, true, &holds[i]), 0);
    assert_int_equal(cache_room_take(caches, 1, true, &room), -EBUSY);
    assert_true(cache_room_awaited(caches));

    shared = cache_hold_share(caches, holds[7]);
    cache_hold_put(caches, holds[7]);
    assert_int_equal(cache_room_take(caches, 1, true, &room), -EBUSY);
    cache_hold_put(caches, shared);
    assert_int_equal(cache_room_take(caches, 1, true, &room), 0);
    assert_true(room.passing);
    assert_int_equal(cache_state(cache, KEPT + 7), CACHE_ABSENT);
    cache_room_put(caches, &room);
    for (uint32_t i = 0; i < PASSING_PLACES; i++) {
        if (i != 7)
            cache_hold_put(caches, holds[i]);
        if (i != 7)
            assert_non_null(cache_pin(cache, KEPT + i));
    }
    /* Pins alone: the one place that is free, and then it is a matter of moments. */
    assert_false(cache_room_awaited(caches));
    fetch_and_leave(KEPT + 7);
    assert_non_null(cache_pin(cache, KEPT + 7));
    assert_int_equal(cache_room_take(caches, 1, true, &room), -EAGAIN);
    for (uint32_t i = 0; i < PASSING_PLACES; i++)
        cache_unpin(cache, KEPT + i);
    assert_int_equal(cache_room_take(caches, PASSING_PLACES, true, &room), 0);
    assert_int_equal(counters().passing_bytes, 0);
    cache_room_put(caches, &room);
    check_accounts();
}

static void what_fails_gives_its_place_back(void **state)
{
    struct cache_room room;
    void *memory;

    (void)state;
    spend_budget();
    for (unsigned i = 0; i < 3 * PASSING_PLACES; i++) {
        assert_int_equal(cache_room_take(caches, 1, true, &room), 0);
        assert_int_equal(cache_reserve(cache, KEPT, &room, &memory), 0);
        fill_memory(memory, KEPT);
        cache_abandon(cache, KEPT);
        check_accounts();
    }
    assert_int_equal(counters().not_kept, 0);
    assert_int_equal(counters().passing_bytes, 0);
}

static void a_closed_cache_gives_all_back(void **state)
{
    struct cache_hold hold;
    struct cache *other;

    (void)state;
    spend_budget();
    for (uint32_t g = KEPT; g < 3 * KEPT; g++)
        fetch_and_leave(g);
    assert_int_equal(fetch_for(GRANULES - 1, true, &hold), 0); /* the short one */
    assert_int_equal(cache_close(cache), 0);
    set_is_empty(caches);
    assert_false(cache_room_awaited(caches));
    /* Its hold may come late, when the place is another's, and does no harm. */
    other = cache;
    cache = new_cache("memfile", BYTES);
    spend_budget();
    for (uint32_t g = KEPT; g < 3 * KEPT; g++)
        fetch_and_leave(g);
    assert_true(cache_hold_put(caches, hold));
    check_accounts();
    cache_destroy(other);
}

static void overlays_are_charged_by_the_block(void **state)
{
    struct cache *overlay = new_overlay("rootfs", BYTES);
    static char blocks[16 * PAGE_BYTES];
    uint64_t kept = KEPT * GRANULE_BYTES;

    (void)state;
    for (uint64_t at = 0; at < kept; at += sizeof(blocks))
        assert_int_equal(cache_write(overlay, at, blocks, sizeof(blocks)), 0);
    assert_int_equal(counters().charged_bytes, kept);
    /* What is dirty may be written again, and no more. */
    assert_int_equal(cache_write(overlay, 0, blocks, sizeof(blocks)), 0);
    assert_int_equal(cache_write(overlay, kept - PAGE_BYTES, blocks, 2 * PAGE_BYTES), -ENOSPC);
    assert_int_equal(cache_present(overlay, kept, 1), 0);
    assert_int_equal(counters().refused, 1);
    assert_int_equal(cache_allocated_bytes(overlay), kept);

    /* Zeroing makes room, for each block once. */
    assert_int_equal(cache_write_zeroes(overlay, 0, 2 * PAGE_BYTES), 0);
    assert_int_equal(cache_write_zeroes(overlay, 0, 2 * PAGE_BYTES), 0);
    assert_int_equal(counters().charged_bytes, kept - 2 * PAGE_BYTES);
    assert_int_equal(cache_write(overlay, kept, blocks, 3 * PAGE_BYTES), -ENOSPC);
    assert_int_equal(cache_write(overlay, kept, blocks, 2 * PAGE_BYTES), 0);
    assert_int_equal(cache_allocated_bytes(overlay), kept);

    /* What is fetched meanwhile passes; when the overlay is gone it is kept. */
    fetch_and_leave(3);
    assert_int_equal(counters().not_kept, 1);
    assert_int_equal(counters().bytes[CACHE_KIND_OVERLAY], kept);
    cache_destroy(overlay);
    fetch_and_leave(4);
    assert_int_equal(counters().not_kept, 1);
    check_accounts();
}

static void the_budget_may_change(void **state)
{
    (void)state;
    spend_budget();
    assert_int_equal(cache_set_budget(caches, CACHE_BUDGET_MIN + 3 * GRANULE_BYTES), 0);
    for (uint32_t g = KEPT; g < KEPT + 10; g++)
        fetch_and_leave(g);
    assert_int_equal(counters().not_kept, 7);
    check_accounts();
    assert_int_equal(cache_set_budget(caches, CACHE_BUDGET_MIN), 0);
    fetch_and_leave(KEPT + 10);
    assert_int_equal(counters().not_kept, 8);
    for (uint32_t g = 0; g < KEPT + 3; g++)
        assert_int_equal(cache_state(cache, g), CACHE_READY); /* nothing was thrown away */
}

/* --- against a naive model: random fetches, pins and holds --- */

#define MODELLED 220u
#define STEPS    20000u

static struct model {
    struct modelled {
        bool there, passing;
        unsigned pins;
    } granules[MODELLED];
    struct model_place {
        uint32_t granule;
        bool held;
        struct cache_hold hold;
    } places[PASSING_PLACES]; /* oldest first */
    unsigned kept, places_taken, held;
} model;

static unsigned dice;

static unsigned roll(unsigned sides)
{
    dice = dice * 1664525u + 1013904223u;
    return (dice >> 8) % sides;
}

/* What the next fetch will find: 0 and a free place, or why there is none. */
static int model_room(bool demand)
{
    if (model.kept < KEPT)
        return 0;
    if (model.held + 1 > (demand ? PASSING_PLACES : PASSING_PLACES / 2))
        return -EBUSY;
    for (unsigned i = 0; i < model.places_taken && model.places_taken == PASSING_PLACES; i++) {
        struct modelled *g = &model.granules[model.places[i].granule];

        if (model.places[i].held || g->pins > 0)
            continue;
        *g = (struct modelled){0};
        model.places_taken--;
        memmove(&model.places[i], &model.places[i + 1],
                (model.places_taken - i) * sizeof(model.places[0]));
    }
    if (model.places_taken < PASSING_PLACES)
        return 0;
    return model.held > 0 ? -EBUSY : -EAGAIN;
}

static void model_fetch(uint32_t granule)
{
    bool demand = roll(4) > 0;
    int r = model_room(demand);
    struct modelled *g = &model.granules[granule];
    struct cache_hold hold;

    if (r == 0 && g->there)
        r = -EALREADY;
    assert_int_equal(fetch_for(granule, demand, &hold), r);
    if (r < 0)
        return;
    *g = (struct modelled){.there = true, .passing = model.kept == KEPT};
    if (!g->passing) {
        model.kept++;
        assert_int_equal(hold.age, 0);
        return;
    }
    model.places[model.places_taken++] = (struct model_place){granule, true, hold};
    model.held++;
}

static void model_pin(uint32_t granule)
{
    const void *pinned = cache_pin(cache, granule);

    assert_int_equal(pinned != NULL, model.granules[granule].there);
    if (pinned) {
        check_memory(pinned, granule);
        model.granules[granule].pins++;
    }
}

static void model_step(void)
{
    uint32_t granule = roll(MODELLED);
    struct model_place *p = &model.places[roll(PASSING_PLACES)];

    switch (roll(8)) {
    case 0:
        model_pin(granule);
        break;
    case 1:
    case 2:
        if (model.granules[granule].pins > 0) {
            model.granules[granule].pins--;
            cache_unpin(cache, granule);
        }
        break;
    case 3:
    case 4:
        if (p < model.places + model.places_taken && p->held) {
            assert_true(cache_hold_put(caches, p->hold));
            p->held = false;
            model.held--;
        }
        break;
    default:
        model_fetch(granule);
    }
}

static void it_behaves_as_the_model(void **state)
{
    unsigned most = 0;

    (void)state;
    dice = 42;
    memset(&model, 0, sizeof(model));
    for (unsigned i = 0; i < STEPS; i++) {
        model_step();
        most = MAX(most, model.held);
        for (uint32_t g = 0; g < MODELLED; g++)
            assert_int_equal(cache_state(cache, g) == CACHE_READY, model.granules[g].there);
        assert_int_equal(counters().passing_bytes, model.places_taken * GRANULE_BYTES);
        assert_int_equal(counters().charged_bytes, model.kept * GRANULE_BYTES);
    }
    assert_true(most > PASSING_PLACES / 2); /* it was tight at times */
    assert_true(counters().evicted > 100);
    check_accounts();
    for (uint32_t g = 0; g < MODELLED; g++) {
        for (; model.granules[g].pins > 0; model.granules[g].pins--)
            cache_unpin(cache, g);
    }
}

/* --- many at once --- */

#define THREADS 4u
#define ROUNDS  2000u

static _Atomic(unsigned) served;
static _Atomic(bool) stop;

/* Gets at @granule by hook or by crook, as one who serves a guest does. */
static void serve(uint32_t granule)
{
    struct cache_hold hold = {0};
    const void *pinned;

    while ((pinned = cache_pin(cache, granule)) == NULL) {
        int r = fetch_for(granule, true, &hold);

        if (r == 0) {
            /* Held: it must be there now, whatever the others do. */
            pinned = cache_pin(cache, granule);
            assert_non_null(pinned);
            break;
        }
        assert_true(r == -EBUSY || r == -EAGAIN || r == -EALREADY);
        sched_yield();
    }
    check_memory(pinned, granule);
    cache_unpin(cache, granule);
    cache_hold_put(caches, hold);
}

static void *serve_many(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < ROUNDS; i++) {
        serve((seed = seed * 1103515245u + 12345u) / 65536 % GRANULES);
        atomic_fetch_add(&served, 1);
    }
    return NULL;
}

/* Writes and zeroes, so that what is left for granules grows and shrinks. */
static void *write_and_zero(void *arg)
{
    struct cache *overlay = new_overlay("rootfs", MIB);
    static char blocks[64 * PAGE_BYTES];

    while (!atomic_load(&stop)) {
        for (uint64_t at = 0; at < MIB; at += sizeof(blocks)) {
            int r = cache_write(overlay, at, blocks, sizeof(blocks));

            assert_true(r == 0 || r == -ENOSPC);
        }
        assert_int_equal(cache_write_zeroes(overlay, 0, MIB), 0);
        assert_int_equal(cache_set_budget(caches, CACHE_BUDGET_MIN + MIB / 2), 0);
        assert_true(counters().charged_bytes <= CACHE_BUDGET_MIN + MIB / 2);
    }
    cache_destroy(overlay);
    return arg;
}

static void many_are_served_from_little_memory(void **state)
{
    pthread_t t[THREADS], writer;

    (void)state;
    atomic_store(&served, 0);
    atomic_store(&stop, false);
    assert_int_equal(thread_start(&writer, "writer", write_and_zero, NULL), 0);
    for (uintptr_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&t[i], "server", serve_many, (void *)(i + 1)), 0);
    for (unsigned i = 0; i < THREADS; i++)
        thread_join(t[i]);
    atomic_store(&stop, true);
    thread_join(writer);
    assert_int_equal(served, THREADS * ROUNDS);
    assert_true(counters().evicted > 100);
    check_accounts();
}

/* Others need the places of a cache that is being closed. */
static void *serve_other(void *arg)
{
    struct cache_options options = {&build, "other", BYTES};
    struct cache *other;

    assert_int_equal(cache_create(caches, &options, &other, NULL), 0);
    for (uint32_t g = 0; !atomic_load(&stop); g = (g + 1) % (GRANULES - 1)) {
        struct cache_room room = {0};
        void *memory;
        int r = cache_room_take(caches, 1, true, &room);

        if (r == 0)
            r = cache_reserve(other, g, &room, &memory);
        cache_room_put(caches, &room);
        if (r == 0) {
            *(uint64_t *)memory = g;
            cache_hold_put(caches, cache_publish(other, g));
            atomic_fetch_add(&served, 1);
        }
    }
    cache_destroy(other);
    return arg;
}

static void a_close_meets_those_who_drop(void **state)
{
    pthread_t t[2];

    (void)state;
    atomic_store(&served, 0);
    atomic_store(&stop, false);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "server", serve_other, NULL), 0);
    for (unsigned run = 0; run < 50; run++) {
        unsigned before = atomic_load(&served);

        for (uint32_t g = 0; g < 2 * KEPT; g++) {
            struct cache_hold hold;

            if (fetch_for(g, true, &hold) == 0)
                cache_hold_put(caches, hold);
        }
        while (atomic_load(&served) < before + run % 5)
            sched_yield();
        cache_destroy(cache);
        cache = new_cache("memfile", BYTES);
    }
    atomic_store(&stop, true);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        thread_join(t[i]);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_set_has_a_budget),    TEST(beyond_the_budget_granules_pass),
        TEST(what_is_pinned_or_held_stays),      TEST(who_finds_no_room_is_told_what_to_wait_for),
        TEST(what_fails_gives_its_place_back),   TEST(a_closed_cache_gives_all_back),
        TEST(overlays_are_charged_by_the_block), TEST(the_budget_may_change),
        TEST(it_behaves_as_the_model),           TEST(many_are_served_from_little_memory),
        TEST(a_close_meets_those_who_drop),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Fetching what an overlay has spilled. No store has it, so what the disk fails of a read of
 * several granules is asked for again, one by one, and a granule that is bad is nobody's error but
 * its own.
 */
#include <poll.h>

#include "fetch/fetch.h"
#include "layers_fixture.h"
#include "test_cache.h"
#include "tier_traffic.h"

#define GRANULES 32u
#define FIRST    2u /* of the read of several: behind granules 0 and 1, which make it a sequence */
#define COUNT    8u
#define BAD      5u
#define TRIES    1000u /* of one who is told to ask again: there is far less to wait for */

static struct gate gate;
static struct fetch *fetch;
static struct tier_file *file;
static struct fetch_object *object;
static struct mailbox inbox;
static struct fixture_wait waits[GRANULES];

static void create_caches(void)
{
    struct cache_set_options options = {.backing = CACHE_BACKING_TIERED,
                                        .folder = cache_folder,
                                        .io = &gate.engine,
                                        .budget_bytes = CACHE_BUDGET_MIN,
                                        .huge = HUGE_PAGES_OFF};

    setenv("THAW_IO", "uring", 1); /* so that no read goes past the gate */
    assert_int_equal(cache_set_create(&options, &caches, NULL), 0);
    unsetenv("THAW_IO");
}

static int set_up(void **state)
{
    struct tier *tier;

    (void)state;
    cache_folder = scratch_make();
    gate_init(&gate);
    create_caches();
    tier = cache_set_tier(caches);
    assert_int_equal(fetch_create(caches, &fetch, NULL), 0);
    assert_int_equal(mailbox_init(&inbox), 0);
    assert_int_equal(tier_file_create(tier, GRANULES, &file), 0);
    assert_int_equal(fetch_spill_open(fetch, &build, "spilled", file, GRANULES, &object, NULL), 0);
    for (uint32_t g = 0; g < GRANULES; g += TIER_WRITE_GRANULES)
        assert_int_equal(write_overlay(tier, file, 1, g, TIER_WRITE_GRANULES), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    gate_open(&gate);
    fetch_object_close(object);
    tier_file_close(file);
    fetch_destroy(fetch);
    cache_set_destroy(caches);
    mailbox_finish(&inbox);
    io_engine_destroy(gate.inner);
    close(gate.came_fd);
    scratch_remove(cache_folder);
    return 0;
}

/* --- asking --- */

static void ask(uint32_t granule)
{
    waits[granule] =
        (struct fixture_wait){.waiter = {.to = &inbox, .msg.deliver = fixture_told, .result = 1}};
    assert_int_equal(fetch_want(object, granule, IO_DEMAND, &waits[granule].waiter), 0);
}

static int answer(uint32_t granule)
{
    while (!waits[granule].told) {
        struct pollfd p = {.fd = inbox.event_fd, .events = POLLIN};

        assert_true(poll(&p, 1, 60000) > 0);
        mailbox_deliver(&inbox);
    }
    return waits[granule].waiter.result;
}

static bool is_there(uint32_t granule)
{
    const void *memory = fetch_pin(object, granule);
    static char expected[GRANULE_BYTES];

    if (!memory)
        return false;
    pattern(expected, 1, granule);
    assert_memory_equal(memory, expected, GRANULE_BYTES);
    fetch_unpin(object, granule);
    return true;
}

/* As whoever needs it does: 0 when it is there, or why it cannot be had. */
static int get(uint32_t granule)
{
    int r = 0;

    for (unsigned i = 0; i < TRIES && !is_there(granule); i++) {
        ask(granule);
        r = answer(granule);
        if (r < 0 && r != -EAGAIN)
            return r;
    }
    return is_there(granule) ? 0 : r;
}

/* One read of COUNT granules, with somebody who waits for each, which stops before the disk. */
static void begin_read(void)
{
    assert_int_equal(get(0), 0);
    gate_close(&gate);
    ask(FIRST - 1);
    for (uint32_t g = FIRST; g < FIRST + COUNT; g++) {
        assert_int_equal(cache_state(fetch_cache(object), g), CACHE_FILLING);
        ask(g);
    }
    assert_int_equal(cache_state(fetch_cache(object), FIRST + COUNT), CACHE_ABSENT);
    gate_await(&gate, &inbox, 2); /* and no more than these */
}

static void end_read(void)
{
    gate_open(&gate);
    assert_int_equal(answer(FIRST - 1), 0);
    for (uint32_t g = FIRST; g < FIRST + COUNT; g++)
        (void)answer(g);
}

/* --- the file, found as an operator would --- */

static int open_file(void)
{
    char path[40];
    int fd;

    assert_int_equal(find_fds("/tier/", &fd), 1);
    assert_true(snprintf(path, sizeof(path), "/proc/self/fd/%d", fd) > 0);
    fd = open(path, O_RDWR | O_CLOEXEC); /* any offset will do */
    assert_true(fd >= 0);
    return fd;
}

static void flip(uint64_t offset)
{
    int fd = open_file();
    char byte;

    assert_int_equal(pread(fd, &byte, 1, (off_t)offset), 1);
    byte ^= 1;
    assert_int_equal(pwrite(fd, &byte, 1, (off_t)offset), 1);
    close(fd);
}

/* --- */

static void one_that_is_bad_is_nobody_elses_error(void **state)
{
    uint64_t disk_bytes;

    (void)state;
    flip(BAD * GRANULE_BYTES + 4097);
    begin_read();
    end_read();
    for (uint32_t g = FIRST; g < FIRST + COUNT; g++) {
        assert_int_equal(waits[g].waiter.result, g == BAD ? -EAGAIN : 0);
        assert_int_equal(is_there(g), g != BAD);
    }
    assert_int_equal(fetch_counters(fetch).failed, 0);

    /* By itself it is an error, each time, and it is not forgotten: there is no other one. */
    for (unsigned i = 1; i < 4; i++) {
        disk_bytes = fetch_counters(fetch).disk_bytes;
        ask(BAD);
        assert_int_equal(answer(BAD), -EBADMSG);
        assert_int_equal(fetch_counters(fetch).disk_bytes, disk_bytes + GRANULE_BYTES);
        assert_int_equal(fetch_counters(fetch).failed, i);
        assert_true(tier_has(file, BAD));
    }
    flip(BAD * GRANULE_BYTES + 4097);
    assert_int_equal(get(BAD), 0);
    assert_int_equal(tier_counters(cache_set_tier(caches)).damaged, 0);
}

/* The file ends within what is read: nobody can say which granules it is that fail. */
static void a_read_that_fails_as_a_whole_is_made_anew_in_parts(void **state)
{
    int fd = open_file();

    (void)state;
    begin_read();
    assert_int_equal(ftruncate(fd, BAD * (off_t)GRANULE_BYTES), 0);
    end_read();
    close(fd);
    for (uint32_t g = FIRST; g < FIRST + COUNT; g++)
        assert_int_equal(waits[g].waiter.result, -EAGAIN);
    assert_int_equal(fetch_counters(fetch).failed, 0);
    for (uint32_t g = FIRST; g < FIRST + COUNT; g++) {
        assert_int_equal(get(g), g < BAD ? 0 : -ENODATA);
        assert_true(tier_has(file, g));
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(one_that_is_bad_is_nobody_elses_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_read_that_fails_as_a_whole_is_made_anew_in_parts, set_up,
                                        tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Readers of an overlay that are held half way, while its owner goes on. One who looks places up is
 * stopped by a page of their table that is not there, which a userfaultfd tells; one who reads the
 * file, by an engine that keeps his read.
 */
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>

#include "base/thread.h"
#include "cache/internal.h"
#include "cache/segments.h"
#include "kernel/io_internal.h"
#include "spilling_fixture.h"

/*
 * Whoever reads LAST and the block behind it in one go has looked up where LAST is when he comes to
 * the next page of the table. The owner must keep away from blocks of that page, so that all that
 * is written meanwhile is before or beyond them.
 */
#define TABLE_PAGE (uint32_t)(PAGE_BYTES / sizeof(uint32_t)) /* places in a page */
#define LAST       (TABLE_PAGE - 1)
#define BEYOND     (2 * TABLE_PAGE)
#define BLOCKS     (5 * TABLE_PAGE)
#define OTHERS     128u /* granules of somebody else: all of the memory */

/* --- a reader who is held in the table of places --- */

struct held_reader {
    int uffd;
    char *page;   /* of the table, borrowed */
    void *places; /* owned: what is in it */
    pthread_t thread;
    ssize_t result;
    uint64_t buf[2][PAGE_BYTES / 8];
};

static void *read_two(void *arg)
{
    struct held_reader *h = arg;

    h->result = cache_read(overlay, LAST * PAGE_BYTES, h->buf, sizeof(h->buf));
    return NULL;
}

static int open_uffd(void)
{
    return (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK | UFFD_USER_MODE_ONLY);
}

static void take_page(struct held_reader *h)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};

    h->uffd = open_uffd();
    h->page = (char *)(uintptr_t)&overlay->memory.places[LAST + 1];
    h->places = buffer(PAGE_BYTES);
    memcpy(h->places, h->page, PAGE_BYTES);
    range.range.start = (uintptr_t)h->page;
    range.range.len = PAGE_BYTES;
    assert_int_equal(ioctl(h->uffd, UFFDIO_API, &api), 0);
    assert_int_equal(ioctl(h->uffd, UFFDIO_REGISTER, &range), 0);
    assert_int_equal(madvise(h->page, PAGE_BYTES, MADV_DONTNEED), 0);
}

/* When this returns he knows where LAST is, and has not looked there yet. */
static void hold_reader(struct held_reader *h)
{
    struct pollfd p = {.events = POLLIN};
    struct uffd_msg msg;

    *h = (struct held_reader){0};
    take_page(h);
    assert_int_equal(thread_start(&h->thread, "reader", read_two, h), 0);
    p.fd = h->uffd;
    assert_int_equal(poll(&p, 1, 60000), 1);
    assert_int_equal(read(h->uffd, &msg, sizeof(msg)), sizeof(msg));
    assert_int_equal(msg.event, UFFD_EVENT_PAGEFAULT);
}

static void let_go(struct held_reader *h)
{
    struct uffdio_copy copy = {
        .dst = (uintptr_t)h->page, .src = (uintptr_t)h->places, .len = PAGE_BYTES};

    assert_int_equal(ioctl(h->uffd, UFFDIO_COPY, &copy), 0);
    thread_join(h->thread);
    close(h->uffd);
    free(h->places);
    assert_int_equal(h->result, sizeof(h->buf));
}

/* --- what the owner does --- */

static void write_many(uint64_t first, unsigned n, uint32_t version)
{
    for (unsigned i = 0; i < n; i += SEGMENT_BLOCKS)
        write_blocks(first + i, SEGMENT_BLOCKS, version);
}

/* Enough to have all that was written before spilled. */
static void push_out(uint64_t first)
{
    write_many(first, 64 * SEGMENT_BLOCKS, 1);
    spills_land();
}

static struct cache_spilled place_of(uint64_t block)
{
    struct cache_spilled at;
    uint64_t bytes;

    assert_true(cache_spilled_run(overlay, block * PAGE_BYTES, PAGE_BYTES, &at, &bytes));
    return at;
}

/* The block that is there in a granule of the file; UINT64_MAX: it is not in memory. */
static uint64_t block_at(struct cache_spilled at)
{
    const char *memory = cache_pin(spilled, at.granule);
    uint64_t word;

    if (!memory)
        return UINT64_MAX;
    memcpy(&word, memory + at.offset, sizeof(word));
    cache_unpin(spilled, at.granule);
    return (word >> 32) - 1;
}

static void fill_memory(struct cache *others)
{
    for (uint32_t g = 0; g < OTHERS; g++)
        fill_granule(others, g, (char)0xee);
}

/* --- */

/* The granule of the file is another one's by the time that he pins it. */
static void a_place_is_looked_at_again_when_it_is_pinned(void **state)
{
    struct held_reader h;
    struct cache_spilled at;
    uint64_t next = BEYOND + 64 * SEGMENT_BLOCKS, there;

    (void)state;
    write_many(0, TABLE_PAGE + SEGMENT_BLOCKS, 1);
    push_out(BEYOND);
    at = place_of(LAST);
    assert_int_equal(block_at(at), LAST);
    hold_reader(&h);
    /* All that was written together with it dies, so that its place in the file is taken again. */
    write_many(TABLE_PAGE - 16 * SEGMENT_BLOCKS, 16 * SEGMENT_BLOCKS, 2);
    while ((there = block_at(at)) == LAST || there == UINT64_MAX) {
        assert_true(next < BLOCKS);
        write_many(next, SEGMENT_BLOCKS, 1);
        spills_land();
        next += SEGMENT_BLOCKS;
    }
    let_go(&h);
    assert_int_equal(h.buf[0][0], word_of(LAST, 2));
    check_block(h.buf[0], LAST);
    assert_int_equal(h.buf[1][0], word_of(LAST + 1, 1));
    check_block(h.buf[1], LAST + 1);
}

/* LAST is in memory, and nowhere else; the block behind it is in the file, and pinned. */
static void hold_in_memory(struct held_reader *h, uint32_t *ret_pinned)
{
    write_many(LAST + 1, SEGMENT_BLOCKS, 1);
    push_out(BEYOND);
    *ret_pinned = place_of(LAST + 1).granule;
    assert_non_null(cache_pin(spilled, *ret_pinned));
    write_many(TABLE_PAGE - SEGMENT_BLOCKS, SEGMENT_BLOCKS, 1);
    hold_reader(h);
}

static void let_go_with_what_was_there(struct held_reader *h, uint32_t pinned)
{
    let_go(h);
    cache_unpin(spilled, pinned);
    for (unsigned i = 0; i < 2; i++) {
        assert_int_equal(h->buf[i][0], word_of(LAST + i, 1));
        check_block(h->buf[i], LAST + i);
    }
}

/* Its segment has no block left; but the memory is nobody else's while he may look there. */
static void what_is_dead_stays_while_somebody_reads_it(void **state)
{
    struct cache *others = new_cache("others", OTHERS * GRANULE_BYTES);
    struct held_reader h;
    uint32_t pinned;

    (void)state;
    hold_in_memory(&h, &pinned);
    assert_int_equal(
        cache_write_zeroes(overlay, (TABLE_PAGE - SEGMENT_BLOCKS) * PAGE_BYTES, GRANULE_BYTES), 0);
    write_many(BEYOND, 16 * SEGMENT_BLOCKS, 2);
    fill_memory(others);
    let_go_with_what_was_there(&h, pinned);
    cache_destroy(others);
}

/* The same for one that has been spilled. */
static void what_has_landed_stays_while_somebody_reads_it(void **state)
{
    struct cache *others = new_cache("others", OTHERS * GRANULE_BYTES);
    uint64_t next = BEYOND + 64 * SEGMENT_BLOCKS, bytes;
    struct cache_spilled at;
    struct held_reader h;
    uint32_t pinned;

    (void)state;
    hold_in_memory(&h, &pinned);
    while (!cache_spilled_run(overlay, LAST * PAGE_BYTES, PAGE_BYTES, &at, &bytes)) {
        assert_true(next < BLOCKS);
        write_many(next, SEGMENT_BLOCKS, 1);
        spills_land();
        next += SEGMENT_BLOCKS;
    }
    fill_memory(others);
    let_go_with_what_was_there(&h, pinned);
    cache_destroy(others);
}

/* --- a read of the file that is held --- */

struct holding {
    struct io_engine engine;
    struct io_request *held;
};

static void holding_submit(struct io_engine *self, struct io_request *r)
{
    container_of(self, struct holding, engine)->held = r;
}

static struct holding holding = {.engine = {.submit = holding_submit}};
static struct io_engine *io;

struct held_fetch {
    struct sync_read sync;
    struct iovec iov;
    struct cache_room room;
    void *memory;
};

/* As a fetcher does it: reserves it, finds it in the file, and reads. */
static void hold_fetch(struct held_fetch *h, uint32_t granule)
{
    *h = (struct held_fetch){.sync = {.waited = WAITED_INIT}};
    assert_true(granule_claim(spilled, granule)); /* it is in memory, and is not to be */
    granule_unclaim(spilled, granule);
    assert_int_equal(reserve(spilled, granule, &h->memory), 0);
    assert_true(tier_has(file, granule));
    h->iov = (struct iovec){h->memory, GRANULE_BYTES};
    h->sync.read = (struct tier_read){.file = file,
                                      .first = granule,
                                      .count = 1,
                                      .iov = &h->iov,
                                      .iov_count = 1,
                                      .priority = IO_BACKGROUND,
                                      .done = sync_read_done};
    tier_read(&h->sync.read);
}

/* It has the first version of the first blocks. */
static void check_is(uint32_t granule, uint64_t sum)
{
    const char *memory = cache_pin(spilled, granule);

    assert_non_null(memory);
    for (uint64_t i = 0; i < SEGMENT_BLOCKS; i++)
        assert_int_equal(*(const uint64_t *)(const void *)(memory + i * PAGE_BYTES), word_of(i, 1));
    assert_int_equal(sums_of(memory, GRANULE_BYTES), sum);
    cache_unpin(spilled, granule);
}

static void what_is_being_fetched_is_not_forgotten(void **state)
{
    struct held_fetch h;
    struct cache_spilled at;
    bool still;
    int result;

    (void)state;
    write_many(0, SEGMENT_BLOCKS, 1);
    push_out(BEYOND);
    at = place_of(0);
    hold_fetch(&h, at.granule);
    write_many(0, SEGMENT_BLOCKS, 2); /* nothing of it is live any more */
    push_out(BEYOND + 64 * SEGMENT_BLOCKS);
    still = tier_has(file, at.granule);
    io_submit(io, holding.held);
    result = waited_for(&h.sync.waited);
    cache_hold_put(caches, cache_publish(spilled, at.granule)); /* else it cannot be closed */
    assert_true(still);
    assert_int_equal(result, 0);
    check_is(at.granule, h.sync.read.sums[0]);
    write_many(0, SEGMENT_BLOCKS, 3);
    assert_false(tier_has(file, at.granule)); /* now it is */
}

/* --- */

static int set_up(void **state)
{
    (void)state;
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    holding.engine.kind = io_engine_kind(io);
    spilling_open(&holding.engine, BLOCKS);
    return 0;
}

static int set_up_held(void **state)
{
    int fd = open_uffd();

    if (fd < 0)
        skip();
    close(fd);
    return set_up(state);
}

static int tear_down(void **state)
{
    (void)state;
    spilling_close();
    io_engine_destroy(io);
    return 0;
}

#define HELD_TEST(name) cmocka_unit_test_setup_teardown(name, set_up_held, tear_down)

int main(void)
{
    const struct CMUnitTest tests[] = {
        HELD_TEST(a_place_is_looked_at_again_when_it_is_pinned),
        HELD_TEST(what_is_dead_stays_while_somebody_reads_it),
        HELD_TEST(what_has_landed_stays_while_somebody_reads_it),
        cmocka_unit_test_setup_teardown(what_is_being_fetched_is_not_forgotten, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

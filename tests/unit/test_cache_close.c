/* SPDX-License-Identifier: Apache-2.0 */
#include "test_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include <time.h>

#include "base/thread.h"

#define GRANULES 64u
#define BYTES    (GRANULES * GRANULE_BYTES)

/* Taken at most: a file system takes some for itself. */
#define MOST_BYTES (BYTES + 4 * GRANULE_BYTES)

static struct cache *cache;

static void all_is_shut_down(void)
{
    char block[PAGE_BYTES];
    uint64_t run;
    void *memory;

    assert_int_equal(cache_close(cache), -ESHUTDOWN);
    assert_int_equal(cache_size(cache), -ESHUTDOWN);
    assert_int_equal(cache_allocated_bytes(cache), -ESHUTDOWN);
    assert_int_equal(cache_read(cache, 0, block, 1), -ESHUTDOWN);
    assert_int_equal(cache_read(cache, BYTES, block, 1), -ESHUTDOWN);
    assert_int_equal(cache_present(cache, 0, 1), -ESHUTDOWN);
    assert_int_equal(cache_write(cache, 0, block, sizeof(block)), -ESHUTDOWN);
    assert_int_equal(cache_write_zeroes(cache, 0, sizeof(block)), -ESHUTDOWN);
    assert_int_equal(cache_block_run(cache, 0, 1, &run), -ESHUTDOWN);
    assert_int_equal(cache_export(cache, -1, "diff", NULL, NULL, NULL), -ESHUTDOWN);
    for (uint32_t g = 0; g < cache_granules(cache); g++) {
        assert_int_equal(cache_state(cache, g), CACHE_CLOSED);
        assert_int_equal(reserve(cache, g, &memory), -ESHUTDOWN);
        assert_null(cache_pin(cache, g));
    }
}

static void a_closed_cache_is_closed_for_everything(void **state)
{
    char block[PAGE_BYTES] = "";

    (void)state;
    cache = new_cache("x", BYTES);
    fill_granule(cache, 0, 'a');
    assert_int_equal(cache_close(cache), 0);
    assert_int_equal(find_cache_fd(""), -1);
    all_is_shut_down();
    cache_destroy(cache);

    cache = new_overlay("x", BYTES);
    assert_int_equal(cache_write(cache, 0, block, sizeof(block)), 0);
    assert_int_equal(cache_close(cache), 0);
    assert_int_equal(find_cache_fd(""), -1);
    all_is_shut_down();
    cache_destroy(cache);
}

/* --- a close waits --- */

static void *close_it(void *ret)
{
    *(int *)ret = cache_close(cache);
    return NULL;
}

static pthread_t start_closing(int *result)
{
    pthread_t t;

    *result = 1;
    assert_int_equal(thread_start(&t, "closer", close_it, result), 0);
    while (cache_state(cache, 0) != CACHE_CLOSED)
        sched_yield();
    return t;
}

/* That it does not come back can only be seen by waiting for it; it would be at once. */
static void still_closing(pthread_t t)
{
    struct timespec until;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_nsec += 50000000;
    until.tv_sec += until.tv_nsec / 1000000000;
    until.tv_nsec %= 1000000000;
    assert_int_equal(pthread_timedjoin_np(t, NULL, &until), ETIMEDOUT);
    assert_true(has_cache_fd(""));
}

static void a_close_waits_for_pins(void **state)
{
    const char *pinned;
    pthread_t t;
    int result;

    (void)state;
    cache = new_cache("x", BYTES);
    fill_granule(cache, 5, 'a');
    pinned = cache_pin(cache, 5);
    assert_ptr_equal(cache_pin(cache, 5), pinned);
    t = start_closing(&result);
    still_closing(t);
    cache_unpin(cache, 5);
    still_closing(t);
    assert_null(cache_pin(cache, 5));
    assert_int_equal(pinned[GRANULE_BYTES - 1], 'a');
    cache_unpin(cache, 5);
    thread_join(t);
    assert_int_equal(result, 0);
    all_is_shut_down();
    cache_destroy(cache);
}

static void a_close_waits_for_fills(void **state)
{
    void *memory, *other;
    pthread_t t;
    int result;

    (void)state;
    cache = new_cache("x", BYTES);
    assert_int_equal(reserve(cache, 3, &memory), 0);
    assert_int_equal(reserve(cache, 4, &other), 0);
    t = start_closing(&result);
    still_closing(t);
    memset(memory, 'a', GRANULE_BYTES);
    cache_publish(cache, 3);
    still_closing(t);
    memset(other, 'a', GRANULE_BYTES);
    cache_abandon(cache, 4);
    thread_join(t);
    assert_int_equal(result, 0);
    all_is_shut_down();
    cache_destroy(cache);
}

/* --- a close against everything --- */

static _Atomic(unsigned) rounds;
static _Atomic(bool) closed; /* cache_close() has returned */
static int64_t foreign_bytes;

static void use_granule(uint32_t g)
{
    const unsigned char *pinned = cache_pin(cache, g);
    void *memory;
    int r;

    if (pinned) {
        for (size_t k = 0; k < GRANULE_BYTES; k += 1021)
            assert_int_equal(pinned[k], g);
        cache_unpin(cache, g);
        return;
    }
    r = reserve(cache, g, &memory);
    if (r < 0) {
        assert_true(r == -EBUSY || r == -EALREADY || r == -ESHUTDOWN);
        return;
    }
    memset(memory, (int)g, GRANULE_BYTES);
    if (g % 5)
        cache_publish(cache, g);
    else
        cache_abandon(cache, g);
}

static void *use_until_closed(void *arg)
{
    unsigned seed = (unsigned)(uintptr_t)arg;
    bool last;

    do {
        uint32_t g = (seed = seed * 1103515245u + 12345u) / 65536 % GRANULES;
        unsigned char byte = (unsigned char)g;
        int64_t r;

        last = atomic_load(&closed);
        use_granule(g);
        r = cache_read(cache, g * GRANULE_BYTES + 8, &byte, 1);
        assert_true(r == 1 || r == -ENODATA || r == -ESHUTDOWN);
        assert_true(r < 0 || byte == g);
        assert_true(!last || r == -ESHUTDOWN);
        r = cache_present(cache, 0, BYTES);
        assert_true(last ? r == -ESHUTDOWN : r <= 1);
        r = cache_allocated_bytes(cache);
        assert_true(r == -ESHUTDOWN || (!last && r >= 0 && r <= (int64_t)MOST_BYTES));
        assert_int_not_equal(r, foreign_bytes);
        atomic_fetch_add(&rounds, 1);
    } while (!last);
    assert_int_equal(cache_state(cache, 1), CACHE_CLOSED);
    assert_null(cache_pin(cache, 1));
    return NULL;
}

/* A file that takes the place of the cache's descriptor, and whose blocks are nobody's mistake. */
static void take_number(int number, const char *foreign)
{
    int fd = open(foreign, O_RDONLY | O_CLOEXEC);

    assert_true(fd >= 0);
    if (fd != number) {
        assert_int_equal(dup3(fd, number, O_CLOEXEC), number);
        close(fd);
    }
}

/* Meanwhile somebody opens files, which get the numbers of those that have just been closed. */
static void *open_and_close(void *foreign)
{
    while (!atomic_load(&closed)) {
        int fds[20];

        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
            fds[i] = open(foreign, O_RDONLY | O_CLOEXEC);
        for (unsigned i = 0; i < ARRAY_SIZE(fds); i++)
            close(fds[i]);
    }
    return NULL;
}

static int64_t make_foreign(char *path)
{
    char block[PAGE_BYTES] = "foreign";
    int fd = mkstemp(path);
    struct stat st;

    assert_true(fd >= 0);
    for (unsigned i = 0; i < MOST_BYTES / PAGE_BYTES + 1; i++)
        assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(fstat(fd, &st), 0);
    close(fd);
    return st.st_blocks * 512;
}

/* Against calls, and against those who open files while it closes, or one right after. */
static void close_against(unsigned run, bool opening, char *foreign)
{
    pthread_t t[8], opener;
    int number;

    atomic_store(&rounds, 0);
    atomic_store(&closed, false);
    cache = new_cache("x", BYTES);
    number = find_cache_fd("");
    for (uintptr_t i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "user", use_until_closed, (void *)(i + run * 8)), 0);
    if (opening)
        assert_int_equal(thread_start(&opener, "opener", open_and_close, foreign), 0);
    while (atomic_load(&rounds) < 200 * (run % 4 + 1))
        sched_yield();
    assert_int_equal(cache_close(cache), 0);
    if (!opening && number >= 0)
        take_number(number, foreign);
    atomic_store(&closed, true);
    if (opening)
        thread_join(opener);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        thread_join(t[i]);
    all_is_shut_down();
    if (!opening && number >= 0)
        close(number);
    cache_destroy(cache);
}

static void a_close_meets_all_other_calls(void **state)
{
    const char *tmp = getenv("TMPDIR");
    char path[300];

    (void)state;
    snprintf(path, sizeof(path), "%s/thaw-unit-XXXXXX", tmp ? tmp : "/tmp");
    foreign_bytes = make_foreign(path);
    assert_true(foreign_bytes > (int64_t)MOST_BYTES);
    for (unsigned run = 0; run < 12; run++)
        close_against(run, run % 2 != 0, path);
    unlink(path);
}

/* Synchronises with nobody but through the call: who closes must wait for that alone. */
static void *ask_until_closed(void *arg)
{
    int64_t r;

    (void)arg;
    atomic_fetch_add(&rounds, 1);
    do
        r = cache_allocated_bytes(cache);
    while (r == 0);
    assert_int_equal(r, -ESHUTDOWN);
    return NULL;
}

static void a_close_waits_for_calls(void **state)
{
    (void)state;
    for (unsigned run = 0; run < 20; run++) {
        pthread_t t[2];

        atomic_store(&rounds, 0);
        cache = new_cache("x", BYTES);
        for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
            assert_int_equal(thread_start(&t[i], "asker", ask_until_closed, NULL), 0);
        while (atomic_load(&rounds) < ARRAY_SIZE(t))
            sched_yield();
        for (unsigned i = 0; i < run * 20; i++)
            sched_yield();
        assert_int_equal(cache_close(cache), 0);
        for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
            thread_join(t[i]);
        cache_destroy(cache);
    }
}

/* Of several who close at once, one does. */
static void only_one_close_succeeds(void **state)
{
    int results[4], done = 0;
    pthread_t t[4];

    (void)state;
    cache = new_cache("x", BYTES);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++)
        assert_int_equal(thread_start(&t[i], "closer", close_it, &results[i]), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(t); i++) {
        thread_join(t[i]);
        assert_true(results[i] == 0 || results[i] == -ESHUTDOWN);
        done += results[i] == 0;
    }
    assert_int_equal(done, 1);
    cache_destroy(cache);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_closed_cache_is_closed_for_everything),
        cmocka_unit_test(a_close_waits_for_pins),
        cmocka_unit_test(a_close_waits_for_fills),
        cmocka_unit_test(a_close_meets_all_other_calls),
        cmocka_unit_test(a_close_waits_for_calls),
        cmocka_unit_test(only_one_close_succeeds),
    };

    return run_with_each_backing(tests);
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_TIER_TRAFFIC_H
#define THAW_TESTS_TIER_TRAFFIC_H

/*
 * Writes to files of the disk tier and reads from them, that wait for the end.
 *
 * What is in a granule follows from its number and a seed. Objects are written as fetched ones are:
 * by a `behind` that has a list of runs.
 */

#include <string.h>

#include "base/thread.h"
#include "base/units.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "format/sums.h"
#include "unit.h"

#define RUN_BYTES (TIER_WRITE_GRANULES * GRANULE_BYTES)

/* --- waiting --- */

struct waited {
    pthread_mutex_t mu;
    pthread_cond_t cond;
    bool over;
    int result;
};

#define WAITED_INIT                                                                                \
    {                                                                                              \
        .mu = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER                          \
    }

static inline void waited_over(struct waited *w, int result)
{
    LOCK_SCOPE(&w->mu);

    w->result = result;
    w->over = true;
    pthread_cond_signal(&w->cond);
}

static inline int waited_for(struct waited *w)
{
    LOCK_SCOPE(&w->mu);

    while (!w->over)
        pthread_cond_wait(&w->cond, &w->mu);
    return w->result;
}

/* --- content --- */

/** pattern() - what is in @granule, GRANULE_BYTES */
static inline void pattern(void *ret, uint64_t seed, uint32_t granule)
{
    uint64_t *p = ret, v = (seed << 32 | granule) * UINT64_C(0x9e3779b97f4a7c15) + 1;

    for (size_t i = 0; i < GRANULE_BYTES / sizeof(*p); i++)
        p[i] = v + i;
}

/** granule_bytes() - of the object; the last granule may be short */
static inline size_t granule_bytes(uint64_t size_bytes, uint32_t granule)
{
    return MIN(GRANULE_BYTES, size_bytes - granule * GRANULE_BYTES);
}

static inline void *buffer(size_t bytes)
{
    void *p = aligned_alloc(PAGE_BYTES, bytes);

    assert_non_null(p);
    return p;
}

/** fill_write() - @w writes granules of that content, from @buf of RUN_BYTES */
static inline void fill_write(struct tier_write *w, struct tier_file *f, uint64_t size_bytes,
                              uint64_t seed, uint32_t first, uint32_t count, char *buf)
{
    *w = (struct tier_write){.file = f, .first = first, .count = count};
    for (uint32_t i = 0; i < count; i++) {
        char *at = buf + i * GRANULE_BYTES;
        size_t len = granule_bytes(size_bytes, first + i);

        pattern(at, seed, first + i);
        memset(at + len, 0, GRANULE_BYTES - len);
        w->iov[i] = (struct iovec){at, round_up(len, PAGE_BYTES)};
        w->sums[i] = sums_of(at, len);
    }
}

/* --- writing --- */

struct sync_write {
    struct tier_write write;
    struct waited waited;
};

static inline void sync_write_done(struct tier_write *w, int result)
{
    waited_over(&container_of(w, struct sync_write, write)->waited, result);
}

/** write_overlay() - granules of an overlay; what tier_write() says in the end */
static inline int write_overlay(struct tier *t, struct tier_file *f, uint64_t seed, uint32_t first,
                                uint32_t count)
{
    char *buf = buffer(RUN_BYTES);
    struct sync_write s = {.waited = WAITED_INIT};
    int r;

    fill_write(&s.write, f, UINT64_MAX, seed, first, count, buf);
    s.write.done = sync_write_done;
    tier_write(t, &s.write);
    r = waited_for(&s.waited);
    free(buf);
    return r;
}

/* One run, which is handed out once. */
struct feed {
    struct tier_behind behind;
    struct tier_write write;
    bool given;
    struct waited waited;
};

static inline void feed_done(struct tier_write *w, int result)
{
    waited_over(&((struct feed *)w->context)->waited, result);
}

static inline bool feed_next(struct tier_behind *b, struct tier_write *w)
{
    struct feed *feed = container_of(b, struct feed, behind);

    if (feed->given)
        return false;
    feed->given = true;
    *w = feed->write;
    return true;
}

/** write_behind() - granules of an object of @size_bytes, as if they had been fetched */
static inline int write_behind(struct tier *t, struct tier_file *f, uint64_t size_bytes,
                               uint64_t seed, uint32_t first, uint32_t count)
{
    char *buf = buffer(RUN_BYTES);
    struct feed feed = {.behind.next = feed_next, .waited = WAITED_INIT};
    int r;

    fill_write(&feed.write, f, size_bytes, seed, first, count, buf);
    feed.write.done = feed_done;
    feed.write.context = &feed;
    tier_set_behind(t, &feed.behind);
    r = waited_for(&feed.waited);
    tier_set_behind(t, NULL);
    free(buf);
    return r;
}

/** write_range() - the same for any number of granules; all of it must succeed */
static inline void write_range(struct tier *t, struct tier_file *f, uint64_t size_bytes,
                               uint64_t seed, uint32_t first, uint32_t count)
{
    while (count > 0) {
        uint32_t n = MIN(count, TIER_WRITE_GRANULES);

        assert_int_equal(write_behind(t, f, size_bytes, seed, first, n), 0);
        first += n;
        count -= n;
    }
}

/* --- reading --- */

struct sync_read {
    struct tier_read read;
    struct waited waited;
};

static inline void sync_read_done(struct tier_read *r, int result)
{
    waited_over(&container_of(r, struct sync_read, read)->waited, result);
}

/**
 * read_one() - a granule, as whoever fetches does
 *
 * Returns: 1 if the sum holds, and then the content must be the right one; 0 if it does not, which
 * the tier is told; or -errno.
 */
static inline int read_one(struct tier_file *f, uint64_t size_bytes, uint64_t seed,
                           uint32_t granule)
{
    size_t len = granule_bytes(size_bytes, granule);
    char *buf = buffer(GRANULE_BYTES), *expected = buffer(GRANULE_BYTES);
    struct iovec iov = {buf, round_up(len, PAGE_BYTES)};
    struct sync_read s = {
        .read = {.file = f, .first = granule, .count = 1, .iov = &iov, .iov_count = 1},
        .waited = WAITED_INIT,
    };
    int r;

    s.read.done = sync_read_done;
    tier_read(&s.read);
    r = waited_for(&s.waited);
    if (r == 0 && s.read.sums[0] == sums_of(buf, len)) {
        pattern(expected, seed, granule);
        assert_memory_equal(buf, expected, len);
        r = 1;
    } else if (r == 0) {
        tier_forget(f, granule);
    }
    free(buf);
    free(expected);
    return r;
}

/** count_good() - how many of the granules are there, and hold */
static inline uint32_t count_good(struct tier_file *f, uint64_t size_bytes, uint64_t seed,
                                  uint32_t first, uint32_t count)
{
    uint32_t n = 0;

    for (uint32_t g = first; g < first + count; g++) {
        if (tier_has(f, g) && read_one(f, size_bytes, seed, g) == 1)
            n++;
    }
    return n;
}

/** count_present() - how many the tier says are there */
static inline uint32_t count_present(const struct tier_file *f, uint32_t first, uint32_t count)
{
    uint32_t n = 0;

    for (uint32_t g = first; g < first + count; g++)
        n += tier_has(f, g);
    return n;
}

#endif

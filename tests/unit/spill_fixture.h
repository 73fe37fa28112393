/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_SPILL_FIXTURE_H
#define THAW_TESTS_SPILL_FIXTURE_H

/* The disk fixture with the smallest budget and a disk tier, so that disks spill. */

#include <dirent.h>

#include "cache/spill.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "disk_fixture.h"
#include "image/overlay.h"

#define SPILL_BUDGET CACHE_BUDGET_MIN
#define SPILL_BYTES  (40 * MIB + 3 * PAGE_BYTES) /* of the disk */

static char *tier_folder;

static inline void caches_replace(const struct cache_set_options *options)
{
    fetch_destroy(layers.fetch);
    cache_set_destroy(layers.caches);
    assert_int_equal(cache_set_create(options, &layers.caches, NULL), 0);
    assert_int_equal(fetch_create(layers.caches, &layers.fetch, NULL), 0);
}

/** spill_open() - a disk over a disk tier of @disk_bytes; 0: of no bound */
static inline void spill_open(uint64_t disk_bytes)
{
    tier_folder = scratch_make();
    caches_replace(&(struct cache_set_options){
        .backing = CACHE_BACKING_TIERED,
        .folder = tier_folder,
        .io = &layers.gate.engine,
        .disk_bytes = disk_bytes,
        .budget_bytes = SPILL_BUDGET,
        .huge = HUGE_PAGES_OFF,
    });
    disk_fixture_open(false);
}

static inline void spill_close(void)
{
    struct cache_set_counters n;

    disk_fixture_close();
    n = cache_set_counters(layers.caches);
    assert_int_equal(n.bytes[CACHE_KIND_OVERLAY], 0);
    assert_int_equal(n.bytes[CACHE_KIND_READ_THROUGH], 0);
    assert_int_equal(n.charged_bytes, 0);
    caches_replace(&(struct cache_set_options){0});
    scratch_remove(tier_folder);
}

static inline int spill_set_up(void **state)
{
    (void)state;
    spill_open(0);
    return 0;
}

static inline int spill_tear_down(void **state)
{
    (void)state;
    spill_close();
    return 0;
}

static inline int spill_set_up_group(void **state)
{
    (void)state;
    disk_fixture_init_group(SPILL_BYTES);
    return 0;
}

#define SPILL_TEST(name) cmocka_unit_test_setup_teardown(name, spill_set_up, spill_tear_down)

static inline struct tier_counters tier_now(void)
{
    return tier_counters(cache_set_tier(layers.caches));
}

/** spilled() - until nothing is on its way to the disk any more */
static inline void spills_land(void)
{
    while (overlay_under_way(disk_overlay(disk)) > 0)
        deliver();
}

/** spill_file() - the private file of the disk, found as an operator would, to read and write */
static inline int spill_file(void)
{
    DIR *d = opendir("/proc/self/fd");
    const struct dirent *entry;
    int fd = -1;

    while ((entry = readdir(d)) != NULL) {
        char path[300], target[4096] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, target, sizeof(target) - 1) < 0 ||
            strncmp(target, tier_folder, strlen(tier_folder)) != 0 || !strstr(target, "(deleted)"))
            continue;
        assert_int_equal(fd, -1); /* there is only one */
        fd = open(path, O_RDWR | O_CLOEXEC);
        assert_true(fd >= 0);
    }
    closedir(d);
    assert_true(fd >= 0);
    return fd;
}

/** fill_random() - the data of a write */
static inline void fill_random(struct job *j, struct test_random *rng)
{
    for (uint64_t i = 0; i < j->request.len_bytes; i += 8) {
        uint64_t n = test_random_next(rng);

        memcpy(j->data + i, &n, MIN(8, j->request.len_bytes - i));
    }
}

/** write_range() - one write after the other, of at most @piece bytes; the model has it, too */
static inline void write_range(struct test_random *rng, uint64_t off, uint64_t len, uint64_t piece)
{
    for (uint64_t end = off + len; off < end; off += piece) {
        struct job j;

        job_init(&j, DISK_WRITE, off, MIN(piece, end - off));
        fill_random(&j, rng);
        model_apply(&j.request);
        job_run(&j);
        assert_int_equal(j.request.result, 0);
        job_finish(&j);
    }
}

/** one() - a request of its own; its result */
static inline int one(enum disk_op op, uint64_t off, uint64_t len)
{
    struct job j;
    int result;

    job_init(&j, op, off, len);
    job_run(&j);
    result = j.request.result;
    if (result == 0 && op == DISK_READ)
        assert_memory_equal(j.data, model + off, len);
    else if (result == 0)
        model_apply(&j.request);
    job_finish(&j);
    return result;
}

#endif

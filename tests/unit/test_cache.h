/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_CACHE_H
#define THAW_TESTS_CACHE_H

/*
 * What the tests of the cache share. Each test runs once for each backing, with caches of the set
 * `caches`; afterwards nothing may be left, neither in its accounts nor in its folder.
 */

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"
#include "cache/cache.h"
#include "cache/pool_internal.h"
#include "cache/set_internal.h"
#include "scratch.h"
#include "unit.h"

static const struct uuid build = {{0x12, 0x34, 0x56, 0x78}};

static enum cache_backing backing;
static struct cache_set *caches;
static char *cache_folder; /* of their files */

/* --- sets --- */

static inline struct cache_set *new_set(enum cache_backing with, const char *folder,
                                        uint64_t budget_bytes)
{
    struct cache_set_options options = {
        .backing = with,
        .folder = folder,
        .budget_bytes = budget_bytes,
        .huge = HUGE_PAGES_OFF, /* then the pool is as large as what was taken */
    };
    struct cache_set *set;

    assert_int_equal(cache_set_create(&options, &set, NULL), 0);
    return set;
}

/** set_is_empty() - as it must be when all caches have been destroyed */
static inline void set_is_empty(const struct cache_set *set)
{
    struct cache_set_counters n = cache_set_counters(set);

    assert_int_equal(n.bytes[CACHE_KIND_READ_THROUGH], 0);
    assert_int_equal(n.bytes[CACHE_KIND_OVERLAY], 0);
    assert_int_equal(n.charged_bytes, 0);
    assert_int_equal(n.passing_bytes, 0);
}

static inline int caches_set_up(void **state)
{
    (void)state;
    cache_folder = scratch_make();
    caches = new_set(backing, cache_folder, 0);
    return 0;
}

static inline int caches_tear_down(void **state)
{
    (void)state;
    set_is_empty(caches);
    cache_set_destroy(caches);
    assert_int_equal(rmdir(cache_folder), 0);
    free(cache_folder);
    return 0;
}

/** run_with_each_backing() - for main(): run a group of tests with each */
#define run_with_each_backing(tests)                                                               \
    ({                                                                                             \
        int failed_ = 0;                                                                           \
                                                                                                   \
        for (backing = 0; backing < CACHE_BACKINGS; backing++) {                                   \
            print_message("backing %s\n", cache_backing_name(backing));                            \
            failed_ += cmocka_run_group_tests(tests, caches_set_up, caches_tear_down);             \
        }                                                                                          \
        failed_;                                                                                   \
    })

/* --- caches --- */

static inline struct cache *new_cache(const char *object, uint64_t size_bytes)
{
    struct cache_options options = {&build, object, size_bytes};
    struct cache *c;

    assert_int_equal(cache_create(caches, &options, &c, NULL), 0);
    return c;
}

static inline struct cache *new_overlay(const char *object, uint64_t size_bytes)
{
    struct cache_options options = {&build, object, size_bytes};
    struct cache *c;

    assert_int_equal(cache_create_overlay(caches, &options, &c, NULL), 0);
    return c;
}

/** find_fds() - the descriptors of this process whose target contains @name; the last in *@ret */
static inline unsigned find_fds(const char *name, int *ret)
{
    DIR *d = opendir("/proc/self/fd");
    const struct dirent *entry;
    unsigned found = 0;

    *ret = -1;
    while ((entry = readdir(d)) != NULL) {
        char path[300], target[300] = "";

        snprintf(path, sizeof(path), "/proc/self/fd/%s", entry->d_name);
        if (readlink(path, target, sizeof(target) - 1) < 0 || !strstr(target, name))
            continue;
        *ret = (int)strtol(entry->d_name, NULL, 10);
        found++;
    }
    closedir(d);
    return found;
}

/**
 * find_cache_fd() - the descriptor of a cache, found as an operator would: by its name; or -1
 *
 * Those of backing `tiered` have none.
 */
static inline int find_cache_fd(const char *object)
{
    char name[100];
    int fd;

    snprintf(name, sizeof(name),
             backing == CACHE_BACKING_FILE ? "/thaw-12345678-%s" : "/memfd:thaw:12345678:%s",
             object);
    find_fds(name, &fd);
    return fd;
}

static inline bool has_cache_fd(const char *object)
{
    return backing == CACHE_BACKING_TIERED || find_cache_fd(object) >= 0;
}

/** pool_bytes() - the memory of the pool as the kernel counts it, but for pages of hugetlb */
static inline int64_t pool_bytes(void)
{
    uintptr_t start = (uintptr_t)caches->pool->memory;
    uintptr_t end = start + caches->pool->slot_count * GRANULE_BYTES;
    FILE *f = fopen("/proc/self/smaps", "re");
    unsigned long from, to, kib;
    bool inside = false;
    char line[512];
    int64_t bytes = 0;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2)
            inside = from >= start && to <= end;
        else if (inside && sscanf(line, "Rss: %lu kB", &kib) == 1)
            bytes += (int64_t)(kib * KIB);
    }
    fclose(f);
    return bytes;
}

/** reserve() - with room that is taken for it */
static inline int reserve(struct cache *c, uint32_t granule, void **ret)
{
    struct cache_room room;
    int r;

    assert_int_equal(cache_room_take(caches, 1, true, &room), 0);
    r = cache_reserve(c, granule, &room, ret);
    cache_room_put(caches, &room);
    return r;
}

/** fill_granule() - make @granule ready, full of @byte */
static inline void fill_granule(struct cache *c, uint32_t granule, char byte)
{
    void *memory;

    assert_int_equal(reserve(c, granule, &memory), 0);
    memset(memory, byte, GRANULE_BYTES);
    cache_hold_put(caches, cache_publish(c, granule));
}

#endif

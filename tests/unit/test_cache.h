/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_CACHE_H
#define THAW_TESTS_CACHE_H

/* What the tests of the cache share. */

#include <dirent.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/units.h"
#include "cache/cache.h"
#include "unit.h"

static const struct uuid build = {{0x12, 0x34, 0x56, 0x78}};

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

/** find_memfd() - the descriptor of a cache, found as an operator would: by its name; or -1 */
static inline int find_memfd(const char *name)
{
    int fd;

    find_fds(name, &fd);
    return fd;
}

/** fill_granule() - make @granule ready, full of @byte */
static inline void fill_granule(struct cache *c, uint32_t granule, char byte)
{
    void *memory;

    assert_int_equal(cache_reserve(c, granule, &memory), 0);
    memset(memory, byte, GRANULE_BYTES);
    cache_publish(c, granule);
}

#endif

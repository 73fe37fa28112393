/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_MEMORY_LIMIT_H
#define THAW_KERNEL_MEMORY_LIMIT_H

/*
 * How much memory this process may still take: what the host has available, and what the memory
 * cgroups leave that the process is in, of version 1 or 2. Read when asked; nothing is kept.
 *
 * A cgroup leaves its limit less its usage, and so does each of its parents up to where the
 * hierarchy is mounted: the least of these counts. Page cache that has not been used for a while
 * (inactive_file of memory.stat) is not counted as usage: the kernel takes it back first.
 *
 * Control path: opens and reads files. Any thread.
 */

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#define MEMORY_UNLIMITED UINT64_MAX

/**
 * struct memory_limit
 * @available_bytes: MemAvailable of /proc/meminfo: what can be had without swapping; 0: not known
 * @left_bytes: what the cgroups leave; MEMORY_UNLIMITED: as much as there is, or not known
 * @limiter: the file whose limit that is; "" if it is unlimited
 */
struct memory_limit {
    uint64_t available_bytes;
    uint64_t left_bytes;
    char limiter[PATH_MAX];
};

/**
 * memory_limit_read() - as it is now
 * @root: put before all paths: "" for this system, or a folder that looks like one
 *
 * Cannot fail: what is missing or makes no sense limits nothing.
 */
void memory_limit_read(const char *root, struct memory_limit *ret);

/**
 * memory_group_folder() - the memory cgroup of version 2 that this process is in
 *
 * Returns: 0 with an absolute path, @root in front, in @ret; -ENOENT if version 1 has the memory
 * controller, or nothing is mounted.
 */
[[gnu::warn_unused_result]] int memory_group_folder(const char *root, char ret[PATH_MAX]);

/* --- the files' texts, which end with NUL --- */

/**
 * struct memory_group - where a process' memory cgroup is
 * @v1: of version 1
 * @mount: where the hierarchy is mounted
 * @path: from there; "" for the mount itself, else it begins with '/'
 */
struct memory_group {
    bool v1;
    char mount[PATH_MAX];
    char path[PATH_MAX];
};

/** memory_parse_available() - bytes of MemAvailable in /proc/meminfo; 0, -ENOENT or -EINVAL */
[[gnu::warn_unused_result]] int memory_parse_available(const char *meminfo, uint64_t *ret);

/** memory_parse_bytes() - "4096\n", or "max\n": MEMORY_UNLIMITED; 0 or -EINVAL */
[[gnu::warn_unused_result]] int memory_parse_bytes(const char *text, uint64_t *ret);

/** memory_parse_stat() - the value of @key in memory.stat; 0, -ENOENT or -EINVAL */
[[gnu::warn_unused_result]] int memory_parse_stat(const char *stat, const char *key, uint64_t *ret);

/**
 * memory_parse_group() - from /proc/self/cgroup and /proc/self/mountinfo
 *
 * The memory controller of version 1 counts where there is one; else version 2. Of a group that
 * lies outside of what is mounted, as in a container, the mount itself is the nearest to be seen.
 *
 * Returns: 0; -ENOENT: there is none, or it is not mounted.
 */
[[gnu::warn_unused_result]] int memory_parse_group(const char *cgroup, const char *mountinfo,
                                                   struct memory_group *ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_CGROUP_H
#define THAW_BENCH_CGROUP_H

/* Where cgroups are, of both versions. Any thread. */

#include <stddef.h>
#include <sys/types.h>

/**
 * cgroup_mount() - where the first hierarchy of @type, "cgroup" or "cgroup2", is mounted
 * @option: and with this controller among its options; NULL: any
 *
 * Returns: 0, or -ENOENT and the like.
 */
[[gnu::warn_unused_result]] int cgroup_mount(const char *type, const char *option, char *ret,
                                             size_t len);

/**
 * cgroup_of() - the group of @pid, below the root of a hierarchy: "/PATH"
 * @controller: of version 1; "" for version 2
 *
 * Returns: 0, or -ENOENT and the like.
 */
[[gnu::warn_unused_result]] int cgroup_of(pid_t pid, const char *controller, char *ret, size_t len);

#endif

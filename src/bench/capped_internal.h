/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_CAPPED_INTERNAL_H
#define THAW_BENCH_CAPPED_INTERNAL_H

/* Between capped_device.c, the keeper and its device, and capped_limits.c, the limits on it. */

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

#define CAPPED_NUMBER_BYTES 32

/* What was changed and what it was before, to be put back. "" where nothing was. */
struct capped_limits {
    dev_t device;
    pid_t maker; /* whose writes are limited, with cgroups 2 */
    char delayacct[CAPPED_NUMBER_BYTES];
    int delayacct_lock; /* owned; -1 until the switch is ours */
    char max_ratio[CAPPED_NUMBER_BYTES];
    char strict_limit[CAPPED_NUMBER_BYTES];
    char rule_file[PATH_MAX];  /* cgroups 1: where the rule for the device is */
    char group[PATH_MAX];      /* cgroups 2: ours */
    char home_procs[PATH_MAX]; /* cgroups 2: cgroup.procs of the group that the maker came from */
};

/** capped_limits_set() - 0, or -errno and @e; what was done until then stands in @l */
[[gnu::warn_unused_result]] int capped_limits_set(struct capped_limits *l,
                                                  uint64_t write_bytes_per_s,
                                                  unsigned dirty_percent, struct thaw_error *e);

/** capped_limits_count_delays() - turn the kernel's delay accounting on; where there is none,
 * nothing happens. 0 or -errno and @e. */
[[gnu::warn_unused_result]] int capped_limits_count_delays(struct capped_limits *l,
                                                           struct thaw_error *e);

/** capped_limits_undo() - put everything back; false when something would not, which is said on
 * stderr */
bool capped_limits_undo(struct capped_limits *l);

#endif

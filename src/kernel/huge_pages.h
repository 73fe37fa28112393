/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_HUGE_PAGES_H
#define THAW_KERNEL_HUGE_PAGES_H

/*
 * Huge pages of 2 MiB for memory of a memfd: which kinds there are, and whether this host has them.
 *
 * Control path: opens and reads files. Any thread.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"

#define HUGE_PAGE_BYTES (2 * MIB)

/**
 * enum huge_pages
 * @HUGE_PAGES_THP: transparent ones: what the kernel finds, else small ones (madvise(2))
 * @HUGE_PAGES_HUGETLB: from the pool that the operator has reserved (vm.nr_hugepages)
 */
enum huge_pages { HUGE_PAGES_THP, HUGE_PAGES_OFF, HUGE_PAGES_HUGETLB, HUGE_PAGES_KINDS };

/** huge_pages_name() - "off", "thp", "hugetlb" */
const char *huge_pages_name(enum huge_pages kind);

/** huge_pages_parse() - the kind of that name; 0 or -EINVAL */
[[gnu::warn_unused_result]] int huge_pages_parse(const char *name, enum huge_pages *ret);

#define HUGE_PAGES_WHY_BYTES 320

/**
 * huge_pages_missing() - whether this host has too few of them for @bytes, or none
 * @root: put before all paths: "" for this system, or a folder that looks like one
 * @why: then, what is missing and what to do
 */
[[gnu::warn_unused_result]] bool huge_pages_missing(const char *root, enum huge_pages kind,
                                                    uint64_t bytes, char why[HUGE_PAGES_WHY_BYTES]);

/**
 * huge_pages_mapped() - bytes of the anonymous mappings from @start on, up to @end, that are in
 * transparent huge pages (AnonHugePages of /proc/self/smaps); 0 if that cannot be read. Slow.
 */
uint64_t huge_pages_mapped(const char *start, const char *end);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_HOST_H
#define THAW_HOST_H

/* What all sandboxes of a process share: I/O, caches and their budget, flags, metrics. Conventions:
 * see thaw/thaw.h. */

#include <stddef.h>
#include <stdint.h>

#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct thaw_host;

/**
 * struct thaw_host_options - all zero but opts_size is a good choice
 * @cache_backing: how caches keep their bytes: "tiered", "memfd" or "file"; NULL for the default,
 * tiered
 * @cache_dir: folder of the files of backing file, and of the disk tier of backing tiered; NULL for
 * the usual one. If that cannot be used, tiered does without a disk tier, and @warn is told
 * @disk_budget: bytes that the disk tier may take; 0: a quarter of the file system. A tenth of it
 * stays free in any case
 * @no_disk: no disk tier
 * @memory_budget: bytes of memory that caches may take, at least 8 MiB; 0 for a quarter of what the
 * host has available now, but no more than the memory cgroups leave. If it is more than they leave,
 * @warn is told, once
 * @flags_file: feature flags in flagd's format, watched for changes; NULL for none
 * @flags: NULL-terminated, "NAME=VALUE" each, which beat the file and the environment; NULL for
 * none
 * @metrics: where to serve metrics over HTTP: "HOST:PORT", "[::1]:PORT" or "unix:PATH"; NULL:
 * nowhere
 * @cache_huge_pages: what the memory of backing tiered shall be in: "hugetlb" (pages of 2 MiB that
 * the operator has reserved, vm.nr_hugepages), "off" (small pages), "thp" (those of 2 MiB that the
 * kernel finds), or NULL: as "thp". As far as the host does not have them it is in small pages, and
 * @warn is told if they were asked for
 * @warn: told, with @warn_arg, what an operator should hear of, on the thread that called; or NULL
 */
struct thaw_host_options {
    size_t opts_size;
    const char *cache_backing;
    const char *cache_dir;
    uint64_t disk_budget;
    int no_disk;
    uint64_t memory_budget;
    const char *flags_file;
    const char *const *flags;
    const char *metrics;
    void (*warn)(void *arg, const char *text);
    void *warn_arg;
    const char *cache_huge_pages;
};

/** thaw_host_open() - set it up; one is enough for a process */
int thaw_host_open(const struct thaw_host_options *options, struct thaw_host **ret,
                   struct thaw_error *e);

/** thaw_host_close() - all its sandboxes must have been destroyed. NULL is allowed. */
void thaw_host_close(struct thaw_host *h);

/** thaw_host_fd() - poll it for POLLIN, then call thaw_host_handle(); -1: there is nothing to poll
 */
int thaw_host_fd(const struct thaw_host *h);

/** thaw_host_handle() - take in flags that have changed; the memory budget changes at once, the
 * rest applies to sandboxes resumed from now on */
void thaw_host_handle(struct thaw_host *h);

/** thaw_host_reload() - read the file of flags again, as on SIGHUP */
void thaw_host_reload(struct thaw_host *h);

/**
 * thaw_host_set_memory_budget() - another memory budget from now on
 * @bytes: as thaw_host_options.memory_budget; 0: the one that it was opened with
 *
 * If it is lower, backing tiered gives memory back before this returns, but for what is in use or
 * dirty; memfd throws nothing away, and keeps nothing more. While the feature flag memory-budget is
 * set, that holds, and this is for when it is not any more. The options' warn is told, once, when
 * the budget is more than the memory cgroups leave. Called by the thread that handles the host; it
 * may block.
 *
 * Returns: 0, or -EINVAL if it is less than 8 MiB: nothing has changed then.
 */
int thaw_host_set_memory_budget(struct thaw_host *h, uint64_t bytes, struct thaw_error *e);

#define THAW_SOURCE_BYTES 320

/* How things stand. Strings live as long as the host. */
struct thaw_host_info {
    const char *cache_backing;                    /* of caches that are made from now on */
    char cache_backing_source[THAW_SOURCE_BYTES]; /* "default", "option", "flag ... (file PATH)" */
    const char *metrics;                          /* where they are served; NULL: nowhere */
    uint64_t memory_budget;
    uint64_t cached_bytes;  /* in memory or files, by all caches */
    uint64_t charged_bytes; /* of the budget */
    const char *disk_tier;  /* NULL: none; "written", "read" (another process wrote it), "failed" */
    uint64_t disk_bytes;    /* that it takes */
    uint64_t disk_budget;   /* that it may take */
    uint64_t disk_behind;   /* granules that wait to be written to it */
    uint64_t not_kept;      /* granules that were served but not kept: the budget was spent */
    const char *huge_pages; /* that were asked for: "off", "thp", "hugetlb" */
    uint64_t huge_bytes;    /* of memory that caches have in huge pages now; for "thp", asking takes
                               as long as reading /proc/self/smaps */
};

void thaw_host_info(struct thaw_host *h, struct thaw_host_info *ret);

#ifdef __cplusplus
}
#endif

#endif

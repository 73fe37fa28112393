/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_LIB_HOST_H
#define THAW_LIB_HOST_H

/* What stands behind include/thaw/host.h. Control thread. */

#include "cache/set.h"
#include "thaw/host.h"

struct fetch;
struct flags;
struct host_metrics;
struct host_pressure;
struct io_engine;
struct metrics_server;

/* Caches of one backing, and who fills them. A flag may change the backing of what comes next. */
struct host_caches {
    _Atomic(struct cache_set *) set; /* owned; NULL: not used yet; the metrics read it, too */
    struct fetch *fetch;             /* owned; for whoever has seen the set */
};

/* A store that sandboxes have used; open until the host is closed, as caches are known by it. */
struct host_store {
    char *name;              /* owned */
    struct store *store;     /* owned */
    struct host_store *next; /* owned */
};

/* Built from the top down, taken apart from the bottom up. */
struct thaw_host {
    struct flags *flags;       /* owned, as is all below */
    struct io_engine *io;      /* one for all stores */
    struct io_engine *disk_io; /* of the disk tier: no store waits for a disk that hangs */
    struct host_store *stores;
    struct host_caches caches[CACHE_BACKINGS];
    struct metrics_server *metrics;
    struct host_metrics *watches;
    struct host_pressure *pressure; /* NULL: nobody tells, or there is nothing to give back */
    char *folder;                   /* for files; NULL: the usual one */
    uint64_t budget;                /* of memory: what holds */
    uint64_t start_budget;          /* as it was given, or found to be right, at the start */
    uint64_t asked_budget;          /* since then; 0: as at the start */
    uint64_t refused_budget;        /* what the flag said that cannot be; 0: nothing */
    bool told_of_cgroup;            /* that it is more than that leaves */
    uint64_t disk_budget;           /* 0: the usual one */
    bool no_disk;
    enum huge_pages huge;
    bool huge_asked;
    void (*warn)(void *arg, const char *text); /* may be NULL */
    void *warn_arg;
    bool backing_given; /* by an option */
    enum cache_backing backing;
};

/** host_fetch() - the fetcher for what is resumed now, by flags and options */
[[gnu::warn_unused_result]] int host_fetch(struct thaw_host *h, struct fetch **ret,
                                           struct thaw_error *e);

/** host_store() - the store of that name, the host's to close */
[[gnu::warn_unused_result]] int host_store(struct thaw_host *h, const char *name,
                                           struct store **ret, struct thaw_error *e);

/** host_set() - the caches of that backing, NULL if there are none. Any thread. */
struct cache_set *host_set(struct thaw_host *h, enum cache_backing backing);

/** host_backing() - the backing of what is resumed now; why, into @source unless that is NULL */
enum cache_backing host_backing(struct thaw_host *h, char source[THAW_SOURCE_BYTES]);

/* --- host_huge.c --- */

/** host_huge_init() - which huge pages were asked for. 0, or -EINVAL with the reason in @e. */
[[gnu::warn_unused_result]] int host_huge_init(struct thaw_host *h,
                                               const struct thaw_host_options *o,
                                               struct thaw_error *e);

/** host_huge_check() - tells if caches of @backing will not be in them */
void host_huge_check(const struct thaw_host *h, enum cache_backing backing);

/* --- host_budget.c --- */

/** host_budget_init() - the budget to start with: as given, or the usual one; tells if it is more
 * than the memory cgroups leave */
void host_budget_init(struct thaw_host *h, const struct thaw_host_options *o);

/** host_budget_follow() - do as the flag says, after it may have changed; tells if that cannot be
 */
void host_budget_follow(struct thaw_host *h);

#endif

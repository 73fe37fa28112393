/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_TIER_SERVER_H
#define THAW_BENCH_TIER_SERVER_H

/*
 * thaw's memory server with caches of backing `tiered`, in a process of its own, which tells what
 * it has counted when it is asked. One thread.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "fetch/fetch.h"
#include "memory/server.h"

struct thaw_error;

/**
 * struct tier_job - what to serve
 * @folder: of the disk tier; shared by servers one after the other
 * @budget_bytes: of memory
 * @populate: as of struct memory_server_options
 */
struct tier_job {
    const char *store, *build;
    const char *socket_path;
    const char *folder;
    uint64_t budget_bytes;
    unsigned vms;
    bool populate;
};

/* Since the server's start. */
struct tier_stats {
    struct memory_status memory;
    struct fetch_counters fetch;
    uint64_t cpu_ns; /* of all its threads */
    bool writable;   /* the disk tier is written */
};

struct tier_server {
    pid_t pid;
    int control;               /* owned */
    struct tier_stats *stats;  /* owned: shared, of the last answer */
    struct thaw_error *failed; /* owned: shared, why it has ended */
};

/**
 * tier_server_start() - when it listens
 *
 * The memory of the budget has been touched by then: a pool that has been in use costs no page
 * faults. On failure there is nothing to finish.
 */
[[gnu::warn_unused_result]] int tier_server_start(const struct tier_job *job,
                                                  struct tier_server *ret, struct thaw_error *e);

/* What to wait for before the answer. */
enum tier_moment {
    TIER_NOW = 'n',
    TIER_POPULATED = 'p', /* the last VM's memory is installed */
    TIER_RESTED = 'r',    /* nothing is left to be written to the disk tier */
};

/** tier_server_ask() - have s->stats filled in. Returns: 0, or why the server has ended. */
[[gnu::warn_unused_result]] int tier_server_ask(struct tier_server *s, enum tier_moment when,
                                                struct thaw_error *e);

/** tier_server_kill() - by SIGKILL, and wait until it is gone */
void tier_server_kill(struct tier_server *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_MEMORY_CLIENT_H
#define THAW_TESTS_MEMORY_CLIENT_H

/* What the files of memory_client share; what it does is said in memory_client.c. */

#include <pthread.h>
#include <semaphore.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "client_util.h"
#include "page_oracle.h"
#include "vmm_client.h"

#define THREADS_MAX   64
#define CROWDED_PAGES 64u /* pages that all threads touch at once */

enum die_at { DIE_NEVER, DIE_CONNECT, DIE_SENT, DIE_HALF };

struct options {
    const char *socket, *image, *regions;
    uint64_t threads, seed, pages, removes, page_bytes, hang_seconds;
    bool sequential, expect_errors, hold, legacy_close, json;
    enum die_at die_at;
};

struct run {
    struct options opt;
    struct vmm_client vmm;
    struct page_oracle oracle;
    uint32_t *order;    /* owned: pages in the order of their tickets */
    uint32_t n_listed;  /* pages that get touched at all */
    uint32_t n_crowded; /* pages at the head of @order that are on several tickets */
    uint64_t n_tickets;
    bool verifying; /* the second pass; constant while threads run */

    atomic_uint_fast64_t next_ticket, next_remove;
    atomic_uint_fast64_t n_latencies, n_wrong, n_errors, n_touched, n_written, n_removed;
    atomic_uint_fast64_t n_removes, n_failed;
    uint32_t *latencies;         /* owned: nanoseconds of each first access that was served */
    atomic_uint_fast64_t victim; /* range under removal: first page << 32 | number, or 0 */
    sem_t remove_due;            /* how many removals the progress of the touching allows */
    sem_t thread_done;
};

struct worker {
    struct run *run;
    pthread_t thread;
    unsigned index;
    bool removes;
    struct rng rng;
    uint64_t *words; /* owned: copy of the page under inspection */
    /* For the watchdog: what the thread waits for since when, 0 in @since_ns for nothing. */
    atomic_uint_fast64_t page, since_ns;
};

/* --- memory_client_options.c --- */

extern const char usage_text[];

/** parse_command_line() - 0, or -EINVAL: then usage_text is to be shown */
[[gnu::warn_unused_result]] int parse_command_line(struct options *opt, int argc, char **argv);

/* --- memory_client_touch.c --- */

/** catch_sigbus() - from here on, a page that raises SIGBUS is counted instead */
void catch_sigbus(void);

/**
 * touch_page() - read a page, or write its mark if that is left to do, and compare all its bytes
 * @by_ticket: the touch is one that was asked for, and counts
 */
void touch_page(struct worker *w, uint32_t page, bool may_write, bool by_ticket);

/** watch_begin(), watch_end() - the thread waits for this page now, and does so no more */
void watch_begin(struct worker *w, uint32_t page);
void watch_end(struct worker *w);

/** phase_name() - of a page's state, for people */
const char *phase_name(uint8_t state);

/* --- memory_client_pass.c --- */

/** run_pass() - one pass over the pages by all threads; @verifying: the second one */
void run_pass(struct run *run, bool verifying);

#endif

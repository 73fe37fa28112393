/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_THROTTLE_INTERNAL_H
#define THAW_OBSERVE_THROTTLE_INTERNAL_H

/* Between throttle.c and the sources. Everything is called under throttle.mu. */

#include <dirent.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"
#include "observe/throttle.h"

#define THROTTLE_EVENT "balance_dirty_pages"

/* A thread that is there, and what is kept open of it. A descriptor of a thread that ended never
 * becomes one of another thread with the same number: it fails with ESRCH from then on. */
struct throttle_watched {
    pid_t tid;
    char name[THROTTLE_NAME_BYTES];
    unsigned met;  /* listings that found it: a thread gets its name a moment after its birth */
    bool listed;   /* met in the listing that is going on */
    bool inside;   /* in the throttle at the last look */
    int wchan_fd;  /* owned */
    int source_fd; /* owned; the source's, -1 when it has none */
    uint64_t said_pauses, said_ns; /* what the source was last told, for differences */
    uint64_t since_ns, taken_ns;   /* since when it is watched, how much of that it waited */
};

/**
 * struct throttle_source - a way to count pauses
 * @open: begin; 0, or -errno and @e
 * @begin: thread @w has appeared; @old: it was there before the throttle was started
 * @look: thread @w was looked at, @elapsed_ns after the time before; @was_inside: and then found
 *        in the throttle, as @w->inside says of now
 * @collect: bring rows and totals up to date
 * @close: end; @state as of @open
 * Those but open may be NULL.
 */
struct throttle_source {
    const char *name;
    bool exact;
    int (*open)(void **ret_state, struct thaw_error *e);
    void (*begin)(struct throttle *t, struct throttle_watched *w, bool old);
    void (*look)(struct throttle *t, struct throttle_watched *w, bool was_inside,
                 uint64_t elapsed_ns);
    void (*collect)(struct throttle *t);
    void (*close)(void *state);
};

extern const struct throttle_source throttle_bpf;
extern const struct throttle_source throttle_perf;
extern const struct throttle_source throttle_delayacct;
extern const struct throttle_source throttle_wchan;

struct throttle {
    struct throttle_options options;
    pthread_mutex_t mu; /* none under it; system calls are made under it */
    const struct throttle_source *source;
    void *state;                         /* [m] the source's */
    struct throttle_counts counts;       /* [m] */
    struct throttle_thread *threads;     /* [m] owned; the table */
    struct throttle_watched *watched;    /* [m] owned; ascending by tid */
    size_t watched_count, watched_cap;   /* [m] */
    DIR *tasks;                          /* [m] owned; /proc/self/task */
    uint64_t listed_at_ns, looked_at_ns; /* [m] */
    int timer_fd, stop_fd;               /* owned */
    pthread_t thread;
    bool thread_runs;
};

/** throttle_row() - the entry of @tid under @name, made when it is new; NULL when the table is full
 */
struct throttle_thread *throttle_row(struct throttle *t, pid_t tid,
                                     const char name[THROTTLE_NAME_BYTES]);

/** throttle_add() - more pauses of a thread, by the name it has now, and to the totals */
void throttle_add(struct throttle *t, pid_t tid, uint64_t pauses, uint64_t ns);

/** throttle_open_task() - a file of thread @tid, or -errno */
int throttle_open_task(const struct throttle *t, pid_t tid, const char *file);

#endif

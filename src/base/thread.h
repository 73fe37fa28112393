/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_THREAD_H
#define THAW_BASE_THREAD_H

/*
 * Threads and locks. Every thread has a name ("thaw-pager/0") and blocks all signals but the
 * synchronous ones: signals belong to the control thread, which reads them from a signalfd.
 */

#include <assert.h>
#include <pthread.h>

#include "base/cleanup.h"

/**
 * thread_start() - run @fn(@arg) on a new, named thread
 * @name: at most 15 characters, the kernel's limit: prctl(2) PR_SET_NAME
 *
 * Returns: 0 or -errno. The thread must be joined with thread_join().
 */
[[gnu::warn_unused_result]] int thread_start(pthread_t *ret, const char *name,
                                             void *(*fn)(void *arg), void *arg);

/** thread_join() - wait for the end of @t */
void thread_join(pthread_t t);

static inline void mutex_lock(pthread_mutex_t *m)
{
    int r = pthread_mutex_lock(m);

    assert(r == 0);
    (void)r;
}

static inline void mutex_unlock(pthread_mutex_t *m)
{
    int r = pthread_mutex_unlock(m);

    assert(r == 0);
    (void)r;
}

static inline void cleanup_mutex(pthread_mutex_t **m)
{
    mutex_unlock(*m);
}

/* Holds @m until the end of the scope. At most one per scope. */
#define LOCK_SCOPE(m)                                                                              \
    pthread_mutex_t *lock_scope_ CLEANUP(cleanup_mutex) = (m);                                     \
    mutex_lock(lock_scope_)

#endif

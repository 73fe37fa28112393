/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_SANDBOX_JANITOR_H
#define THAW_SANDBOX_JANITOR_H

/*
 * A small process that cleans up when thaw cannot any more. `kill -9` of thaw must not leave a VM
 * that waits for ever on memory that nobody serves, nor sockets and folders; a parent-death signal
 * would not do, since it fires when the *thread* that made the child ends.
 *
 * The janitor holds one end of a socket pair and nothing else. It is told of processes (by pidfd)
 * and of one folder; when the other end closes, for whatever reason, it kills the processes and
 * removes the folder with the files in it, and ends. In an orderly shutdown there is nothing left
 * to do, and it does that.
 *
 * Control thread only. The process is forked, not executed, and keeps to async-signal-safe calls,
 * so it may be started from a program with threads.
 */

#include <sys/types.h>

struct janitor {
    pid_t pid; /* 0: none */
    int sock;  /* owned */
};

struct thaw_error;

#define JANITOR_INIT                                                                               \
    {                                                                                              \
        .pid = 0, .sock = -1                                                                       \
    }

/** janitor_start() - fork the janitor, for folder @dir (absolute, to be removed at the end) */
[[gnu::warn_unused_result]] int janitor_start(struct janitor *j, const char *dir,
                                              struct thaw_error *e);

/** janitor_watch() - have the process of @pidfd (borrowed) killed at the end; 0 or -errno */
[[gnu::warn_unused_result]] int janitor_watch(struct janitor *j, int pidfd);

/** janitor_finish() - the end: it cleans up; wait until it has. Safe on JANITOR_INIT. */
void janitor_finish(struct janitor *j);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_PROCESS_H
#define THAW_VMM_PROCESS_H

/*
 * One child process, the VMM: started in a session of its own (so that a ^C at the terminal is
 * thaw's to handle), with the signal mask and dispositions of a fresh program, and with no
 * descriptors but the ones named. It is not tied to the life of the thread that starts it. Its
 * output goes to a log whose end explains a death.
 *
 * Control thread only. Waits end with the process (pidfd) or with their deadline.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

/* Standard input (empty), output and error come before the descriptors that are passed on. */
#define PROCESS_FIRST_FD 3
#define PROCESS_MAX_FDS  8

#define PROCESS_EXIT_TEXT_BYTES 80
#define PROCESS_LOG_TAIL_BYTES  256 /* leaves room for context in struct thaw_error */

struct process;

/**
 * struct process_options - what to start
 * @argv: NULL-terminated; argv[0] is a path, or is looked up in PATH
 * @environment: NULL-terminated "NAME=value" entries, added to ours or in place of its entries
 * @fds: borrowed; entry i is descriptor PROCESS_FIRST_FD + i of the process
 * @fd_count: at most PROCESS_MAX_FDS
 * @log_path: created, or emptied, with mode 0600
 */
struct process_options {
    const char *const *argv;
    const char *const *environment;
    const int *fds;
    size_t fd_count;
    const char *log_path;
};

/** process_start() - 0; on failure the error says which file could not be run or written */
[[gnu::warn_unused_result]] int process_start(const struct process_options *o, struct process **ret,
                                              struct thaw_error *e);

/** process_pid() - the process's number, valid at least until it has been reaped */
pid_t process_pid(const struct process *p);

/** process_pidfd() - readable when the process has ended; owned by @p */
int process_pidfd(const struct process *p);

/**
 * process_wait() - wait for the end until @deadline_ns (clock_now_ns()), 0 to only look
 *
 * When it has ended, whatever it left running in its process group is killed, and it is reaped.
 * Returns: whether it has ended.
 */
bool process_wait(struct process *p, uint64_t deadline_ns);

/** process_kill() - SIGKILL, reap. Returns when that is done, at the latest after ten seconds. */
void process_kill(struct process *p);

/** process_succeeded() - whether it has ended, by itself, with status 0 */
bool process_succeeded(const struct process *p);

/** process_exit_text() - "exit status 1", "killed by signal 9 (SIGKILL)" or "still running" */
const char *process_exit_text(struct process *p, char ret[PROCESS_EXIT_TEXT_BYTES]);

/** process_log_tail() - the last lines of the log as one line, "" when there are none */
const char *process_log_tail(const struct process *p, char ret[PROCESS_LOG_TAIL_BYTES]);

/** process_destroy() - kill what still runs, release; NULL is allowed */
void process_destroy(struct process *p);
DEFINE_CLEANUP(struct process, process_destroy);
#define CLEANUP_PROCESS CLEANUP(cleanup_process_destroy)

#endif

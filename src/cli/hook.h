/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_HOOK_H
#define THAW_CLI_HOOK_H

/* Commands that a person wants run beside a sandbox: `thaw resume --cmd`, `--on-resumed`. */

#include <stdbool.h>
#include <sys/types.h>

#include "thaw/thaw.h"

/** struct hook - a command that runs, or has run */
struct hook {
    const char *command; /* borrowed; NULL: no hook */
    pid_t pid;           /* 0: not running */
    int pidfd;           /* owned; -1: not running */
};

#define HOOK_INIT                                                                                  \
    {                                                                                              \
        .pidfd = -1                                                                                \
    }

/**
 * hook_start() - run h->command by /bin/sh, with what @info tells in THAW_... variables
 * @quiet: stdout is for a machine: the command's goes to stderr
 *
 * The command gets the signals' default actions, whatever this process has blocked or ignored.
 * Returns: 0 or -errno. Without a command nothing happens.
 */
[[gnu::warn_unused_result]] int hook_start(struct hook *h, const struct thaw_sandbox_info *info,
                                           bool quiet);

/** hook_reap() - after the pidfd became readable: its exit status, 128 + N for signal N */
int hook_reap(struct hook *h);

/** hook_stop() - end it if it runs: SIGTERM, after three seconds SIGKILL */
void hook_stop(struct hook *h);

#endif

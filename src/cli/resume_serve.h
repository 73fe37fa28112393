/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_RESUME_SERVE_H
#define THAW_CLI_RESUME_SERVE_H

/* What `thaw resume` does while the sandbox is up. */

#include <stdbool.h>

#include "thaw/thaw.h"

/**
 * struct serve_options - how to serve
 * @cmd: a command that ends the sandbox when it ends; its failure is ours. NULL for none.
 * @on_resumed: a command to run beside the sandbox. NULL for none.
 * @json: stdout is for a machine
 * @quiet: report nothing
 */
struct serve_options {
    const char *cmd;
    const char *on_resumed;
    bool json;
    bool quiet;
};

/**
 * serve() - report that @s is ready, run the commands, wait for the end, stop it, report the end
 * @ret_stopped: whether a signal ended it; NULL is allowed
 *
 * Returns: the status to exit with.
 */
int serve(struct thaw_host *host, struct thaw_sandbox *s, const struct serve_options *options,
          bool *ret_stopped);

#endif

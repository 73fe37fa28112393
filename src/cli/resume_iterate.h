/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_RESUME_ITERATE_H
#define THAW_CLI_RESUME_ITERATE_H

/* `thaw resume --iterations N`: the same resume again and again, and how long its stages took. */

#include <stdbool.h>

#include "cli/resume_serve.h"
#include "thaw/thaw.h"

#define ITERATIONS_MAX 100000u

/**
 * resume_iterate() - resume @iterations times, and print what that took
 * @cold: nothing is in a cache at the beginning of each; else the first one warms it for the others
 *
 * An iteration ends when its command does (@serve->cmd), or without one when the VM runs. One that
 * fails ends all, as does a signal: what was measured until then is printed all the same.
 *
 * Returns: the status to exit with.
 */
int resume_iterate(struct thaw_host *host, const struct thaw_resume_options *resume,
                   const struct serve_options *serve, unsigned iterations, bool cold);

#endif

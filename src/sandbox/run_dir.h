/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_SANDBOX_RUN_DIR_H
#define THAW_SANDBOX_RUN_DIR_H

/* The folder of one sandbox: its sockets, its snapfile, its VMM's log. Control thread only. */

#include <stddef.h>

struct thaw_error;

/**
 * run_dir_create() - make a folder of our own, mode 0700, below @parent
 * @parent: NULL for the usual place, which is made if missing
 * @ret: its absolute path, from malloc
 */
[[gnu::warn_unused_result]] int run_dir_create(const char *parent, char **ret,
                                               struct thaw_error *e);

/** run_dir_path() - "@dir/@name", from malloc, or NULL without memory */
char *run_dir_path(const char *dir, const char *name);

#endif

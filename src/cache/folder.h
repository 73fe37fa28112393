/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CACHE_FOLDER_H
#define THAW_CACHE_FOLDER_H

/* The cache folder: where files of backing `file` and of the disk tier are. Any thread. */

#include <limits.h>

struct thaw_error;

/**
 * cache_folder_open() - open the folder, which is made with all above it if it is not there
 * @folder: absolute or relative path; NULL: thaw's folder in $XDG_CACHE_HOME, else /var/cache/thaw
 *          for root and ~/.cache/thaw for others
 * @ret_path: which one it is
 *
 * Returns: a descriptor (O_PATH) that is the caller's, or -errno with the reason in @e.
 */
[[gnu::warn_unused_result]] int cache_folder_open(const char *folder, char ret_path[PATH_MAX],
                                                  struct thaw_error *e);

#endif

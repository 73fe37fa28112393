/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_STORE_DIR_H
#define THAW_STORE_DIR_H

/*
 * The directory store: STORE/<build>/<object>, plain files. What store.h says of each operation
 * holds here; store.c has checked names already.
 */

#include "store/store.h"

struct store {
    int dir_fd;           /* owned */
    struct io_engine *io; /* borrowed */
    char *path;           /* owned; for messages */
};

/** dir_open_build() - the folder of @build below @s, made if @create; descriptor or -errno */
[[gnu::warn_unused_result]] int dir_open_build(struct store *s, const struct uuid *build,
                                               bool create);

#endif

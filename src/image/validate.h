/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_VALIDATE_H
#define THAW_IMAGE_VALIDATE_H

/*
 * Holding a build against all that is known of it: its manifest, the headers of its own and of
 * those layered on it, its sums. One bad object does not keep the others from being looked at.
 * Control threads; blocks.
 */

#include <stdbool.h>

#include "base/uuid.h"
#include "image/scan.h"
#include "thaw/build.h"

struct store;
struct thaw_error;

/* Zero-initialise; release with verdicts_finish(). By build, in the order in which each was met. */
struct verdicts {
    struct thaw_verdict *list; /* owned */
    size_t count;
    size_t cap;
    size_t build_count;
};

/**
 * build_validate() - read every byte of build @id
 * @recursive: and of its ancestors: those that the maps refer to, and the parents that manifests
 *             name, as far as they are there
 *
 * Returns: 0 when all was looked at; -ENOENT when there is no such build, -ENOMEM and the like.
 */
[[gnu::warn_unused_result]] int build_validate(struct store *store, const struct uuid *id,
                                               bool recursive, const struct scan_progress *progress,
                                               struct verdicts *ret, struct thaw_error *e);

void verdicts_finish(struct verdicts *v);

#endif

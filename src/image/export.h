/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_EXPORT_H
#define THAW_IMAGE_EXPORT_H

/*
 * A build back as raw files: its images, flattened, and the small objects that any other tool can
 * use. Every granule is verified before a byte of it is written. Control threads; blocks.
 */

#include "base/uuid.h"
#include "image/scan.h"

struct store;
struct thaw_error;
struct thaw_export_info;

/**
 * build_export() - write the files of build @id into folder @dir
 * @dir: made if it is missing; must have none of the files yet
 * @ret: which files there are now
 *
 * All files appear, complete and on the disk, or none does. Returns: 0; -EEXIST when one is there
 * already; -EBADMSG when stored bytes are damaged; and so on.
 */
[[gnu::warn_unused_result]] int build_export(struct store *store, const struct uuid *id,
                                             const char *dir, const struct scan_progress *progress,
                                             struct thaw_export_info *ret, struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_E2B_H
#define THAW_IMAGE_E2B_H

/*
 * Builds that E2B has written: the same objects, but no manifest and no granule sums. What a
 * manifest would say is put together from what lies in the store; nobody knows what those objects
 * hash to. Control threads; blocks.
 */

#include "base/uuid.h"
#include "format/manifest.h"

struct store;
struct thaw_error;

/* What a build is wanted for: to be resumed, or only for the data that another one maps. */
enum e2b_use { E2B_WHOLE, E2B_ANCESTOR };

/**
 * e2b_manifest_make() - a manifest for a build without one
 *
 * Sizes are those in the store; every SHA-256 is zeros (see build_object_known()), the time of
 * creation is 0. With E2B_WHOLE the build must have both headers, snapfile, metadata.json and the
 * data that the headers map onto it; with E2B_ANCESTOR it may have any of these.
 *
 * Returns: 0; -ENOENT with the names of the objects that are missing, also for a build that has
 * granule sums: thaw began to write it and never came to its manifest.
 */
[[gnu::warn_unused_result]] int e2b_manifest_make(struct store *s, const struct uuid *build,
                                                  enum e2b_use use, struct manifest **ret,
                                                  struct thaw_error *e);

#endif

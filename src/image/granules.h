/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_GRANULES_H
#define THAW_IMAGE_GRANULES_H

/* All granule sums of an object at once, for those who read all of it. Control threads; blocks. */

#include <stdint.h>

#include "base/uuid.h"

struct manifest_object;
struct store;
struct thaw_error;

/**
 * granule_sums_load() - the sums of an object of @u_bytes; *@ret to be freed, one u64 a granule
 * @sums: the object that holds them
 *
 * Every page of them is checked, and then the whole against its SHA-256.
 */
[[gnu::warn_unused_result]] int granule_sums_load(struct store *s, const struct uuid *build,
                                                  const struct manifest_object *sums,
                                                  uint64_t u_bytes, uint64_t **ret,
                                                  struct thaw_error *e);

#endif

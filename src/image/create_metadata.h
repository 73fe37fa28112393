/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_CREATE_METADATA_H
#define THAW_IMAGE_CREATE_METADATA_H

#include "base/uuid.h"

struct manifest;
struct metadata;
struct store;
struct thaw_error;

/**
 * create_metadata() - complete the metadata of new build @id
 * @base: manifest of its base, or NULL
 * @inherit_vmm: take the VMM that the base has recorded
 *
 * E2B's keys come from the base, but for those that told of its own snapshot: the working set, and
 * how its file system was left. E2B's "template" names the new build. Control thread.
 */
[[gnu::warn_unused_result]] int create_metadata(struct store *store, const struct uuid *id,
                                                const struct manifest *base, bool inherit_vmm,
                                                struct metadata *m, struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_CREATE_H
#define THAW_IMAGE_CREATE_H

/*
 * Making a build from raw files. Objects are written in an order that never shows a reader a
 * header before its data: data, sums, snapfile, metadata, header, and last the manifest, which is
 * what makes the build exist. Whatever fails before that leaves objects that nobody lists.
 * Control threads; blocks.
 */

#include "base/uuid.h"
#include "image/pack.h"

struct metadata;
struct store;
struct thaw_error;

#define SNAPFILE_NAME      "snapfile"
#define SNAPFILE_MAX_BYTES GIB

/**
 * struct build_source - what a build is made of
 * @memory_path: raw guest memory: a file or block device, its size a multiple of 4096
 * @snapfile_path: the VMM's own state, kept as it is; NULL when there is none
 * @metadata: memory_bytes and page_bytes are filled in
 */
struct build_source {
    const char *memory_path;
    const char *snapfile_path;
    struct metadata *metadata;
    const struct pack_progress *progress;
};

/** build_create() - write build @id; 0, or -errno with what failed in @e */
[[gnu::warn_unused_result]] int build_create(struct store *store, const struct uuid *id,
                                             const struct build_source *source,
                                             struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_CREATE_H
#define THAW_IMAGE_CREATE_H

/*
 * Making a build from raw files, alone or as a layer over another build. What can be refused is
 * refused before anything is written. Objects are written in an order that never shows a reader a
 * header before its data: data and sums of each image, snapfile, metadata, headers, and last the
 * manifest, which is what makes the build exist. What fails before that leaves nothing behind.
 * Control threads; blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/units.h"
#include "base/uuid.h"
#include "image/pack.h"

struct buf;
struct metadata;
struct source;
struct store;
struct thaw_error;

#define SNAPFILE_NAME      "snapfile"
#define SNAPFILE_MAX_BYTES GIB

/**
 * struct build_source - what a build is made of
 * @memory_path: raw guest memory, as source_open() takes it, its size a multiple of @block_bytes;
 * or NULL
 * @rootfs_path: raw guest disk, its size a multiple of 4096; or NULL, but not both
 * @memory, @rootfs: in place of the paths, sources that are open. They become build_create()'s,
 *                   which leaves them all zeros. NULL: none
 * @snapfile_path: the VMM's own state, kept as it is; NULL when there is none
 * @snapfile: in place of that path, the state itself; borrowed. NULL: none
 * @base: the build that this one is a layer over: what does not differ is not stored. NULL: none.
 *        An image that the base does not have is stored as if there were no base.
 * @block_bytes: of memory: 4096 or 2097152; 0: as the base has it, or else 4096
 * @header_version: HEADER_V3 or HEADER_V4; 0: HEADER_V4
 * @inherit_vmm: record the VMM that the base has recorded, not the one in @metadata
 * @metadata: memory_bytes, page_bytes and the keys of E2B are filled in
 *
 * All paths are borrowed until build_create() returns. Images must not be written to meanwhile.
 */
struct build_source {
    const char *memory_path;
    const char *rootfs_path;
    struct source *memory;
    struct source *rootfs;
    const char *snapfile_path;
    const struct buf *snapfile;
    const struct uuid *base;
    uint64_t block_bytes;
    unsigned header_version;
    bool inherit_vmm;
    struct metadata *metadata;
    const struct pack_progress *progress;
};

/**
 * build_create() - write build @id
 * @store: opened with an I/O engine if there is a base
 *
 * Returns: 0, or -errno with what failed in @e: -ENOENT no such base or file, -EINVAL the images
 * are not as they must be, -EEXIST somebody else has made or makes a build of that id, -ESTALE an
 * image changed meanwhile, -EBADMSG the base is damaged, or what the store says.
 */
[[gnu::warn_unused_result]] int build_create(struct store *store, const struct uuid *id,
                                             const struct build_source *source,
                                             struct thaw_error *e);

#endif

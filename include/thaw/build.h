/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BUILD_H
#define THAW_BUILD_H

/* Builds in a store: making them, looking at them. Conventions: see thaw/thaw.h. */

#include <stddef.h>
#include <stdint.h>

#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define THAW_BUILD_ID_BYTES 37 /* the text of a UUID, with its NUL */

/* --- making builds --- */

/**
 * struct thaw_create_options - what a build is made of
 * @store: DIR or file:///DIR; made if it is missing (its parent is not)
 * @memory_path: raw guest memory, a multiple of 4096 bytes
 * @snapfile_path: the VMM's device state; NULL without
 * @vmm: "qemu", "firecracker" or "none": what the snapshot is of; NULL for "none"
 * @vmm_version: as the VMM tells it, or NULL
 * @vmm_args: NULL-terminated: what the VMM must be started with again; NULL for nothing
 * @progress: called now and then with @progress_arg, or NULL
 */
struct thaw_create_options {
    size_t opts_size;
    const char *store;
    const char *memory_path;
    const char *snapfile_path;
    const char *vmm;
    const char *vmm_version;
    const char *const *vmm_args;
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

/** thaw_create() - make a build; its id in @ret_id. It is durable when this returns. */
int thaw_create(const struct thaw_create_options *options, char ret_id[THAW_BUILD_ID_BYTES],
                struct thaw_error *e);

/* --- looking at builds --- */

struct thaw_object_info {
    const char *name;
    uint64_t size_bytes; /* as stored */
    uint64_t uncompressed_bytes;
    const char *codec;
    char sha256[65]; /* of what is stored, in hexadecimal */
};

struct thaw_mapping_info {
    uint64_t offset_bytes; /* in the image */
    uint64_t len_bytes;
    const char *build;      /* NULL: zeros */
    uint64_t storage_bytes; /* offset in the build's data, uncompressed */
};

/**
 * struct thaw_build_info - what a build consists of
 *
 * One allocation tree, released by thaw_build_info_free(); every pointer is valid until then.
 */
struct thaw_build_info {
    char build[THAW_BUILD_ID_BYTES];
    char base[THAW_BUILD_ID_BYTES];
    const char *parent; /* NULL: none */
    int64_t created_s;  /* seconds since 1970 */
    unsigned header_version;
    uint64_t generation;
    uint64_t block_bytes;
    uint64_t memory_bytes;
    uint64_t memory_stored_bytes; /* by this build and its ancestors, as the map refers to them */
    uint64_t memory_zero_bytes;
    const char *vmm;
    const char *vmm_version; /* NULL: not recorded */
    const char *const *vmm_args;
    size_t vmm_arg_count;
    const struct thaw_object_info *objects;
    size_t object_count;
    const struct thaw_mapping_info *mappings;
    size_t mapping_count;
};

/** thaw_inspect() - read what describes @build; none of its data */
int thaw_inspect(const char *store, const char *build, struct thaw_build_info **ret,
                 struct thaw_error *e);

void thaw_build_info_free(struct thaw_build_info *info);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BUILD_H
#define THAW_BUILD_H

/* Builds in a store: looking at them. Making them: thaw/create.h. Conventions: thaw/thaw.h. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define THAW_BUILD_ID_BYTES 37 /* the text of a UUID, with its NUL */

/* --- looking at builds --- */

struct thaw_object_info {
    const char *name;
    uint64_t size_bytes; /* as stored */
    uint64_t uncompressed_bytes;
    const char *codec;
    char sha256[65];  /* of what is stored, in hexadecimal; "" when nobody knows it */
    const char *sums; /* the object with its granule sums; NULL: none */
};

struct thaw_mapping_info {
    uint64_t offset_bytes; /* in the image */
    uint64_t len_bytes;
    const char *build;      /* NULL: zeros */
    uint64_t storage_bytes; /* offset in the build's data, uncompressed */
};

/**
 * struct thaw_layer_info - what an image takes from one build, as its header tells
 * @mapped_bytes, @mapping_count: of the image
 * @codec: NULL: the header does not say
 * @data_bytes: of the build's data, uncompressed; 0: the header does not say
 * @sha256: of that data, in hexadecimal; "": the header does not say
 * @frame_count: of a compressed build, those that the header lists; the other two are their sizes
 */
struct thaw_layer_info {
    const char *build;
    uint64_t mapped_bytes;
    size_t mapping_count;
    const char *codec;
    uint64_t data_bytes;
    char sha256[65];
    size_t frame_count;
    uint64_t frames_uncompressed_bytes;
    uint64_t frames_stored_bytes;
};

/**
 * struct thaw_image_info - an image of a build: what its header says
 * @own_bytes, @inherited_bytes, @zero_bytes: mapped to the build itself, to its ancestors, to none;
 *             together the image, in whole pages
 * @layers: the build itself first, then ancestors, those with the most bytes first
 */
struct thaw_image_info {
    const char *name; /* "memfile" or "rootfs.ext4" */
    const char *base; /* the first build of the chain */
    unsigned header_version;
    uint64_t generation;
    uint64_t block_bytes;
    uint64_t size_bytes;
    uint64_t own_bytes;
    uint64_t inherited_bytes;
    uint64_t zero_bytes;
    const struct thaw_mapping_info *mappings;
    size_t mapping_count;
    const struct thaw_layer_info *layers;
    size_t layer_count;
};

/**
 * struct thaw_build_info - what a build consists of
 *
 * One allocation tree, released by thaw_build_info_free(); every pointer is valid until then.
 * Fields may be added at the end.
 */
struct thaw_build_info {
    char build[THAW_BUILD_ID_BYTES];
    const char *parent; /* NULL: none, or not known */
    bool unverified;    /* without manifest, as E2B writes builds: nothing says what is right */
    int64_t created_s;  /* seconds since 1970; 0: not known */
    const char *vmm;
    const char *vmm_version; /* NULL: not recorded */
    const char *const *vmm_args;
    size_t vmm_arg_count;
    size_t working_set_count; /* recorded for prefetch; 0: none */
    uint64_t working_set_block_bytes;
    const struct thaw_object_info *objects;
    size_t object_count;
    const struct thaw_image_info *memory; /* NULL: the build has none */
    const struct thaw_image_info *rootfs; /* NULL: the build has none */
};

/** thaw_inspect() - read what describes @build; none of its data */
int thaw_inspect(const char *store, const char *build, struct thaw_build_info **ret,
                 struct thaw_error *e);

void thaw_build_info_free(struct thaw_build_info *info);

/* --- checking builds --- */

enum thaw_verdict_kind {
    THAW_VERDICT_OK,
    THAW_VERDICT_UNVERIFIED, /* readable, and nothing says what it should hold */
    THAW_VERDICT_BAD,
};

struct thaw_verdict {
    char build[THAW_BUILD_ID_BYTES];
    char object[64];
    enum thaw_verdict_kind kind;
    uint64_t read_bytes;
    char text[500]; /* what is wrong, or why it is not verified; "" when ok */
};

/**
 * struct thaw_validate_options - which build to check
 * @recursive: its ancestors, too: those that it maps and its parents, each once
 * @progress: called now and then with @progress_arg, on threads of the library, one at a time
 */
struct thaw_validate_options {
    size_t opts_size;
    const char *store;
    const char *build;
    bool recursive;
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

struct thaw_validation {
    const struct thaw_verdict *verdicts; /* by build, the one asked for first */
    size_t verdict_count;
    size_t build_count;
    size_t bad_count;
    size_t unverified_count;
    uint64_t read_bytes;
};

/**
 * thaw_validate() - read every byte of a build and hold it against all that is known of it
 *
 * Returns: 0 when everything was looked at, whatever the verdicts are; -errno when it could not be.
 */
int thaw_validate(const struct thaw_validate_options *options, struct thaw_validation **ret,
                  struct thaw_error *e);

void thaw_validation_free(struct thaw_validation *validation);

/* --- builds back as files --- */

#define THAW_EXPORT_FILES_MAX 4

struct thaw_export_file {
    const char *name; /* static */
    uint64_t size_bytes;
    uint64_t written_bytes; /* pages that are not zeros; the others are holes */
};

struct thaw_export_info {
    struct thaw_export_file files[THAW_EXPORT_FILES_MAX];
    size_t file_count;
    uint64_t read_bytes;
    uint64_t unverified_bytes; /* of those: without sums that say what is right */
};

/**
 * struct thaw_export_options - what to export, and where to
 * @dir: made if it is missing (its parent is not)
 * @progress: called now and then with @progress_arg, on threads of the library, one at a time
 */
struct thaw_export_options {
    size_t opts_size;
    const char *store;
    const char *build;
    const char *dir;
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

/**
 * thaw_export() - write memfile, rootfs.ext4, snapfile and metadata.json, those that the build has
 *
 * The images are flattened and sparse. Every granule is verified before a byte of it is written.
 * All files appear, complete and durable, or none does. Returns: 0; -EEXIST when one of the names
 * is taken in @dir.
 */
int thaw_export(const struct thaw_export_options *options, struct thaw_export_info *ret,
                struct thaw_error *e);

#ifdef __cplusplus
}
#endif

#endif

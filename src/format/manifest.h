/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_MANIFEST_H
#define THAW_FORMAT_MANIFEST_H

/*
 * manifest.json, the commit point of a build: what objects it consists of, how large they are and
 * what they hash to. Written last; a build without one does not exist. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"
#include "base/uuid.h"
#include "format/codec.h"

#define MANIFEST_NAME         "manifest.json"
#define MANIFEST_FORMAT       1
#define MANIFEST_MAX_BYTES    MIB
#define MANIFEST_MAX_OBJECTS  64 /* a build has about a dozen */
#define OBJECT_NAME_BYTES     64 /* 63 characters and the NUL */
#define MANIFEST_SHA256_BYTES 32

struct manifest_object {
    char name[OBJECT_NAME_BYTES];
    uint64_t size_bytes;                   /* as stored */
    uint64_t uncompressed_bytes;           /* equal to size_bytes with CODEC_NONE */
    enum codec codec;                      /* of the object as a whole or of its frames */
    uint8_t sha256[MANIFEST_SHA256_BYTES]; /* as stored */
    char sums[OBJECT_NAME_BYTES]; /* name of the object with its granule sums; "" without */
};

struct manifest {
    struct uuid build;
    bool has_parent;
    struct uuid parent;
    int64_t created_s;               /* seconds since 1970, UTC */
    struct manifest_object *objects; /* owned; no name twice */
    size_t object_count;
};

/** object_name_valid() - 1 to 63 of a-z A-Z 0-9 . _ -, the first one not a dot */
bool object_name_valid(const char *name);

/**
 * manifest_decode() - read a manifest; unknown keys are ignored
 *
 * Returns: 0, -ENOMEM, or -EBADMSG naming what does not hold.
 */
[[gnu::warn_unused_result]] int manifest_decode(const void *bytes, size_t len,
                                                struct manifest **ret, struct thaw_error *e);

/**
 * manifest_encode() - append the text of @m: indented, keys in a fixed order, newline at the end
 *
 * Returns: 0, -ENOMEM, or -EINVAL when manifest_decode() would refuse it. @ret is unchanged then.
 */
[[gnu::warn_unused_result]] int manifest_encode(const struct manifest *m, struct buf *ret,
                                                struct thaw_error *e);

/** manifest_find() - the object of that name, or NULL */
const struct manifest_object *manifest_find(const struct manifest *m, const char *name);

/**
 * manifest_add() - append a copy of @object
 *
 * Returns: 0, -ENOMEM, -EINVAL when a name is none, -EEXIST when its name is taken, -E2BIG beyond
 * MANIFEST_MAX_OBJECTS.
 */
[[gnu::warn_unused_result]] int manifest_add(struct manifest *m,
                                             const struct manifest_object *object);

/** manifest_destroy() - release @m and its objects; NULL is allowed. @m came from the heap. */
void manifest_destroy(struct manifest *m);
DEFINE_CLEANUP(struct manifest, manifest_destroy);
#define CLEANUP_MANIFEST CLEANUP(cleanup_manifest_destroy)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_METADATA_H
#define THAW_FORMAT_METADATA_H

/*
 * metadata.json: what E2B records about a template, kept as it is, and under "thaw" what a resume
 * needs to know. The recorded working set is where E2B has it, in prefetch.memory. One thread.
 *
 * Files of version 1 or older, or without a numeric version, carry nothing that can be relied on:
 * they decode to an empty metadata of version 1.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"

#define METADATA_NAME      "metadata.json"
#define METADATA_VERSION   2
#define METADATA_MAX_BYTES (16 * MIB) /* 2 million prefetch indices: 8 GiB of 4 KiB pages */
#define METADATA_MAX_ARGS  1024

enum vmm_kind { VMM_NONE, VMM_QEMU, VMM_FIRECRACKER };

struct metadata_vmm {
    enum vmm_kind kind;
    char *version; /* owned; NULL: not recorded */
    char **args;   /* owned, and so is each; what the VMM must be started with again */
    size_t arg_count;
};

/* The blocks that a resume touched, in the order of their faults. */
struct metadata_prefetch {
    uint64_t *indices; /* owned; in units of block_bytes */
    char *access;      /* owned; 'r', 'w' or 'p' for each index, or NULL: not recorded */
    size_t count;      /* 0: no working set recorded */
    uint64_t block_bytes;
};

struct json_t;

struct metadata {
    uint64_t version;
    struct metadata_vmm vmm;
    uint64_t memory_bytes; /* 0: not recorded */
    uint64_t page_bytes;   /* of guest memory; 0: not recorded */
    struct metadata_prefetch prefetch;
    struct json_t *foreign; /* owned; every other key, written back as it was read; or NULL */
};

/** metadata_create() - an empty metadata of METADATA_VERSION; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int metadata_create(struct metadata **ret);

/** metadata_add_arg() - append a copy of @arg to the VMM's arguments; 0, -ENOMEM or -E2BIG */
[[gnu::warn_unused_result]] int metadata_add_arg(struct metadata *m, const char *arg);

/**
 * metadata_decode() - read a metadata.json
 *
 * Returns: 0, -ENOMEM, or -EBADMSG naming the key that does not hold.
 */
[[gnu::warn_unused_result]] int metadata_decode(const void *bytes, size_t len,
                                                struct metadata **ret, struct thaw_error *e);

/**
 * metadata_encode() - append the text of @m: indented, newline at the end
 *
 * Returns: 0, -ENOMEM, or -EINVAL when metadata_decode() would refuse it. @ret is unchanged then.
 */
[[gnu::warn_unused_result]] int metadata_encode(const struct metadata *m, struct buf *ret,
                                                struct thaw_error *e);

/** vmm_kind_name() - "none", "qemu" or "firecracker" */
const char *vmm_kind_name(enum vmm_kind kind);

/** vmm_kind_parse() - the kind of that name into *@ret; 0, or -EINVAL for any other name */
[[gnu::warn_unused_result]] int vmm_kind_parse(const char *name, enum vmm_kind *ret);

/** metadata_destroy() - release @m; NULL is allowed */
void metadata_destroy(struct metadata *m);
DEFINE_CLEANUP(struct metadata, metadata_destroy);
#define CLEANUP_METADATA CLEANUP(cleanup_metadata_destroy)

#endif

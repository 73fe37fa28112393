/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_STORE_H
#define THAW_STORE_H

/* The builds of a store: listing and deleting them. Conventions: see thaw/thaw.h. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "thaw/build.h"
#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

enum thaw_build_state {
    THAW_BUILD_OK,         /* its manifest and its metadata hold */
    THAW_BUILD_UNVERIFIED, /* as E2B writes them: complete, without manifest and checksums */
    THAW_BUILD_DAMAGED,
};

struct thaw_build_entry {
    char build[THAW_BUILD_ID_BYTES];
    char parent[THAW_BUILD_ID_BYTES]; /* "": none, or not known */
    bool parent_is_missing;           /* it is not in the store */
    enum thaw_build_state state;
    char *reason;          /* printable text; NULL unless damaged */
    int64_t created_s;     /* seconds since 1970; 0: not known */
    const char *vmm;       /* NULL: not known */
    uint64_t memory_bytes; /* 0: none, or not known */
    uint64_t stored_bytes; /* all of its own objects */
    unsigned depth;        /* with @tree: how many ancestors are above it in the list */
};

struct thaw_build_list {
    struct thaw_build_entry *builds;
    size_t count;
};

/**
 * struct thaw_list_options - which builds to list
 * @tree: children follow their parent, the newest first; otherwise all by age, the newest first
 */
struct thaw_list_options {
    size_t opts_size;
    const char *store;
    bool tree;
};

/**
 * thaw_list() - the builds of a store, also those that are damaged
 *
 * What was never finished or is half deleted is no build. Reads manifests and metadata; no data.
 */
int thaw_list(const struct thaw_list_options *options, struct thaw_build_list **ret,
              struct thaw_error *e);

void thaw_build_list_free(struct thaw_build_list *list);

/**
 * struct thaw_delete_options - which build to delete
 * @force: also if it is damaged or not finished, and although other builds are so damaged that they
 *         do not tell whether they need it; never while one that tells needs it
 */
struct thaw_delete_options {
    size_t opts_size;
    const char *store;
    const char *build;
    bool force;
};

struct thaw_deleted_object {
    char name[64];
    uint64_t size_bytes;
};

struct thaw_deleted {
    char build[THAW_BUILD_ID_BYTES];
    struct thaw_deleted_object *objects;
    size_t object_count;
    uint64_t bytes; /* all objects together */
};

/**
 * thaw_delete() - remove a build that no other build of the store needs
 *
 * A build needs its parent and every build that its memory or disk has bytes in. Sandboxes that
 * run, and builds that are being made at the moment, are not known to a store.
 *
 * Returns: 0; -EBUSY when others need it, named in @e, or it is being written; -ENOENT, -EBADMSG
 * when it is not there, or damaged (see @force).
 */
int thaw_delete(const struct thaw_delete_options *options, struct thaw_deleted **ret,
                struct thaw_error *e);

void thaw_deleted_free(struct thaw_deleted *deleted);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_VALIDATE_INTERNAL_H
#define THAW_IMAGE_VALIDATE_INTERNAL_H

/*
 * Between the two halves of a validation. The first (validate.c) walks over the builds, checks what
 * is small, and lists what is large; the second (validate_data.c) reads that with a few threads.
 */

#include <pthread.h>
#include <stdatomic.h>

#include "format/build_table.h"
#include "format/manifest.h"
#include "image/validate.h"

#define NO_VERDICT SIZE_MAX

/* A large object to be read. */
struct check {
    struct uuid build;
    struct manifest_object object;
    struct manifest_object sums; /* an empty name: it has none */
    size_t verdict;              /* index of the object's in the list */
    size_t sums_verdict;         /* of the object with its sums, or NO_VERDICT */
};

/* What a header says of the data of a build: its SHA-256, uncompressed. */
struct claim {
    struct uuid build;
    const char *image; /* static */
    uint8_t sha256[MANIFEST_SHA256_BYTES];
    struct uuid by; /* the build with that header */
};

struct validation {
    struct store *store; /* borrowed */
    bool recursive;
    const struct scan_progress *progress;
    struct verdicts verdicts;
    struct build_table builds; /* in the order in which they are looked at */
    bool *mapped;              /* owned: by the same index; others only name it as their parent */
    struct check *checks;      /* owned */
    size_t check_count;
    size_t check_cap;
    struct claim *claims; /* owned */
    size_t claim_count;
    size_t claim_cap;

    _Atomic(size_t) next; /* [a] relaxed: the check to do next */
    pthread_mutex_t mu;
    uint64_t total_bytes;
    uint64_t done_bytes;     /* [m] mu */
    struct thaw_error error; /* [m] mu: why a check could not be done; code 0 without */
};

/** verdict_set() - the last word on an object; a NULL @text is none */
void verdict_set(struct thaw_verdict *v, enum thaw_verdict_kind kind, const char *text);

/** validate_data() - do all checks, on a crew of threads; 0 or what kept them from being done */
[[gnu::warn_unused_result]] int validate_data(struct validation *v, struct thaw_error *e);

#endif

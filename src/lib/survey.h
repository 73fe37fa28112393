/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_LIB_SURVEY_H
#define THAW_LIB_SURVEY_H

/*
 * All builds of a store, as far as their manifests tell. One that cannot be read does not stop the
 * survey; what is unfinished or half deleted is no build and not in it. Control threads; blocks.
 */

#include <stdbool.h>
#include <stddef.h>

#include "base/uuid.h"

struct manifest;
struct store;
struct thaw_error;

struct survey_build {
    struct uuid id;
    struct manifest *manifest; /* owned; NULL: it cannot be read */
    struct thaw_error *error;  /* owned; why not, or NULL */
};

/* Zero-initialise; release with survey_finish(). Ordered by id. */
struct survey {
    struct survey_build *builds; /* owned */
    size_t count;
};

#define CLEANUP_SURVEY CLEANUP(survey_finish)

/** survey_store() - read the manifests of all builds in @store */
[[gnu::warn_unused_result]] int survey_store(struct store *store, struct survey *ret,
                                             struct thaw_error *e);

/** survey_find() - the build of that id, or NULL */
struct survey_build *survey_find(const struct survey *s, const struct uuid *id);

/** survey_finish() - release what it holds */
void survey_finish(struct survey *s);

#endif

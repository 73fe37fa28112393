/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_SCRATCH_H
#define THAW_TESTS_SCRATCH_H

/* A folder of one's own for a test, gone at the end. */

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "unit.h"

static inline int scratch_remove_one(const char *path, const struct stat *st, int type,
                                     struct FTW *at)
{
    (void)st;
    (void)type;
    (void)at;
    return remove(path);
}

/** scratch_make() - a new folder in $TMPDIR; its path, from malloc */
static inline char *scratch_make(void)
{
    const char *tmp = getenv("TMPDIR");
    char *path;

    assert_true(asprintf(&path, "%s/thaw-unit-XXXXXX", tmp ? tmp : "/tmp") > 0);
    assert_non_null(mkdtemp(path));
    return path;
}

static inline void scratch_remove(char *path)
{
    assert_int_equal(nftw(path, scratch_remove_one, 16, FTW_DEPTH | FTW_PHYS), 0);
    free(path);
}

/** scratch_path() - "FOLDER/NAME", from malloc */
static inline char *scratch_path(const char *folder, const char *name)
{
    char *path;

    assert_true(asprintf(&path, "%s/%s", folder, name) > 0);
    return path;
}

#endif

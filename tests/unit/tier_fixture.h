/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_TIER_FIXTURE_H
#define THAW_TESTS_TIER_FIXTURE_H

/* Disk tiers in folders of tests, and the objects in them. */

#include <errno.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "base/error.h"
#include "base/file.h"
#include "scratch.h"
#include "tier_traffic.h"

static const struct uuid tier_build = {{0xde, 0xad, 0xbe, 0xef, 5}};

/* --- tiers --- */

static inline struct tier *open_tier(const char *folder, struct io_engine *io, uint64_t max_bytes)
{
    /* Little is kept free: what else is on the disk of the tests is not for them to say. */
    struct tier_options options = {
        .folder = folder, .io = io, .max_bytes = max_bytes, .keep_free_percent = 1};
    struct thaw_error e = THAW_ERROR_INIT;
    struct tier *t;
    int r = tier_create(&options, &t, &e);

    if (r < 0)
        fail_msg("%s", e.text);
    return t;
}

static inline int try_object(struct tier *t, const char *name, uint64_t size_bytes,
                             struct tier_file **ret)
{
    struct tier_file_options o = {.build = &tier_build,
                                  .name = name,
                                  .size_bytes = size_bytes,
                                  .origin = UINT64_C(0x0123456789abcdef)};

    return tier_file_open(t, &o, ret);
}

static inline struct tier_file *open_object(struct tier *t, const char *name, uint64_t size_bytes)
{
    struct tier_file *f = NULL;

    assert_int_equal(try_object(t, name, size_bytes, &f), 0);
    return f;
}

/** path_of() - of a file of the object, ".data" or ".sums"; from malloc */
static inline char *path_of(const char *folder, const char *name, const char *suffix)
{
    char build[UUID_TEXT_BYTES], *path;

    assert_true(asprintf(&path, "%s/tier/%s.%s.0123456789abcdef%s", folder,
                         uuid_format(&tier_build, build), name, suffix) > 0);
    return path;
}

/* --- other processes --- */

/** in_child() - run @fn in a process of its own, which has no threads yet; its exit status */
static inline int in_child(int (*fn)(void))
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0)
        _exit(fn());
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
}

#endif

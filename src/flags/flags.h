/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FLAGS_FLAGS_H
#define THAW_FLAGS_FLAGS_H

/*
 * Feature flags: behaviour that a fleet switches while it runs. README.md has the rules.
 *
 * Reading a value is one atomic load and safe on any thread. flags_open(), flags_handle(),
 * flags_reload(), flags_set() and flags_close() belong to one thread, the one that controls; the
 * functions that report where a value comes from may be called on any.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/error.h"

/* One for each line of the table in decls.c, in its order. */
enum flag_id { FLAG_LOCAL_CACHE_MEMFD, FLAG_MEMORY_BUDGET, FLAG_COUNT };

enum flag_type { FLAG_BOOL, FLAG_INT, FLAG_STRING, FLAG_SIZE };

/* Where a value comes from, the weakest first: the strongest that has one wins. */
enum flag_source { FLAG_FROM_DEFAULT, FLAG_FROM_FILE, FLAG_FROM_ENVIRONMENT, FLAG_FROM_OPTION };
#define FLAG_SOURCES 4

#define FLAG_NAME_MAX    63  /* characters of a-z 0-9 - */
#define FLAG_STRING_MAX  255 /* bytes of a string value */
#define FLAG_VALUE_BYTES (FLAG_STRING_MAX + 1)

#define FLAG_ENVIRONMENT_PREFIX "THAW_FLAG_"

union flag_value {
    bool boolean;
    int64_t integer;
    const char *string; /* never NULL */
    uint64_t bytes;     /* of a FLAG_SIZE; 0 is also written as an empty string */
};

struct flag_decl {
    const char *name;
    const char *help;
    union flag_value initial; /* when no source says anything */
    enum flag_type type;
    bool run_time; /* takes new values while thaw runs; otherwise at start only */
};

extern const struct flag_decl flag_decls[FLAG_COUNT];

struct flags;

/**
 * struct flags_options - what flags_open() is given; all of it may be zero
 * @file: a file in flagd's format (format/flagd.h), or NULL
 * @overrides: "NAME=VALUE" texts with NULL at the end, or NULL; a later one beats an earlier one
 * @warn: told of what is wrong with the file or was ignored, one line of text each, on the thread
 *        that called; may be NULL
 */
struct flags_options {
    const char *file;
    const char *const *overrides;
    void (*warn)(void *arg, const char *text);
    void *warn_arg;
};

/**
 * flags_open() - collect the values of all sources and begin to watch the file
 *
 * The environment is read now, and only now. A file that is missing or does not hold is a warning,
 * and taken up as soon as it is right: a daemon that restarts must not fail over it. The folder
 * that it is in must exist.
 *
 * Returns: 0, -EINVAL for a wrong override or a wrong value in the environment, -ENOENT, -ENOTDIR
 * or -EACCES for the folder, -EMFILE or -ENOSPC when inotify has no room, -ENOMEM.
 */
[[gnu::warn_unused_result]] int flags_open(const struct flags_options *options, struct flags **ret,
                                           struct thaw_error *e);

/** flags_open_table() - the same with other flags than thaw's; @decls outlives @ret */
[[gnu::warn_unused_result]] int flags_open_table(const struct flag_decl *decls, size_t count,
                                                 const struct flags_options *options,
                                                 struct flags **ret, struct thaw_error *e);

/** flags_close() - release @f and all strings that it gave; NULL is allowed */
void flags_close(struct flags *f);

/** flags_fd() - poll it for POLLIN, then call flags_handle(); -1 when there is no file */
int flags_fd(const struct flags *f);

/** flags_handle() - something happened in the folder: read the file again. Does not block on @f's
 * descriptor; harmless when nothing happened. */
void flags_handle(struct flags *f);

/**
 * flags_reload() - read the file again and watch its folder anew, as on SIGHUP
 *
 * Also what picks the file up again after its folder was removed and made once more.
 */
void flags_reload(struct flags *f);

/**
 * flags_set() - set a flag as an option does, while thaw runs
 * @assignment: "NAME=VALUE"
 *
 * Returns: 0, -EINVAL as flags_check(), or -EPERM for a flag that takes no new value now.
 */
[[gnu::warn_unused_result]] int flags_set(struct flags *f, const char *assignment,
                                          struct thaw_error *e);

/** flags_check() - whether "NAME=VALUE" is a flag and a value for it; 0, or -EINVAL, naming the
 * flags there are when NAME is none of them. For a command line, before anything is opened. */
[[gnu::warn_unused_result]] int flags_check(const char *assignment, struct thaw_error *e);

/** flags_bool() - the value of a FLAG_BOOL now. Any thread. */
bool flags_bool(const struct flags *f, size_t id);

/** flags_int() - the value of a FLAG_INT now. Any thread. */
int64_t flags_int(const struct flags *f, size_t id);

/** flags_string() - the value of a FLAG_STRING now, valid until flags_close(). Any thread. */
const char *flags_string(const struct flags *f, size_t id);

/** flags_size() - the value of a FLAG_SIZE now. Any thread. */
uint64_t flags_size(const struct flags *f, size_t id);

/**
 * struct flag_report - one value and where it comes from, taken together
 * @value: "true", "42", the string
 * @origin: "default", "file PATH", "environment" or "option"; valid until flags_close()
 */
struct flag_report {
    enum flag_source source;
    char value[FLAG_VALUE_BYTES];
    const char *origin;
};

/** flags_report() - fill @ret. Any thread. */
void flags_report(struct flags *f, size_t id, struct flag_report *ret);

/** flags_source_text() - only the origin. Any thread. */
const char *flags_source_text(struct flags *f, size_t id);

#endif

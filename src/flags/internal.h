/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FLAGS_INTERNAL_H
#define THAW_FLAGS_INTERNAL_H

/* Shared by the files of this folder. */

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "flags/flags.h"

/* A string value once given out is kept until the end, because a reader may hold it. There is one
 * copy of each text, so a file that goes back and forth does not grow the list. */
struct kept_string {
    struct kept_string *next;
    char text[];
};

struct flag_state {
    union flag_value said[FLAG_SOURCES]; /* [m] by source; what a source says that says anything */
    bool says[FLAG_SOURCES];             /* [m] the default always does */
    enum flag_source source;             /* [m] the one that holds */
    bool targeting_told;                 /* [t] the warning is given once in a run */
    /* [a] The value that holds: a boolean, an integer, or a pointer to a kept string. Stored with
     * release under mu; readers load it with acquire, and so see the text that it points to. */
    _Atomic(uint64_t) value;
};

/* The file and the watch on its folder. [t] all of it */
struct flags_file {
    char *path;     /* owned; NULL without a file */
    char *folder;   /* owned */
    char *origin;   /* owned; "file PATH", for reports */
    int inotify_fd; /* owned; -1 without a file */
    int watch;      /* -1 while the folder is gone */
    int failed;     /* why the file could not be read the last time, told once; else 0 */
    bool seen;      /* @bytes is what was read the last time, whether it held or not */
    struct buf bytes;
};

struct flags {
    const struct flag_decl *decls; /* not owned */
    size_t count;
    pthread_mutex_t mu;          /* leaf */
    struct flag_state *states;   /* owned; one for each declaration */
    struct kept_string *strings; /* [t] owned */
    bool running;                /* [t] flags_open() is done: only run_time flags change now */
    struct flags_file file;
    void (*warn)(void *arg, const char *text);
    void *warn_arg;
};

/* flags.c */

/** flags_warn() - tell the owner one line */
[[gnu::format(printf, 2, 3)]] void flags_warn(const struct flags *f, const char *fmt, ...);

/** flags_say() - @source says @value for flag @id, and what holds follows; 0 or -ENOMEM. A string
 * is copied. */
[[gnu::warn_unused_result]] int flags_say(struct flags *f, size_t id, enum flag_source source,
                                          union flag_value value);

/** flags_unsay() - @source says nothing more of flag @id */
void flags_unsay(struct flags *f, size_t id, enum flag_source source);

/** flags_same() - whether two values of flag @id are equal */
bool flags_same(const struct flag_decl *d, union flag_value a, union flag_value b);

/** flags_format() - @value as text into @ret, which is returned */
const char *flags_format(const struct flag_decl *d, union flag_value value,
                         char ret[FLAG_VALUE_BYTES]);

/* text.c */

/** flag_parse_value() - a value as people write it; 0 or -EINVAL. A string is not copied. */
[[gnu::warn_unused_result]] int flag_parse_value(const struct flag_decl *d, const char *text,
                                                 union flag_value *ret, struct thaw_error *e);

/** flag_parse_assignment() - "NAME=VALUE"; 0 or -EINVAL */
[[gnu::warn_unused_result]] int flag_parse_assignment(const struct flag_decl *decls, size_t count,
                                                      const char *text, size_t *ret_id,
                                                      union flag_value *ret, struct thaw_error *e);

/** flag_type_text() - what a flag of that type takes: "true or false" */
const char *flag_type_text(enum flag_type type);

/** flags_take_environment() - the values of THAW_FLAG_NAME; 0, -EINVAL or -ENOMEM */
[[gnu::warn_unused_result]] int flags_take_environment(struct flags *f, struct thaw_error *e);

/* file.c */

/** flags_file_open() - watch the folder of @path and read the file; 0 or -errno */
[[gnu::warn_unused_result]] int flags_file_open(struct flags *f, const char *path,
                                                struct thaw_error *e);

void flags_file_close(struct flags_file *file);

#endif

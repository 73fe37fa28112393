/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_FLAGD_H
#define THAW_FORMAT_FLAGD_H

/*
 * Feature flags as flagd keeps them in a file (flagd.dev, schema v0):
 *
 *     {"flags": {"NAME": {"state": "ENABLED", "variants": {"on": true, "off": false},
 *                         "defaultVariant": "off"}}}
 *
 * What is read is the plain part: a flag that is ENABLED has the value of its default variant, one
 * that is DISABLED, or has no default variant, leaves the program its own default. Targeting rules
 * are not evaluated, only reported. What is wrong within one flag is that flag's problem; the
 * others hold. Any thread; a decoded file belongs to one at a time.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/units.h"

#define FLAGD_MAX_BYTES     MIB
#define FLAGD_MAX_FLAGS     4096 /* one file may serve a whole fleet's programs */
#define FLAGD_PROBLEM_BYTES 160

enum flagd_type {
    FLAGD_UNSET,   /* the file leaves it to the program: DISABLED, or no default variant */
    FLAGD_INVALID, /* see @problem */
    FLAGD_BOOL,
    FLAGD_INT, /* a number without a fraction, within 64 bits */
    FLAGD_STRING,
    FLAGD_OTHER, /* a fraction, an object or an array: no flag of thaw has such a value */
};

struct flagd_flag {
    const char *name; /* not owned: lives as long as the file */
    enum flagd_type type;
    union {
        bool boolean;
        int64_t integer;
        const char *string; /* not owned, as @name */
    };
    bool targeting; /* there are rules that could have chosen another variant */
    char problem[FLAGD_PROBLEM_BYTES];
};

struct flagd_file {
    void *json; /* owned; what names and strings point into */
    struct flagd_flag *flags;
    size_t count;
};

/**
 * flagd_decode() - read a file of flags; keys that are not known are ignored
 *
 * No proper beginning of a valid text is valid: a file that is only half written is refused.
 *
 * Returns: 0, -ENOMEM, or -EBADMSG with line and byte when the text is not JSON, has a key twice,
 * or has no object "flags".
 */
[[gnu::warn_unused_result]] int flagd_decode(const void *bytes, size_t len, struct flagd_file **ret,
                                             struct thaw_error *e);

/** flagd_find() - the flag of that name, or NULL */
const struct flagd_flag *flagd_find(const struct flagd_file *file, const char *name);

/** flagd_type_name() - "true or false", "an integer", "a string", "neither ..." for messages */
const char *flagd_type_name(enum flagd_type type);

/** flagd_destroy() - release @file; NULL is allowed */
void flagd_destroy(struct flagd_file *file);
DEFINE_CLEANUP(struct flagd_file, flagd_destroy);
#define CLEANUP_FLAGD CLEANUP(cleanup_flagd_destroy)

#endif

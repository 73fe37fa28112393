/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_LIBRARY_H
#define THAW_KERNEL_LIBRARY_H

/*
 * Shared libraries that are loaded by whoever first needs them, instead of by every start of the
 * program: libcurl, libnbd and libmicrohttpd bring dozens of further libraries along, which take
 * longer to load and to relocate than a resume may take. Most runs use none of the three.
 *
 * Their headers are used as ever, so that the compiler checks each call. A library has a list of
 * the functions that we call, an X macro, of which come a struct of function pointers of exactly
 * the declared types, and the names to look up:
 *
 *     #define FOO_FUNCTIONS(F) F(foo_, open) F(foo_, close)
 *
 *     struct libfoo {
 *         FOO_FUNCTIONS(LIBRARY_POINTER)
 *     };
 *
 * and foo_open(x) becomes libfoo->open(x). See libnbd.h and libnbd.c for a whole one.
 *
 * A library is never unloaded. One that cannot be loaded is tried again the next time.
 */

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>

struct thaw_error;

/* For the X macro: a member of the struct, and an element of the array of names. */
#define LIBRARY_POINTER(prefix, name) typeof(prefix##name) *name;
#define LIBRARY_NAME(prefix, name)    #prefix #name,

/**
 * struct library - one of them, a static object
 * @soname: of the ABI that the headers describe
 * @package: Debian's, that has it
 * @names: of the functions
 * @pointers: a struct of as many function pointers, in that order; not to be used before
 *     library_load() has returned 0
 */
struct library {
    const char *soname;
    const char *package;
    const char *const *names;
    size_t count;
    void *pointers;
    pthread_mutex_t mu;
    bool loaded; /* [m] mu */
};

/**
 * library_load() - load @l, unless that has been done, and look its functions up
 *
 * Any thread but those that serve a guest: it reads files, and may take milliseconds.
 *
 * Returns: 0, -ELIBACC: it cannot be loaded, or -ELIBBAD: a function is missing in it. @e says
 * which, and what to install.
 */
[[gnu::warn_unused_result]] int library_load(struct library *l, struct thaw_error *e);

#endif

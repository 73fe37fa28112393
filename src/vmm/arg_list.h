/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_ARG_LIST_H
#define THAW_VMM_ARG_LIST_H

/* A growing list of strings, NULL-terminated as exec wants it. Zero-initialised is empty. Running
 * out of memory is remembered, and looked at once, at the end. One thread. */

#include <stdbool.h>
#include <stddef.h>

#include "base/cleanup.h"

struct arg_list {
    char **v; /* owned, and so is each; NULL as long as it is empty */
    size_t n, cap;
    bool failed; /* no memory: something is missing in it */
};

/** arg_list_add() - append a copy of @text */
void arg_list_add(struct arg_list *l, const char *text);

/** arg_list_add_owned() - append @text, which becomes the list's; NULL: a failed allocation */
void arg_list_add_owned(struct arg_list *l, char *text);

/** arg_list_add_format() - append a text made as by printf */
[[gnu::format(printf, 2, 3)]] void arg_list_add_format(struct arg_list *l, const char *fmt, ...);

/** arg_list_finish() - release the strings; the list is empty then */
void arg_list_finish(struct arg_list *l);
#define CLEANUP_ARG_LIST CLEANUP(arg_list_finish)

/** strv_free() - release a NULL-terminated list of strings and each of them; NULL is allowed */
void strv_free(char **v);

#endif

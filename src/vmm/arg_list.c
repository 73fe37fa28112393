/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm/arg_list.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

void strv_free(char **v)
{
    for (size_t i = 0; v && v[i]; i++)
        free(v[i]);
    free(v);
}

void arg_list_finish(struct arg_list *l)
{
    strv_free(l->v);
    *l = (struct arg_list){0};
}

void arg_list_add_owned(struct arg_list *l, char *text)
{
    if (text && !l->failed && l->n + 1 >= l->cap) { /* always room for the NULL at the end */
        size_t cap = l->cap ? 2 * l->cap : 64;
        char **v = reallocarray(l->v, cap, sizeof(*v));

        l->failed = !v;
        if (v) {
            l->v = v;
            l->cap = cap;
        }
    }
    if (!text || l->failed) {
        l->failed = true;
        free(text);
        return;
    }
    l->v[l->n++] = text;
    l->v[l->n] = NULL;
}

void arg_list_add(struct arg_list *l, const char *text)
{
    arg_list_add_owned(l, strdup(text));
}

void arg_list_add_format(struct arg_list *l, const char *fmt, ...)
{
    char *text;
    va_list ap;

    va_start(ap, fmt);
    if (vasprintf(&text, fmt, ap) < 0)
        text = NULL;
    va_end(ap);
    arg_list_add_owned(l, text);
}

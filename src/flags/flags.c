/* SPDX-License-Identifier: Apache-2.0 */

/* What each source says of each flag, and what holds. */
#include "flags/flags.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/thread.h"
#include "flags/internal.h"

DEFINE_CLEANUP(struct flags, flags_close);

void flags_warn(const struct flags *f, const char *fmt, ...)
{
    char text[1024];
    va_list ap;

    if (!f->warn)
        return;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    f->warn(f->warn_arg, text);
}

bool flags_same(const struct flag_decl *d, union flag_value a, union flag_value b)
{
    switch (d->type) {
    case FLAG_BOOL:
        return a.boolean == b.boolean;
    case FLAG_INT:
        return a.integer == b.integer;
    case FLAG_SIZE:
        return a.bytes == b.bytes;
    default:
        return strcmp(a.string, b.string) == 0;
    }
}

const char *flags_format(const struct flag_decl *d, union flag_value value,
                         char ret[FLAG_VALUE_BYTES])
{
    switch (d->type) {
    case FLAG_BOOL:
        snprintf(ret, FLAG_VALUE_BYTES, "%s", value.boolean ? "true" : "false");
        break;
    case FLAG_INT:
        snprintf(ret, FLAG_VALUE_BYTES, "%" PRId64, value.integer);
        break;
    case FLAG_SIZE:
        snprintf(ret, FLAG_VALUE_BYTES, "%" PRIu64, value.bytes);
        break;
    default:
        snprintf(ret, FLAG_VALUE_BYTES, "%s", value.string);
    }
    return ret;
}

static uint64_t to_word(const struct flag_decl *d, union flag_value value)
{
    switch (d->type) {
    case FLAG_BOOL:
        return value.boolean;
    case FLAG_INT:
        return (uint64_t)value.integer;
    case FLAG_SIZE:
        return value.bytes;
    default:
        return (uintptr_t)value.string;
    }
}

/* The strongest source that says something gives the value. */
static void settle_locked(const struct flag_decl *d, struct flag_state *s)
{
    size_t source = FLAG_SOURCES - 1;

    while (!s->says[source])
        source--;
    s->source = (enum flag_source)source;
    atomic_store_explicit(&s->value, to_word(d, s->said[source]), memory_order_release);
}

/* @text for as long as @f lives, or NULL */
static const char *keep_string(struct flags *f, const char *text)
{
    size_t size = strlen(text) + 1;
    struct kept_string *k;

    for (k = f->strings; k; k = k->next) {
        if (strcmp(k->text, text) == 0)
            return k->text;
    }
    k = malloc(sizeof(*k) + size);
    if (!k)
        return NULL;
    memcpy(k->text, text, size);
    k->next = f->strings;
    f->strings = k;
    return k->text;
}

int flags_say(struct flags *f, size_t id, enum flag_source source, union flag_value value)
{
    struct flag_state *s = &f->states[id];

    if (f->decls[id].type == FLAG_STRING) {
        value.string = keep_string(f, value.string);
        if (!value.string)
            return -ENOMEM;
    }
    LOCK_SCOPE(&f->mu);
    s->said[source] = value;
    s->says[source] = true;
    settle_locked(&f->decls[id], s);
    return 0;
}

void flags_unsay(struct flags *f, size_t id, enum flag_source source)
{
    LOCK_SCOPE(&f->mu);
    f->states[id].says[source] = false;
    settle_locked(&f->decls[id], &f->states[id]);
}

static int take_defaults(struct flags *f, struct thaw_error *e)
{
    for (size_t i = 0; i < f->count; i++) {
        if (flags_say(f, i, FLAG_FROM_DEFAULT, f->decls[i].initial) < 0)
            return err_set(e, -ENOMEM, "flags: no memory");
    }
    return 0;
}

int flags_set(struct flags *f, const char *assignment, struct thaw_error *e)
{
    union flag_value value;
    size_t id = 0;
    int r = flag_parse_assignment(f->decls, f->count, assignment, &id, &value, e);

    if (r < 0)
        return r;
    if (f->running && !f->decls[id].run_time)
        return err_set(e, -EPERM, "flag %s is read when thaw starts: start it again with --flag %s",
                       f->decls[id].name, assignment);
    if (flags_say(f, id, FLAG_FROM_OPTION, value) < 0)
        return err_set(e, -ENOMEM, "flags: no memory");
    return 0;
}

static int take_overrides(struct flags *f, const char *const *overrides, struct thaw_error *e)
{
    int r = 0;

    for (; r == 0 && overrides && *overrides; overrides++)
        r = flags_set(f, *overrides, e);
    return r;
}

int flags_open_table(const struct flag_decl *decls, size_t count,
                     const struct flags_options *options, struct flags **ret, struct thaw_error *e)
{
    struct flags *f CLEANUP(cleanup_flags_close) = calloc(1, sizeof(*f));
    int r;

    if (!f)
        return err_set(e, -ENOMEM, "flags: no memory");
    f->decls = decls;
    f->count = count;
    f->warn = options->warn;
    f->warn_arg = options->warn_arg;
    f->file.inotify_fd = f->file.watch = -1;
    pthread_mutex_init(&f->mu, NULL);
    f->states = calloc(count, sizeof(*f->states));
    if (!f->states)
        return err_set(e, -ENOMEM, "flags: no memory");
    r = take_defaults(f, e);
    if (r == 0)
        r = flags_take_environment(f, e);
    if (r == 0)
        r = take_overrides(f, options->overrides, e);
    if (r == 0 && options->file)
        r = flags_file_open(f, options->file, e);
    if (r < 0)
        return r;
    f->running = true;
    *ret = TAKE_PTR(f);
    return 0;
}

int flags_open(const struct flags_options *options, struct flags **ret, struct thaw_error *e)
{
    return flags_open_table(flag_decls, FLAG_COUNT, options, ret, e);
}

void flags_close(struct flags *f)
{
    if (!f)
        return;
    flags_file_close(&f->file);
    while (f->strings) {
        struct kept_string *k = f->strings;

        f->strings = k->next;
        free(k);
    }
    free(f->states);
    pthread_mutex_destroy(&f->mu);
    free(f);
}

static uint64_t read_word(const struct flags *f, size_t id, enum flag_type type)
{
    assert(id < f->count && f->decls[id].type == type);
    return atomic_load_explicit(&f->states[id].value, memory_order_acquire);
}

bool flags_bool(const struct flags *f, size_t id)
{
    return read_word(f, id, FLAG_BOOL) != 0;
}

int64_t flags_int(const struct flags *f, size_t id)
{
    return (int64_t)read_word(f, id, FLAG_INT);
}

const char *flags_string(const struct flags *f, size_t id)
{
    return (const char *)(uintptr_t)read_word(f, id, FLAG_STRING);
}

uint64_t flags_size(const struct flags *f, size_t id)
{
    return read_word(f, id, FLAG_SIZE);
}

static const char *origin(const struct flags *f, enum flag_source source)
{
    switch (source) {
    case FLAG_FROM_FILE:
        return f->file.origin;
    case FLAG_FROM_ENVIRONMENT:
        return "environment";
    case FLAG_FROM_OPTION:
        return "option";
    default:
        return "default";
    }
}

void flags_report(struct flags *f, size_t id, struct flag_report *ret)
{
    const struct flag_state *s = &f->states[id];

    assert(id < f->count);
    LOCK_SCOPE(&f->mu);
    ret->source = s->source;
    ret->origin = origin(f, s->source);
    flags_format(&f->decls[id], s->said[s->source], ret->value);
}

const char *flags_source_text(struct flags *f, size_t id)
{
    struct flag_report report;

    flags_report(f, id, &report);
    return report.origin;
}

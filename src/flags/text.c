/* SPDX-License-Identifier: Apache-2.0 */

/* Flags as people write them: NAME=VALUE in options, THAW_FLAG_NAME in the environment. */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/size.h"
#include "base/units.h"
#include "flags/internal.h"

#define ENVIRONMENT_NAME_BYTES (sizeof(FLAG_ENVIRONMENT_PREFIX) + FLAG_NAME_MAX)

static int parse_bool(const char *text, union flag_value *ret)
{
    static const char *const words[][2] = {{"false", "true"}, {"off", "on"}, {"0", "1"}};

    for (size_t i = 0; i < ARRAY_SIZE(words); i++) {
        for (size_t value = 0; value < 2; value++) {
            if (strcmp(text, words[i][value]) == 0) {
                ret->boolean = value;
                return 0;
            }
        }
    }
    return -EINVAL;
}

static int parse_int(const char *text, union flag_value *ret)
{
    size_t sign = text[0] == '-';
    intmax_t value;

    if (text[sign] == '\0' || strspn(text + sign, "0123456789") != strlen(text + sign))
        return -EINVAL;
    errno = 0;
    value = strtoimax(text, NULL, 10);
    if (errno != 0)
        return -EINVAL;
    ret->integer = value;
    return 0;
}

static int parse_string(const char *text, union flag_value *ret)
{
    if (strlen(text) > FLAG_STRING_MAX)
        return -EINVAL;
    ret->string = text;
    return 0;
}

static int parse_size(const char *text, union flag_value *ret)
{
    uint64_t bytes = 0;

    if (text[0] != '\0' && size_parse(text, &bytes) < 0)
        return -EINVAL;
    ret->bytes = bytes;
    return 0;
}

const char *flag_type_text(enum flag_type type)
{
    static const char *const texts[] = {
        [FLAG_BOOL] = "true or false",
        [FLAG_INT] = "an integer",
        [FLAG_STRING] = "a string of at most 255 bytes",
        [FLAG_SIZE] = "a size such as 512M, or a number of bytes",
    };

    return texts[type];
}

int flag_parse_value(const struct flag_decl *d, const char *text, union flag_value *ret,
                     struct thaw_error *e)
{
    static int (*const parse[])(const char *, union flag_value *) = {
        [FLAG_BOOL] = parse_bool,
        [FLAG_INT] = parse_int,
        [FLAG_STRING] = parse_string,
        [FLAG_SIZE] = parse_size,
    };

    if (parse[d->type](text, ret) == 0)
        return 0;
    return err_set(e, -EINVAL, "flag %s takes %s, not \"%.64s\"", d->name, flag_type_text(d->type),
                   text);
}

static int no_such_flag(const struct flag_decl *decls, size_t count, const char *name,
                        size_t name_len, struct thaw_error *e)
{
    char names[512] = "";
    size_t used = 0;

    for (size_t i = 0; i < count && used < sizeof(names); i++)
        used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", i > 0 ? ", " : "",
                                 decls[i].name);
    if (name_len > FLAG_NAME_MAX)
        name_len = FLAG_NAME_MAX;
    return err_set(e, -EINVAL, "there is no flag \"%.*s\"; flags are: %s", (int)name_len, name,
                   names);
}

int flag_parse_assignment(const struct flag_decl *decls, size_t count, const char *text,
                          size_t *ret_id, union flag_value *ret, struct thaw_error *e)
{
    size_t name_len = strcspn(text, "=");
    size_t id = 0;
    int r;

    while (id < count &&
           (strlen(decls[id].name) != name_len || strncmp(decls[id].name, text, name_len) != 0))
        id++;
    if (id == count)
        return no_such_flag(decls, count, text, name_len, e);
    if (text[name_len] != '=')
        return err_set(e, -EINVAL, "flag %s is given no value: write %s=VALUE, where VALUE is %s",
                       decls[id].name, decls[id].name, flag_type_text(decls[id].type));
    r = flag_parse_value(&decls[id], text + name_len + 1, ret, e);
    if (r == 0)
        *ret_id = id;
    return r;
}

int flags_check(const char *assignment, struct thaw_error *e)
{
    union flag_value value;
    size_t id;

    return flag_parse_assignment(flag_decls, FLAG_COUNT, assignment, &id, &value, e);
}

/* As in the name of a variable; toupper(3) would ask the locale. */
static char in_capitals(char c)
{
    if (c == '-')
        return '_';
    if (c >= 'a' && c <= 'z')
        return "ABCDEFGHIJKLMNOPQRSTUVWXYZ"[c - 'a'];
    return c;
}

/* "local-cache-memfd" is THAW_FLAG_LOCAL_CACHE_MEMFD. */
static const char *environment_name(const char *flag, char ret[ENVIRONMENT_NAME_BYTES])
{
    size_t n = strlen(FLAG_ENVIRONMENT_PREFIX);

    memcpy(ret, FLAG_ENVIRONMENT_PREFIX, n);
    for (; *flag && n + 1 < ENVIRONMENT_NAME_BYTES; flag++)
        ret[n++] = in_capitals(*flag);
    ret[n] = '\0';
    return ret;
}

static bool known_in_environment(const struct flags *f, const char *entry)
{
    char name[ENVIRONMENT_NAME_BYTES];

    for (size_t i = 0; i < f->count; i++) {
        size_t len = strlen(environment_name(f->decls[i].name, name));

        if (strncmp(entry, name, len) == 0 && entry[len] == '=')
            return true;
    }
    return false;
}

/* No error: another version of thaw that shares this environment may have that flag. */
static void warn_of_unknown(const struct flags *f)
{
    for (char **entry = environ; entry && *entry; entry++) {
        if (strncmp(*entry, FLAG_ENVIRONMENT_PREFIX, strlen(FLAG_ENVIRONMENT_PREFIX)) == 0 &&
            !known_in_environment(f, *entry))
            flags_warn(f, "the environment has %.*s, which is no flag of this thaw: ignored",
                       (int)strcspn(*entry, "="), *entry);
    }
}

int flags_take_environment(struct flags *f, struct thaw_error *e)
{
    char name[ENVIRONMENT_NAME_BYTES];

    for (size_t i = 0; i < f->count; i++) {
        const char *text = getenv(environment_name(f->decls[i].name, name));
        union flag_value value;
        int r;

        if (!text)
            continue;
        r = flag_parse_value(&f->decls[i], text, &value, e);
        if (r < 0) {
            err_wrap(e, "environment variable %s", name);
            return r;
        }
        if (flags_say(f, i, FLAG_FROM_ENVIRONMENT, value) < 0)
            return err_set(e, -ENOMEM, "flags: no memory");
    }
    warn_of_unknown(f);
    return 0;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FLAGS_FIXTURE_H
#define THAW_TESTS_FLAGS_FIXTURE_H

/* Flags of our own, a file for them in a folder of its own, and the warnings that they give. */

#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "flags/flags.h"
#include "scratch.h"
#include "unit.h"

/* The flags of most tests: one of each type, and one that is read at the start only. */
enum { SWITCH, NUMBER, TEXT, FIXED, SIZE, TABLE_COUNT };

static const struct flag_decl table[TABLE_COUNT] = {
    [SWITCH] = {"test-switch", "a switch", {.boolean = false}, FLAG_BOOL, true},
    [NUMBER] = {"test-number", "a number", {.integer = 7}, FLAG_INT, true},
    [TEXT] = {"test-text", "a text", {.string = "plain"}, FLAG_STRING, true},
    [FIXED] = {"test-fixed", "a number that is read once", {.integer = 1}, FLAG_INT, false},
    [SIZE] = {"test-size", "a size", {.bytes = 4096}, FLAG_SIZE, true},
};

struct fixture {
    char *folder;
    char *path;          /* of the file of flags */
    char warnings[8192]; /* a line each */
    size_t warning_count;
    struct flags *flags;
};

static inline void take_warning(void *arg, const char *text)
{
    struct fixture *fx = arg;
    size_t used = strlen(fx->warnings);

    snprintf(fx->warnings + used, sizeof(fx->warnings) - used, "%s\n", text);
    fx->warning_count++;
}

static inline void forget_warnings(struct fixture *fx)
{
    fx->warnings[0] = '\0';
    fx->warning_count = 0;
}

/** assert_warned() - exactly one warning, with @a and @b in it */
static inline void assert_warned(struct fixture *fx, const char *a, const char *b)
{
    if (fx->warning_count != 1 || !strstr(fx->warnings, a) || !strstr(fx->warnings, b))
        fail_msg("one warning with '%s' and '%s' was expected, not %zu: %s", a, b,
                 fx->warning_count, fx->warnings);
    forget_warnings(fx);
}

static inline void assert_silent(const struct fixture *fx)
{
    if (fx->warning_count != 0)
        fail_msg("no warning was expected, not: %s", fx->warnings);
}

static inline int setup(void **state)
{
    struct fixture *fx = calloc(1, sizeof(*fx));

    fx->folder = scratch_make();
    fx->path = scratch_path(fx->folder, "flags.json");
    *state = fx;
    return 0;
}

static inline int teardown(void **state)
{
    struct fixture *fx = *state;

    flags_close(fx->flags);
    unsetenv("THAW_FLAG_TEST_SWITCH");
    unsetenv("THAW_FLAG_TEST_NUMBER");
    unsetenv("THAW_FLAG_TEST_SWITCHES");
    free(fx->path);
    scratch_remove(fx->folder);
    free(fx);
    return 0;
}

static inline int try_open(struct fixture *fx, const char *file, const char *const *overrides,
                           struct thaw_error *e)
{
    struct flags_options o = {file, overrides, take_warning, fx};

    return flags_open_table(table, TABLE_COUNT, &o, &fx->flags, e);
}

static inline void open_all(struct fixture *fx, const char *file, const char *const *overrides)
{
    struct thaw_error e = THAW_ERROR_INIT;

    if (try_open(fx, file, overrides, &e) != 0)
        fail_msg("%s", e.text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

/* --- the file --- */

static inline void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/** replace_file() - through another name: nobody ever sees a part */
static inline void replace_file(const char *path, const char *text)
{
    char *other;

    assert_true(asprintf(&other, "%s.new", path) > 0);
    write_file(other, text);
    assert_int_equal(rename(other, path), 0);
    free(other);
}

#define FLAG_TEXT(name, value)                                                                     \
    "\"" name "\": {\"state\": \"ENABLED\", \"variants\": {\"a\": " value                          \
    "}, \"defaultVariant\": \"a\"}"
#define FILE_TEXT(...) "{\"flags\": {" __VA_ARGS__ "}}"

static const char number_8[] = FILE_TEXT(FLAG_TEXT("test-number", "8"));

#endif

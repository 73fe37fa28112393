/* SPDX-License-Identifier: Apache-2.0 */

/* What a flag is: by default, from the file, the environment and options; and how it is written. */
#include "flags_fixture.h"

#include <errno.h>
#include <inttypes.h>

#include "base/bytes.h"
#include "base/units.h"

static void assert_origin(struct fixture *fx, size_t id, enum flag_source source, const char *value,
                          const char *origin)
{
    struct flag_report r;

    flags_report(fx->flags, id, &r);
    assert_int_equal(r.source, source);
    assert_string_equal(r.value, value);
    assert_string_equal(r.origin, origin);
    assert_string_equal(flags_source_text(fx->flags, id), origin);
}

static void test_defaults(void **state)
{
    struct fixture *fx = *state;

    open_all(fx, NULL, NULL);
    assert_int_equal(flags_fd(fx->flags), -1);
    flags_handle(fx->flags);
    flags_reload(fx->flags);
    assert_false(flags_bool(fx->flags, SWITCH));
    assert_int_equal(flags_int(fx->flags, NUMBER), 7);
    assert_string_equal(flags_string(fx->flags, TEXT), "plain");
    assert_origin(fx, SWITCH, FLAG_FROM_DEFAULT, "false", "default");
    assert_silent(fx);
}

static void test_thaws_own(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct flags *f = NULL;
    struct flags_options none = {0};

    (void)state;
    assert_int_equal(flags_open(&none, &f, &e), 0);
    assert_false(flags_bool(f, FLAG_LOCAL_CACHE_MEMFD));
    assert_int_equal(flags_set(f, "local-cache-memfd=true", &e), 0);
    assert_true(flags_bool(f, FLAG_LOCAL_CACHE_MEMFD));
    flags_close(f);
    for (size_t i = 0; i < FLAG_COUNT; i++) {
        const char *name = flag_decls[i].name;

        assert_in_range(strlen(name), 1, FLAG_NAME_MAX);
        assert_int_equal(strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-"), strlen(name));
    }
}

/* Each source beats those before it, whatever they say. */
static void test_precedence(void **state)
{
    struct fixture *fx = *state;
    const char *const option[] = {"test-switch=on", "test-switch=false", "test-number=-3", NULL};
    char from_file[4096];

    snprintf(from_file, sizeof(from_file), "file %s", fx->path);
    write_file(fx->path, FILE_TEXT(FLAG_TEXT("test-switch", "true") "," FLAG_TEXT(
                             "test-number", "70") "," FLAG_TEXT("test-text", "\"filed\"")));
    open_all(fx, fx->path, NULL);
    assert_origin(fx, SWITCH, FLAG_FROM_FILE, "true", from_file);
    assert_origin(fx, NUMBER, FLAG_FROM_FILE, "70", from_file);
    assert_origin(fx, TEXT, FLAG_FROM_FILE, "filed", from_file);
    assert_origin(fx, FIXED, FLAG_FROM_DEFAULT, "1", "default");
    flags_close(TAKE_PTR(fx->flags));

    setenv("THAW_FLAG_TEST_NUMBER", "71", 1);
    open_all(fx, fx->path, NULL);
    assert_origin(fx, NUMBER, FLAG_FROM_ENVIRONMENT, "71", "environment");
    flags_close(TAKE_PTR(fx->flags));

    open_all(fx, fx->path, option);
    assert_origin(fx, NUMBER, FLAG_FROM_OPTION, "-3", "option");
    assert_origin(fx, SWITCH, FLAG_FROM_OPTION, "false", "option");
    assert_int_equal(flags_int(fx->flags, NUMBER), -3);
    replace_file(fx->path, FILE_TEXT(FLAG_TEXT("test-number", "72")));
    flags_handle(fx->flags);
    assert_int_equal(flags_int(fx->flags, NUMBER), -3);
    assert_silent(fx);
}

static void assert_refused(struct fixture *fx, const char *assignment, const char *cause)
{
    struct thaw_error e = THAW_ERROR_INIT;
    const char *const overrides[] = {assignment, NULL};

    assert_int_equal(try_open(fx, NULL, overrides, &e), -EINVAL);
    assert_null(fx->flags);
    if (!strstr(e.text, cause))
        fail_msg("'%s' was expected in: %s", cause, e.text);
}

static void test_bad_options(void **state)
{
    struct fixture *fx = *state;
    struct thaw_error e = THAW_ERROR_INIT;
    char *lengthy;

    assert_refused(fx, "test-swich=on", "test-switch, test-number, test-text, test-fixed");
    assert_refused(fx, "", "there is no flag \"\"");
    assert_refused(fx, "=on", "there is no flag \"\"");
    assert_refused(fx, "test-switch", "write test-switch=VALUE, where VALUE is true or false");
    assert_refused(fx, "test-switch=maybe", "true or false, not \"maybe\"");
    assert_refused(fx, "test-switch=", "true or false");
    assert_refused(fx, "test-number=1x", "an integer, not \"1x\"");
    assert_refused(fx, "test-number=-", "an integer");
    assert_refused(fx, "test-number= 1", "an integer");
    assert_refused(fx, "test-number=9223372036854775808", "an integer");
    assert_true(asprintf(&lengthy, "test-text=%0*d", FLAG_STRING_MAX + 1, 0) > 0);
    assert_refused(fx, lengthy, "at most 255 bytes");
    free(lengthy);
    assert_int_equal(flags_check("local-cache-memfd=1", &e), 0);
    assert_int_equal(flags_check("local-cache-memfd=2", &e), -EINVAL);
    assert_int_equal(flags_check("no-such=1", &e), -EINVAL);
    assert_non_null(strstr(e.text, "flags are: local-cache-memfd"));
}

static void test_environment(void **state)
{
    struct fixture *fx = *state;
    struct thaw_error e = THAW_ERROR_INIT;

    setenv("THAW_FLAG_TEST_SWITCH", "perhaps", 1);
    assert_int_equal(try_open(fx, NULL, NULL, &e), -EINVAL);
    assert_non_null(strstr(e.text, "environment variable THAW_FLAG_TEST_SWITCH: flag test-switch"));
    setenv("THAW_FLAG_TEST_SWITCH", "1", 1);
    setenv("THAW_FLAG_TEST_SWITCHES", "1", 1);
    open_all(fx, NULL, NULL);
    assert_true(flags_bool(fx->flags, SWITCH));
    assert_warned(fx, "THAW_FLAG_TEST_SWITCHES", "no flag");
}

/* What is no plain value leaves the default or what held before, each with its cause. */
static void test_file_entries(void **state)
{
    struct fixture *fx = *state;
    static const struct {
        const char *entry, *cause;
    } bad[] = {
        {FLAG_TEXT("test-number", "\"8\""), "its value is a string, but must be an integer"},
        {FLAG_TEXT("test-number", "8.5"), "neither"},
        {FLAG_TEXT("test-number", "null"), "null"},
        {"\"test-number\": 8", "not a JSON object"},
        {"\"test-number\": {\"state\": \"on\"}", "neither ENABLED nor DISABLED"},
        {"\"test-number\": {}", "\"state\" is missing"},
        {"\"test-number\": {\"state\": \"ENABLED\"}", "\"variants\" is missing"},
        {"\"test-number\": {\"state\": \"ENABLED\", \"variants\": {\"a\": 1}, "
         "\"defaultVariant\": \"b\"}",
         "is \"b\", which is none"},
    };

    write_file(fx->path, number_8);
    open_all(fx, fx->path, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        char text[512];

        snprintf(text, sizeof(text), "{\"flags\": {%s, %s}}", bad[i].entry,
                 i % 2 ? FLAG_TEXT("test-switch", "true") : FLAG_TEXT("test-switch", "false"));
        replace_file(fx->path, text);
        flags_handle(fx->flags);
        assert_int_equal(flags_int(fx->flags, NUMBER), 8);
        assert_int_equal(flags_bool(fx->flags, SWITCH), i % 2);
        assert_non_null(strstr(fx->warnings, fx->path));
        assert_warned(fx, "flag test-number: ", bad[i].cause);
    }
    replace_file(fx->path, FILE_TEXT(FLAG_TEXT("test-number", "11.0") "," //
                                     FLAG_TEXT("another-program", "1")));
    flags_handle(fx->flags);
    assert_int_equal(flags_int(fx->flags, NUMBER), 11);
    replace_file(fx->path, "{\"flags\": {\"test-number\": {\"state\": \"DISABLED\", "
                           "\"variants\": {\"a\": 1}, \"defaultVariant\": \"a\"}}}");
    flags_handle(fx->flags);
    assert_origin(fx, NUMBER, FLAG_FROM_DEFAULT, "7", "default");
    replace_file(fx->path, "{\"flags\": {\"test-number\": {\"state\": \"ENABLED\", "
                           "\"variants\": {\"a\": 1}, \"defaultVariant\": null}}}");
    flags_handle(fx->flags);
    assert_origin(fx, NUMBER, FLAG_FROM_DEFAULT, "7", "default");
    assert_silent(fx);
}

/* A size is a string as people write it, or a number of bytes; an empty one is 0. */
static void test_sizes(void **state)
{
    static const struct {
        const char *text; /* JSON */
        uint64_t bytes;   /* 0: refused, which the warning says with @why */
        const char *why;
    } cases[] = {
        {"\"512M\"", 512 * MIB, NULL},     {"1048576", MIB, NULL},
        {"\"lots\"", 0, "\"lots\""},       {"-1", 0, "negative"},
        {"\"-1\"", 0, "a size such as"},   {"true", 0, "a size such as"},
        {"\"99999999999T\"", 0, "a size"}, {"1.5", 0, "a size such as"},
        {"\"64k\"", 64 * KIB, NULL},
    };
    static const char *const options[] = {"test-size=2G", NULL};
    struct fixture *fx = *state;
    uint64_t now = 4096;

    write_file(fx->path, "{\"flags\": {}}");
    open_all(fx, fx->path, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(cases); i++) {
        char text[256];

        snprintf(text, sizeof(text),
                 "{\"flags\": {\"test-size\": {\"state\": \"ENABLED\", \"variants\": "
                 "{\"a\": %s}, \"defaultVariant\": \"a\"}}}",
                 cases[i].text);
        write_file(fx->path, text);
        flags_reload(fx->flags);
        if (cases[i].bytes)
            now = cases[i].bytes;
        else
            assert_warned(fx, "flag test-size", cases[i].why);
        assert_int_equal(flags_size(fx->flags, SIZE), now);
        assert_silent(fx);
    }
    assert_int_equal(flags_set(fx->flags, "test-size=", NULL), 0);
    assert_int_equal(flags_size(fx->flags, SIZE), 0);
    assert_int_equal(flags_set(fx->flags, "test-size=1X", NULL), -EINVAL);
    flags_close(fx->flags);
    open_all(fx, NULL, options);
    assert_origin(fx, SIZE, FLAG_FROM_OPTION, "2147483648", "option");
}

static void test_targeting(void **state)
{
    struct fixture *fx = *state;
    static const char with_rules[] =
        "{\"flags\": {\"test-number\": {\"state\": \"ENABLED\", \"variants\": {\"a\": 5, \"b\": "
        "6}, "
        "\"defaultVariant\": \"a\", \"targeting\": {\"if\": [true, \"b\", null]}}}}";

    write_file(fx->path, with_rules);
    open_all(fx, fx->path, NULL);
    assert_int_equal(flags_int(fx->flags, NUMBER), 5);
    assert_warned(fx, "flag test-number has targeting rules", "default variant");
    flags_reload(fx->flags);
    replace_file(fx->path, number_8);
    flags_handle(fx->flags);
    replace_file(fx->path, with_rules);
    flags_handle(fx->flags);
    assert_int_equal(flags_int(fx->flags, NUMBER), 5);
    assert_silent(fx);
}

static void test_read_once(void **state)
{
    struct fixture *fx = *state;
    struct thaw_error e = THAW_ERROR_INIT;

    write_file(fx->path, FILE_TEXT(FLAG_TEXT("test-fixed", "2")));
    open_all(fx, fx->path, NULL);
    replace_file(fx->path, FILE_TEXT(FLAG_TEXT("test-fixed", "3")));
    flags_handle(fx->flags);
    assert_int_equal(flags_int(fx->flags, FIXED), 2);
    assert_warned(fx, "test-fixed", "when thaw starts again");
    replace_file(fx->path, FILE_TEXT(""));
    flags_handle(fx->flags);
    assert_int_equal(flags_int(fx->flags, FIXED), 2);
    assert_warned(fx, "test-fixed", "when thaw starts again");
    replace_file(fx->path, FILE_TEXT(FLAG_TEXT("test-fixed", "2")));
    flags_handle(fx->flags);
    assert_silent(fx);
    assert_int_equal(flags_set(fx->flags, "test-fixed=4", &e), -EPERM);
    assert_int_equal(flags_set(fx->flags, "test-number=4", &e), 0);
    assert_int_equal(flags_int(fx->flags, NUMBER), 4);
}

/* --- the manual --- */

static const char *manual_path;

/* "*NAME* (TYPE, default _VALUE_, at run time)" begins the entry of each flag. */
static void manual_line(const struct flag_decl *d, char *ret, size_t len)
{
    static const char *const types[] = {"boolean", "integer", "string", "size"};
    char value[32];

    if (d->type == FLAG_INT)
        snprintf(value, sizeof(value), "%" PRId64, d->initial.integer);
    if (d->type == FLAG_SIZE)
        snprintf(value, sizeof(value), "%" PRIu64, d->initial.bytes);
    snprintf(ret, len, "\n*%s* (%s, default _%s_%s)\n", d->name, types[d->type],
             d->type == FLAG_INT || d->type == FLAG_SIZE ? value
             : d->type == FLAG_STRING                    ? d->initial.string
             : d->initial.boolean                        ? "true"
                                                         : "false",
             d->run_time ? ", at run time" : "");
}

static void test_manual(void **state)
{
    static char page[65536];
    FILE *f;
    size_t described = 0;

    (void)state;
    if (!manual_path)
        skip();
    f = fopen(manual_path, "re");
    assert_non_null(f);
    page[fread(page, 1, sizeof(page) - 1, f)] = '\0';
    fclose(f);
    for (size_t i = 0; i < FLAG_COUNT; i++) {
        char line[512];

        manual_line(&flag_decls[i], line, sizeof(line));
        if (!strstr(page, line))
            fail_msg("thaw-flags.5.scd has no line '%s'", line);
    }
    for (const char *at = page; (at = strstr(at, ", default _")); at++)
        described++;
    assert_int_equal(described, FLAG_COUNT);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        TEST(test_defaults),           TEST(test_thaws_own),   TEST(test_precedence),
        TEST(test_bad_options),        TEST(test_environment), TEST(test_file_entries),
        TEST(test_targeting),          TEST(test_read_once),   TEST(test_sizes),
        cmocka_unit_test(test_manual),
    };

    manual_path = argc > 1 ? argv[1] : NULL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "flags/flags.h"

#include <errno.h>
#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/units.h"
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

static void take_warning(void *arg, const char *text)
{
    struct fixture *fx = arg;
    size_t used = strlen(fx->warnings);

    snprintf(fx->warnings + used, sizeof(fx->warnings) - used, "%s\n", text);
    fx->warning_count++;
}

static void forget_warnings(struct fixture *fx)
{
    fx->warnings[0] = '\0';
    fx->warning_count = 0;
}

/* Exactly one warning, with @a and @b in it. */
static void assert_warned(struct fixture *fx, const char *a, const char *b)
{
    if (fx->warning_count != 1 || !strstr(fx->warnings, a) || !strstr(fx->warnings, b))
        fail_msg("one warning with '%s' and '%s' was expected, not %zu: %s", a, b,
                 fx->warning_count, fx->warnings);
    forget_warnings(fx);
}

static void assert_silent(const struct fixture *fx)
{
    if (fx->warning_count != 0)
        fail_msg("no warning was expected, not: %s", fx->warnings);
}

static int setup(void **state)
{
    struct fixture *fx = calloc(1, sizeof(*fx));

    fx->folder = scratch_make();
    fx->path = scratch_path(fx->folder, "flags.json");
    *state = fx;
    return 0;
}

static int teardown(void **state)
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

static int try_open(struct fixture *fx, const char *file, const char *const *overrides,
                    struct thaw_error *e)
{
    struct flags_options o = {file, overrides, take_warning, fx};

    return flags_open_table(table, TABLE_COUNT, &o, &fx->flags, e);
}

static void open_all(struct fixture *fx, const char *file, const char *const *overrides)
{
    struct thaw_error e = THAW_ERROR_INIT;

    if (try_open(fx, file, overrides, &e) != 0)
        fail_msg("%s", e.text);
}

static void write_file(const char *path, const char *text)
{
    FILE *f = fopen(path, "we");

    assert_non_null(f);
    assert_true(fputs(text, f) >= 0);
    assert_int_equal(fclose(f), 0);
}

/* Only through a name of its own: nobody ever sees a part. */
static void replace_file(const char *path, const char *text)
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
static const char number_9[] = FILE_TEXT(FLAG_TEXT("test-number", "9"));

/* An event in the folder that says nothing of the file. */
static void touch_neighbour(struct fixture *fx)
{
    char *path = scratch_path(fx->folder, "neighbour");

    write_file(path, "x");
    free(path);
    flags_handle(fx->flags);
}

/* Until the number is @value, by nothing but events. */
static void await_number(struct fixture *fx, int64_t value)
{
    while (flags_int(fx->flags, NUMBER) != value) {
        struct pollfd p = {.fd = flags_fd(fx->flags), .events = POLLIN};

        assert_int_equal(poll(&p, 1, 60000), 1);
        flags_handle(fx->flags);
    }
}

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

static void test_events(void **state)
{
    struct fixture *fx = *state;

    write_file(fx->path, number_8);
    open_all(fx, fx->path, NULL);
    assert_int_equal(flags_int(fx->flags, NUMBER), 8);
    write_file(fx->path, number_9); /* in place; parts of it may be seen, and told of */
    await_number(fx, 9);
    forget_warnings(fx);
    replace_file(fx->path, number_8);
    await_number(fx, 8);
    assert_int_equal(unlink(fx->path), 0);
    flags_handle(fx->flags);
    touch_neighbour(fx);
    assert_int_equal(flags_int(fx->flags, NUMBER), 8);
    assert_warned(fx, fx->path, "No such file");
    replace_file(fx->path, number_9);
    await_number(fx, 9);
    assert_silent(fx);
}

/* Garbage of each kind changes nothing and is told of once. */
static void test_garbage(void **state)
{
    struct fixture *fx = *state;
    static const char *const texts[] = {
        "", "{", "[]", "{\"flags\": []}", "{\"flags\": {\"a\": {}, \"a\": {}}}", "\xff\xfe\x01",
    };

    write_file(fx->path, number_8);
    open_all(fx, fx->path, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(texts); i++) {
        replace_file(fx->path, texts[i]);
        flags_handle(fx->flags);
        touch_neighbour(fx);
        assert_int_equal(flags_int(fx->flags, NUMBER), 8);
        assert_warned(fx, fx->path, "stay as they are");
    }
    flags_reload(fx->flags); /* whoever asks is told again */
    assert_warned(fx, fx->path, "stay as they are");
    replace_file(fx->path, number_9);
    await_number(fx, 9);
}

/* Every beginning of the file, as a slow writer leaves it. */
static void test_half_written(void **state)
{
    struct fixture *fx = *state;

    write_file(fx->path, number_8);
    open_all(fx, fx->path, NULL);
    for (size_t len = 0; len < strlen(number_9); len++) {
        char part[sizeof(number_9)] = "";

        memcpy(part, number_9, len);
        write_file(fx->path, part);
        flags_handle(fx->flags);
        assert_int_equal(flags_int(fx->flags, NUMBER), 8);
    }
    write_file(fx->path, number_9);
    await_number(fx, 9);
}

/* Folder/flags.json -> ..data/flags.json, ..data -> ..1; a new version renames ..data only. */
static void test_config_map(void **state)
{
    struct fixture *fx = *state;
    char *data = scratch_path(fx->folder, "..data"), *next = scratch_path(fx->folder, "..next");

    for (int version = 1; version <= 4; version++) {
        char name[16], text[256];
        char *folder, *file;

        snprintf(name, sizeof(name), "..%d", version);
        folder = scratch_path(fx->folder, name);
        file = scratch_path(folder, "flags.json");
        assert_int_equal(mkdir(folder, 0755), 0);
        snprintf(text, sizeof(text), FILE_TEXT(FLAG_TEXT("test-number", "%d")), 100 + version);
        write_file(file, text);
        assert_int_equal(symlink(name, next), 0);
        assert_int_equal(rename(next, data), 0);
        if (version == 1) {
            assert_int_equal(symlink("..data/flags.json", fx->path), 0);
            open_all(fx, fx->path, NULL);
        }
        await_number(fx, 100 + version);
        free(file);
        free(folder);
    }
    assert_silent(fx);
    free(data);
    free(next);
}

/* Made elsewhere and moved in: the only event is that of the new name. */
static void test_moved_in(void **state)
{
    struct fixture *fx = *state;
    char *elsewhere = scratch_make(), *file = scratch_path(elsewhere, "made-here");

    write_file(fx->path, number_8);
    open_all(fx, fx->path, NULL);
    write_file(file, number_9);
    assert_int_equal(rename(file, fx->path), 0);
    await_number(fx, 9);
    assert_silent(fx);
    free(file);
    scratch_remove(elsewhere);
}

static void test_start_without_file(void **state)
{
    struct fixture *fx = *state;
    struct thaw_error e = THAW_ERROR_INIT;
    char *nowhere = scratch_path(fx->folder, "none/flags.json");

    assert_int_equal(try_open(fx, nowhere, NULL, &e), -ENOENT);
    assert_non_null(strstr(e.text, nowhere));
    assert_int_equal(try_open(fx, "", NULL, &e), -EINVAL);
    assert_int_equal(try_open(fx, "/tmp/", NULL, &e), -EINVAL);
    open_all(fx, fx->path, NULL);
    assert_warned(fx, fx->path, "No such file");
    assert_int_equal(flags_int(fx->flags, NUMBER), 7);
    replace_file(fx->path, number_8);
    await_number(fx, 8);
    free(nowhere);
}

static void test_unreadable(void **state)
{
    struct fixture *fx = *state;
    static char large[MIB + 2];

    assert_int_equal(mkfifo(fx->path, 0600), 0);
    open_all(fx, fx->path, NULL);
    touch_neighbour(fx);
    assert_warned(fx, fx->path, "not a regular file");
    memset(large, ' ', sizeof(large) - 1);
    replace_file(fx->path, large);
    flags_handle(fx->flags);
    assert_warned(fx, fx->path, "1 MiB");
    replace_file(fx->path, number_8);
    await_number(fx, 8);
}

static void test_folder_replaced(void **state)
{
    struct fixture *fx = *state;
    char *folder = scratch_path(fx->folder, "sub"), *file = scratch_path(folder, "flags.json");
    char *aside = scratch_path(fx->folder, "aside");

    assert_int_equal(mkdir(folder, 0755), 0);
    write_file(file, number_8);
    open_all(fx, file, NULL);
    assert_int_equal(rename(folder, aside), 0);
    flags_handle(fx->flags);
    assert_int_equal(fx->warning_count, 2); /* the folder, and the file in it */
    assert_non_null(strstr(fx->warnings, "SIGHUP"));
    assert_int_equal(flags_int(fx->flags, NUMBER), 8);
    flags_handle(fx->flags); /* of the watch that was given up */
    assert_int_equal(fx->warning_count, 2);
    forget_warnings(fx);
    assert_int_equal(mkdir(folder, 0755), 0);
    write_file(file, number_9);
    flags_reload(fx->flags);
    assert_int_equal(flags_int(fx->flags, NUMBER), 9);
    replace_file(file, number_8); /* the new folder is watched */
    await_number(fx, 8);
    assert_silent(fx);
    free(aside);
    free(file);
    free(folder);
}

/* Readers on other threads, a writer that replaces the file as fast as it can, and reloads. */

struct race {
    struct fixture *fx;
    _Atomic(bool) stop;
    _Atomic(uint64_t) reads, wrong;
};

static void *read_on(void *arg)
{
    struct race *race = arg;

    while (!atomic_load(&race->stop)) {
        const char *text = flags_string(race->fx->flags, TEXT);
        int64_t number = flags_int(race->fx->flags, NUMBER);

        if (strcmp(text, "plain") != 0 && strspn(text, "0123456789") != 3)
            atomic_fetch_add(&race->wrong, 1);
        if (number != 7 && (number < 100 || number > 999))
            atomic_fetch_add(&race->wrong, 1);
        atomic_fetch_add(&race->reads, 1);
    }
    return NULL;
}

#define RACE_VERSIONS 300

static void *replace_on(void *arg)
{
    struct race *race = arg;

    for (int i = 0; i < RACE_VERSIONS; i++) {
        char text[512];

        snprintf(text, sizeof(text),
                 FILE_TEXT(FLAG_TEXT("test-number", "%d") "," FLAG_TEXT("test-text", "\"%d\"")),
                 100 + i, 100 + i % 50);
        replace_file(race->fx->path, text);
    }
    return NULL;
}

/* No version is ever seen by halves, and the last one is seen. */
static void test_races(void **state)
{
    struct fixture *fx = *state;
    struct race race = {.fx = fx};
    pthread_t readers[2], writer;

    replace_file(fx->path, FILE_TEXT(""));
    open_all(fx, fx->path, NULL);
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++)
        assert_int_equal(pthread_create(&readers[i], NULL, read_on, &race), 0);
    assert_int_equal(pthread_create(&writer, NULL, replace_on, &race), 0);
    await_number(fx, 100 + RACE_VERSIONS - 1);
    pthread_join(writer, NULL);
    atomic_store(&race.stop, true);
    for (size_t i = 0; i < ARRAY_SIZE(readers); i++)
        pthread_join(readers[i], NULL);
    assert_int_equal(atomic_load(&race.wrong), 0);
    assert_true(atomic_load(&race.reads) > 0);
    assert_string_equal(flags_string(fx->flags, TEXT), "149");
    assert_silent(fx);
}

/* The manual: "*NAME* (TYPE, default _VALUE_, at run time)" begins the entry of each flag. */

static const char *manual_path;

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
#define CASE(test) cmocka_unit_test_setup_teardown(test, setup, teardown)
    const struct CMUnitTest tests[] = {
        CASE(test_defaults),
        CASE(test_thaws_own),
        CASE(test_precedence),
        CASE(test_bad_options),
        CASE(test_environment),
        CASE(test_file_entries),
        CASE(test_targeting),
        CASE(test_read_once),
        CASE(test_events),
        CASE(test_garbage),
        CASE(test_half_written),
        CASE(test_config_map),
        CASE(test_moved_in),
        CASE(test_start_without_file),
        CASE(test_unreadable),
        CASE(test_folder_replaced),
        CASE(test_sizes),
        CASE(test_races),
        cmocka_unit_test(test_manual),
    };

    manual_path = argc > 1 ? argv[1] : NULL;
    return cmocka_run_group_tests(tests, NULL, NULL);
}

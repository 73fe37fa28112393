/* SPDX-License-Identifier: Apache-2.0 */

/* The file of flags as it changes: what is seen of it, when, and what is told of it. */
#include "flags_fixture.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "base/units.h"

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

/* --- races --- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_events),     TEST(test_garbage),         TEST(test_half_written),
        TEST(test_config_map), TEST(test_moved_in),        TEST(test_start_without_file),
        TEST(test_unreadable), TEST(test_folder_replaced), TEST(test_races),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

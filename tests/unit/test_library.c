/* SPDX-License-Identifier: Apache-2.0 */

/* Libraries that are loaded when they are first needed: that they are, and what is said if not. */
#include "kernel/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <pthread.h>
#include <string.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"
#include "kernel/libcurl.h"
#include "kernel/libmicrohttpd.h"
#include "kernel/libnbd.h"
#include "scratch.h"

#define THREADS 8

/* The C library has these in each of its names. */
#define FUNCTIONS(F) F(str, len) F(str, chr)

struct pointers {
    FUNCTIONS(LIBRARY_POINTER)
};

static const char *const names[] = {FUNCTIONS(LIBRARY_NAME)};
static const char *const one_is_missing[] = {"strlen", "no_such_function"};
static struct pointers pointers;
static struct library library;

static int set_up(void **state)
{
    (void)state;
    pointers = (struct pointers){0};
    library = (struct library){
        .soname = "libc.so.6",
        .package = "libc6",
        .names = names,
        .count = ARRAY_SIZE(names),
        .pointers = &pointers,
        .mu = PTHREAD_MUTEX_INITIALIZER,
    };
    return 0;
}

static void functions_are_found(void **state)
{
    (void)state;
    assert_int_equal(library_load(&library, NULL), 0);
    assert_int_equal(pointers.len("four"), 4);
    assert_string_equal(pointers.chr("a:b", ':'), ":b");
}

/* Once it is there, nobody looks again. */
static void it_is_loaded_once(void **state)
{
    (void)state;
    assert_int_equal(library_load(&library, NULL), 0);
    library.soname = "libthaw-no-such.so.1";
    pointers.len = NULL;
    assert_int_equal(library_load(&library, NULL), 0);
    assert_null(pointers.len);
}

static void one_that_is_missing_is_told(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    library.soname = "libthaw-no-such.so.1";
    library.package = "libthaw1";
    assert_int_equal(library_load(&library, &e), -ELIBACC);
    assert_int_equal(e.code, -ELIBACC);
    assert_string_equal(e.text, "libthaw-no-such.so.1 cannot be loaded (cannot open shared object "
                                "file: No such file or directory): install libthaw1");
    assert_null(pointers.len);
    /* Whoever installs it meanwhile need not start thaw again. */
    library.soname = "libc.so.6";
    assert_int_equal(library_load(&library, &e), 0);
    assert_int_equal(pointers.len("four"), 4);
}

static void one_that_is_no_library_is_told(void **state)
{
    char *folder = scratch_make(), *path = scratch_path(folder, "libtext.so.1");
    struct thaw_error e = THAW_ERROR_INIT;
    FILE *f = fopen(path, "we");

    (void)state;
    assert_non_null(f);
    for (unsigned i = 0; i < 1000; i++)
        fputs("no library\n", f);
    assert_int_equal(fclose(f), 0);
    library.soname = path;
    assert_int_equal(library_load(&library, &e), -ELIBACC);
    assert_non_null(strstr(e.text, "libtext.so.1 cannot be loaded (invalid ELF header): install"));
    free(path);
    scratch_remove(folder);
}

static void a_missing_function_is_told(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    library.names = one_is_missing;
    assert_int_equal(library_load(&library, &e), -ELIBBAD);
    assert_string_equal(e.text, "libc.so.6 has no no_such_function(): install a newer libc6");
    assert_int_equal(library_load(&library, NULL), -ELIBBAD); /* half is not loaded */
    library.names = names;
    assert_int_equal(library_load(&library, NULL), 0);
}

static void *load_and_use(void *arg)
{
    bool *good = arg;

    *good = library_load(&library, NULL) == 0 && pointers.len("four") == 4;
    return NULL;
}

static void threads_may_meet(void **state)
{
    pthread_t threads[THREADS];
    bool good[THREADS] = {false};

    (void)state;
    for (size_t i = 0; i < THREADS; i++)
        assert_int_equal(thread_start(&threads[i], "load", load_and_use, &good[i]), 0);
    for (size_t i = 0; i < THREADS; i++)
        thread_join(threads[i]);
    for (size_t i = 0; i < THREADS; i++)
        assert_true(good[i]);
}

/* The real ones: the names, and an ABI that is that of the headers that we are built with. */

static void check_all_there(const void *pointers_at, size_t bytes)
{
    void *const *at = pointers_at;

    for (size_t i = 0; i < bytes / sizeof(*at); i++)
        assert_non_null(at[i]);
}

static void check_private(const char *function)
{
    assert_null(dlsym(RTLD_DEFAULT, function));
}

static void libcurl_can_be_had(void **state)
{
    (void)state;
    check_private("curl_easy_init");
    assert_int_equal(libcurl_load(NULL), 0);
    check_all_there(libcurl, sizeof(*libcurl));
    check_private("curl_easy_init");
    assert_string_equal(libcurl->easy_strerror(CURLE_OK), "No error");
}

static void libnbd_can_be_had(void **state)
{
    struct nbd_handle *nbd;

    (void)state;
    check_private("nbd_create");
    assert_int_equal(libnbd_load(NULL), 0);
    check_all_there(libnbd, sizeof(*libnbd));
    check_private("nbd_create");
    nbd = libnbd->create();
    assert_non_null(nbd);
    assert_int_equal(libnbd->aio_is_ready(nbd), 0);
    libnbd->close(nbd);
}

static void libmicrohttpd_can_be_had(void **state)
{
    struct MHD_Response *r;

    (void)state;
    check_private("MHD_start_daemon");
    assert_int_equal(libmicrohttpd_load(NULL), 0);
    check_all_there(libmicrohttpd, sizeof(*libmicrohttpd));
    check_private("MHD_start_daemon");
    r = libmicrohttpd->create_response_from_buffer(0, NULL, MHD_RESPMEM_PERSISTENT);
    assert_non_null(r);
    libmicrohttpd->destroy_response(r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup(functions_are_found, set_up),
        cmocka_unit_test_setup(it_is_loaded_once, set_up),
        cmocka_unit_test_setup(one_that_is_missing_is_told, set_up),
        cmocka_unit_test_setup(one_that_is_no_library_is_told, set_up),
        cmocka_unit_test_setup(a_missing_function_is_told, set_up),
        cmocka_unit_test_setup(threads_may_meet, set_up),
        cmocka_unit_test(libcurl_can_be_had),
        cmocka_unit_test(libnbd_can_be_had),
        cmocka_unit_test(libmicrohttpd_can_be_had),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

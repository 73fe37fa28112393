/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/libcurl.h"

#include <errno.h>

#include "base/error.h"
#include "base/units.h"

static const char *const names[] = {LIBCURL_FUNCTIONS(LIBRARY_NAME)};
static struct libcurl pointers;
static_assert(sizeof(pointers) == ARRAY_SIZE(names) * sizeof(void *), "one for each name");

const struct libcurl *const libcurl = &pointers;

static struct library library = {
    .soname = "libcurl.so.4",
    .package = "libcurl4",
    .names = names,
    .count = ARRAY_SIZE(names),
    .pointers = &pointers,
    .mu = PTHREAD_MUTEX_INITIALIZER,
};

static CURLcode outcome; /* written once, before pthread_once() returns to anybody */

static void init(void)
{
    outcome = libcurl->global_init(CURL_GLOBAL_DEFAULT);
}

int libcurl_load(struct thaw_error *e)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    int r = library_load(&library, e);

    if (r < 0)
        return r;
    pthread_once(&once, init);
    return outcome == CURLE_OK ? 0 : err_set(e, -ENOMEM, "libcurl cannot be initialised");
}

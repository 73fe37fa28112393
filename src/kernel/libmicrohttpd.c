/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/libmicrohttpd.h"

#include <assert.h>

#include "base/units.h"

static const char *const names[] = {LIBMICROHTTPD_FUNCTIONS(LIBRARY_NAME)};
static struct libmicrohttpd pointers;
static_assert(sizeof(pointers) == ARRAY_SIZE(names) * sizeof(void *), "one for each name");

const struct libmicrohttpd *const libmicrohttpd = &pointers;

int libmicrohttpd_load(struct thaw_error *e)
{
    static struct library library = {
        .soname = "libmicrohttpd.so.12",
        .package = "libmicrohttpd12",
        .names = names,
        .count = ARRAY_SIZE(names),
        .pointers = &pointers,
        .mu = PTHREAD_MUTEX_INITIALIZER,
    };

    return library_load(&library, e);
}

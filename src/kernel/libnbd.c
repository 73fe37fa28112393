/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/libnbd.h"

#include <assert.h>

#include "base/units.h"

static const char *const names[] = {LIBNBD_FUNCTIONS(LIBRARY_NAME)};
static struct libnbd pointers;
static_assert(sizeof(pointers) == ARRAY_SIZE(names) * sizeof(void *), "one for each name");

const struct libnbd *const libnbd = &pointers;

int libnbd_load(struct thaw_error *e)
{
    static struct library library = {
        .soname = "libnbd.so.0",
        .package = "libnbd0",
        .names = names,
        .count = ARRAY_SIZE(names),
        .pointers = &pointers,
        .mu = PTHREAD_MUTEX_INITIALIZER,
    };

    return library_load(&library, e);
}

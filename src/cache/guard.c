/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/guard.h"

#include "base/thread.h"
#include "kernel/uffd.h"

static pthread_mutex_t mu = PTHREAD_MUTEX_INITIALIZER;
static int guard_fd = -1; /* [m] mu: owned by all users together */
static unsigned users;    /* [m] mu */

static void put_locked(void)
{
    if (--users == 0)
        close_fd(&guard_fd);
}

int guard_get(void *start, size_t len_bytes)
{
    int r;

    LOCK_SCOPE(&mu);
    if (users == 0) {
        r = uffd_guard_open();
        if (r < 0)
            return r;
        guard_fd = r;
    }
    users++;
    r = uffd_guard_add(guard_fd, start, len_bytes);
    if (r < 0)
        put_locked();
    return r;
}

void guard_put(void)
{
    LOCK_SCOPE(&mu);
    put_locked();
}

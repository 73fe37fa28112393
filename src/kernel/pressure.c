/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/pressure.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#include "base/cleanup.h"
#include "kernel/memory_limit.h"

/* The trigger lives as long as the descriptor, and ends with a NUL. */
static int arm(const char *folder, const char *name, struct pressure *ret)
{
    int n = snprintf(ret->path, sizeof(ret->path), "%s/%s", folder, name);
    int fd CLEANUP_FD = -1;
    ssize_t written;

    if (n < 0 || (size_t)n >= sizeof(ret->path))
        return -ENAMETOOLONG;
    fd = open(ret->path, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    written = write(fd, PRESSURE_TRIGGER, sizeof(PRESSURE_TRIGGER));
    if (written != sizeof(PRESSURE_TRIGGER))
        return written < 0 ? -errno : -EIO;
    ret->fd = TAKE_FD(fd);
    return 0;
}

int pressure_open(const char *root, struct pressure *ret)
{
    char group[PATH_MAX];

    if (memory_group_folder(root, group) == 0 && arm(group, "memory.pressure", ret) == 0)
        return 0;
    return arm(root, "proc/pressure/memory", ret);
}

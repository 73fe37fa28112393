/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/tracefs.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/units.h"

static int open_mounted(void)
{
    static const char *const places[] = {"/sys/kernel/tracing", "/sys/kernel/debug/tracing"};

    for (size_t i = 0; i < ARRAY_SIZE(places); i++) {
        int fd CLEANUP_FD = open(places[i], O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        struct statfs fs;

        /* The empty folder to mount it on is there in any case. */
        if (fd >= 0 && fstatfs(fd, &fs) == 0 && fs.f_type == TRACEFS_MAGIC)
            return TAKE_FD(fd);
    }
    return -ENOENT;
}

/* A mount that is attached nowhere lives as long as its descriptor: fsmount(2). */
static int open_detached(void)
{
    int context CLEANUP_FD = fsopen("tracefs", FSOPEN_CLOEXEC);
    int mount;

    if (context < 0 || fsconfig(context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -errno;
    mount = fsmount(context, FSMOUNT_CLOEXEC, 0);
    return mount < 0 ? -errno : mount;
}

int tracefs_load(const char *path, size_t max_bytes, struct buf *ret)
{
    int root CLEANUP_FD = open_mounted();
    int fd CLEANUP_FD = -1;
    uint8_t part[4096];
    ssize_t n = 0;

    if (root < 0)
        root = open_detached();
    if (root < 0)
        return root;
    fd = openat(root, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    /* Such files say that they have no bytes; only reading tells. */
    for (size_t done = 0; (n = file_read_at(fd, part, sizeof(part), done)) > 0;) {
        done += (size_t)n;
        if (done > max_bytes)
            return -EFBIG;
        buf_put(ret, part, (size_t)n);
    }
    if (n < 0)
        return (int)n;
    return ret->failed ? -ENOMEM : 0;
}

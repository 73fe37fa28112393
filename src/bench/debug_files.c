/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/debug_files.h"

#include <fcntl.h>
#include <linux/mount.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/file.h"
#include "base/units.h"

#define STATS_MAX_BYTES 4096

/* A mount of debugfs that is attached nowhere: nobody else sees it, and closing it ends it. */
static int debugfs_open(void)
{
    int context CLEANUP_FD = (int)syscall(SYS_fsopen, "debugfs", FSOPEN_CLOEXEC);

    if (context < 0 || syscall(SYS_fsconfig, context, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return -1;
    return (int)syscall(SYS_fsmount, context, FSMOUNT_CLOEXEC, 0);
}

static void take(const char *text, const char *name, uint64_t *ret_bytes)
{
    const char *at = strstr(text, name);
    unsigned long long kib;

    if (at && sscanf(at + strlen(name), " %llu kB", &kib) == 1)
        *ret_bytes = kib * KIB;
}

void debug_files_bdi(dev_t device, uint64_t *ret_dirty_bytes, uint64_t *ret_writeback_bytes)
{
    int root CLEANUP_FD = debugfs_open();
    char path[64], text[STATS_MAX_BYTES];
    int fd CLEANUP_FD = -1;
    ssize_t n;

    snprintf(path, sizeof(path), "bdi/%u:%u/stats", major(device), minor(device));
    fd = root < 0 ? -1 : openat(root, path, O_RDONLY | O_CLOEXEC);
    n = fd < 0 ? -1 : file_read_at(fd, text, sizeof(text) - 1, 0);
    if (n <= 0)
        return;
    text[n] = '\0';
    take(text, "BdiReclaimable:", ret_dirty_bytes);
    take(text, "BdiWriteback:", ret_writeback_bytes);
}

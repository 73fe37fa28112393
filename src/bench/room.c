/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/room.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "base/size.h"
#include "base/units.h"

#define SLACK_BYTES (256 * MIB)

static uint64_t available_memory(void)
{
    FILE *f = fopen("/proc/meminfo", "re");
    unsigned long long kib = 0;
    char line[128];

    while (f && fgets(line, sizeof(line), f) && sscanf(line, "MemAvailable: %llu kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib * KIB;
}

int room_check(const char *scratch, uint64_t memory_bytes, uint64_t disk_bytes,
               struct thaw_error *e)
{
    uint64_t memory = memory_bytes + SLACK_BYTES, disk = disk_bytes + SLACK_BYTES;
    char need[SIZE_TEXT_BYTES], have[SIZE_TEXT_BYTES];
    struct statvfs v;

    if (memory > available_memory())
        return err_set(e, -ENOMEM,
                       "this takes %s of memory, and there are %s; choose a smaller --size",
                       size_format(memory, need), size_format(available_memory(), have));
    if (statvfs(scratch, &v) < 0)
        return err_errno(e, -errno, "%s", scratch);
    if (disk > v.f_bavail * v.f_frsize)
        return err_set(e, -ENOSPC,
                       "this takes %s in %s, and there are %s; choose a smaller --size or another "
                       "TMPDIR",
                       size_format(disk, need), scratch,
                       size_format(v.f_bavail * v.f_frsize, have));
    return 0;
}

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *at)
{
    (void)st;
    (void)type;
    return at->level > 0 ? remove(path) : 0;
}

void room_empty(const char *folder)
{
    int fd CLEANUP_FD = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    nftw(folder, remove_one, 8, FTW_DEPTH | FTW_PHYS | FTW_MOUNT);
    if (fd >= 0)
        (void)syncfs(fd);
}

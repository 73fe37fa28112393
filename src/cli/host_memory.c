/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/host_memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/units.h"

/* The value of "KEY:   123 kB" in a file of such lines, in bytes. */
static uint64_t field_bytes(const char *path, const char *key)
{
    FILE *f = fopen(path, "re");
    size_t key_len = strlen(key);
    unsigned long long kib = 0;
    char line[256];

    if (!f)
        return 0;
    while (fgets(line, sizeof(line), f)) {
        if (strncmp(line, key, key_len) == 0 && line[key_len] == ':') {
            kib = strtoull(line + key_len + 1, NULL, 10);
            break;
        }
    }
    fclose(f);
    return kib * KIB;
}

static uint64_t memfd_bytes(void)
{
    DIR *dir = opendir("/proc/self/fd");
    uint64_t sum = 0;
    struct dirent *entry;
    struct stat st;
    char link[64];

    if (!dir)
        return 0;
    while ((entry = readdir(dir))) {
        ssize_t n = readlinkat(dirfd(dir), entry->d_name, link, sizeof(link) - 1);

        if (n < 0)
            continue;
        link[n] = '\0';
        if (strncmp(link, "/memfd:", 7) == 0 && fstatat(dirfd(dir), entry->d_name, &st, 0) == 0)
            sum += (uint64_t)st.st_blocks * 512; /* stat(2) */
    }
    closedir(dir);
    return sum;
}

void host_memory_take(struct host_memory *peak)
{
    peak->pss_bytes = MAX(peak->pss_bytes, field_bytes("/proc/self/smaps_rollup", "Pss"));
    peak->memfd_bytes = MAX(peak->memfd_bytes, memfd_bytes());
    peak->dirty_bytes = MAX(peak->dirty_bytes, field_bytes("/proc/meminfo", "Dirty"));
    peak->writeback_bytes = MAX(peak->writeback_bytes, field_bytes("/proc/meminfo", "Writeback"));
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/cgroup.h"

#include <errno.h>
#include <limits.h>
#include <mntent.h>
#include <stdio.h>
#include <string.h>

int cgroup_mount(const char *type, const char *option, char *ret, size_t len)
{
    FILE *mounts = setmntent("/proc/self/mounts", "re");
    const struct mntent *m;
    int r = -ENOENT;

    if (!mounts)
        return -errno;
    while (r < 0 && (m = getmntent(mounts))) {
        if (strcmp(m->mnt_type, type) == 0 && (!option || hasmntopt(m, option)) &&
            snprintf(ret, len, "%s", m->mnt_dir) < (int)len)
            r = 0;
    }
    endmntent(mounts);
    return r;
}

/* Lines are "NUMBER:CONTROLLERS:/PATH", see cgroups(7); version 2 has number 0 and no controllers.
 */
int cgroup_of(pid_t pid, const char *controller, char *ret, size_t len)
{
    char path[64], line[PATH_MAX];
    FILE *f;
    int r = -ENOENT;

    snprintf(path, sizeof(path), "/proc/%d/cgroup", pid);
    f = fopen(path, "re");
    if (!f)
        return -errno;
    while (r < 0 && fgets(line, sizeof(line), f)) {
        char *rest = line;
        const char *number = strsep(&rest, ":"), *has = strsep(&rest, ":");

        if (!rest || strcmp(has, controller) != 0 || (!*controller && strcmp(number, "0") != 0))
            continue;
        rest[strcspn(rest, "\n")] = '\0';
        if (snprintf(ret, len, "%s", rest) < (int)len)
            r = 0;
    }
    fclose(f);
    return r;
}

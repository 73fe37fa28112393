/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/folder.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/error.h"

/* Below $XDG_CACHE_HOME, which must be absolute to count: XDG Base Directory Specification. */
static int default_folder(char *ret, size_t len)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = 0;

    if (cache && cache[0] == '/')
        n = snprintf(ret, len, "%s/thaw", cache);
    else if (geteuid() == 0)
        n = snprintf(ret, len, "/var/cache/thaw");
    else if (home && home[0] == '/')
        n = snprintf(ret, len, "%s/.cache/thaw", home);
    if (n == 0)
        return -ENOENT;
    return (size_t)n < len ? 0 : -ENAMETOOLONG;
}

/* Makes @path, which is written to, and what is above it. */
static int make_folders(char *path)
{
    for (char *c = path + 1; *c; c++) {
        int r;

        if (*c != '/')
            continue;
        *c = '\0';
        r = mkdir(path, 0700);
        *c = '/';
        /* What cannot be made may be there all the same, such as a read-only "/". */
        if (r < 0 && errno != EEXIST && errno != EROFS && errno != EACCES)
            return -errno;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? -errno : 0;
}

int cache_folder_open(const char *folder, char ret_path[PATH_MAX], struct thaw_error *e)
{
    int r = 0, fd;

    if (!folder)
        r = default_folder(ret_path, PATH_MAX);
    else if ((size_t)snprintf(ret_path, PATH_MAX, "%s", folder) >= PATH_MAX)
        r = -ENAMETOOLONG;
    if (r < 0)
        return err_errno(e, r, "finding the folder for caches%s%s", folder ? " " : "",
                         folder ? "" : "; name one, or set HOME");
    r = make_folders(ret_path);
    if (r < 0)
        return err_errno(e, r, "making the folder for caches, %s", ret_path);
    fd = open(ret_path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? err_errno(e, -errno, "opening the folder for caches, %s", ret_path) : fd;
}

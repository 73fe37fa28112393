/* SPDX-License-Identifier: Apache-2.0 */
#include "sandbox/run_dir.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

static char *usual_parent(void)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");

    if (geteuid() == 0)
        return strdup("/run/thaw");
    if (runtime && *runtime == '/')
        return run_dir_path(runtime, "thaw");
    return strdup("/tmp");
}

char *run_dir_path(const char *dir, const char *name)
{
    char *path;

    return asprintf(&path, "%s/%s", dir, name) < 0 ? NULL : path;
}

int run_dir_create(const char *parent, char **ret, struct thaw_error *e)
{
    char *usual CLEANUP_FREE = parent ? NULL : usual_parent();
    char *absolute CLEANUP_FREE = NULL;
    char *path CLEANUP_FREE = NULL;

    if (!parent)
        parent = usual;
    if (!parent)
        return err_set(e, -ENOMEM, "no memory for a path");
    if (usual && mkdir(usual, 0755) < 0 && errno != EEXIST)
        return err_errno(e, -errno, "making %s (choose another place with --run-dir)", usual);
    absolute = realpath(parent, NULL);
    if (!absolute)
        return err_errno(e, -errno, "the folder for sockets, %s", parent);
    path = run_dir_path(absolute, "resume-XXXXXX");
    if (!path)
        return err_set(e, -ENOMEM, "no memory for a path");
    if (!mkdtemp(path))
        return err_errno(e, -errno, "making a folder in %s (choose another with --run-dir)",
                         absolute);
    *ret = TAKE_PTR(path);
    return 0;
}

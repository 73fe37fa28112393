/* SPDX-License-Identifier: Apache-2.0 */

/* What is in a directory store: folders that bear a build's id, regular files in them. */
#include "store/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "format/manifest.h"

static void cleanup_dir(DIR **d)
{
    if (*d)
        closedir(*d);
}

/* A stream over the folder @fd, which stays the caller's; NULL and errno on failure. */
static DIR *stream_of(int fd)
{
    int own CLEANUP_FD = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *stream = own < 0 ? NULL : fdopendir(own);

    if (stream)
        (void)TAKE_FD(own); /* closedir() closes it */
    return stream;
}

/* The next entry; NULL at the end, with *@ret_r 0 or -errno. */
static const struct dirent *next_entry(DIR *stream, int *ret_r)
{
    const struct dirent *entry;

    errno = 0;
    entry = readdir(stream);
    *ret_r = entry ? 0 : -errno;
    return entry;
}

/* Whether @name is what uuid_format() makes of an id: that is how builds are opened again. */
static bool names_build(const char *name, struct uuid *ret)
{
    char text[UUID_TEXT_BYTES];

    return uuid_parse(name, ret) == 0 && strcmp(uuid_format(ret, text), name) == 0;
}

/* Adds what @name is; 0 also when it is nothing, or has vanished meanwhile. */
static int add_build(const struct dir_store *d, const char *name, struct store_builds *ret)
{
    struct store_build build;
    int fd CLEANUP_FD = -1;
    struct stat st;

    if (!names_build(name, &build.id))
        return 0;
    fd = openat(d->dir_fd, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? 0 : -errno;
    build.has_manifest = fstatat(fd, MANIFEST_NAME, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (!build.has_manifest && errno != ENOENT)
        return -errno;
    return store_builds_add(ret, &build);
}

int dir_list_builds(struct store *s, struct store_builds *ret, struct thaw_error *e)
{
    const struct dir_store *d = dir_store_of(s);
    DIR *stream CLEANUP(cleanup_dir) = stream_of(d->dir_fd);
    const struct dirent *entry;
    int r;

    if (!stream)
        return err_errno(e, -errno, "listing the store %s", d->path);
    while ((entry = next_entry(stream, &r)) != NULL) {
        r = add_build(d, entry->d_name, ret);
        if (r < 0)
            return err_errno(e, r, "listing the store %s: %s", d->path, entry->d_name);
    }
    return r < 0 ? err_errno(e, r, "listing the store %s", d->path) : 0;
}

static int add_object(int folder, const char *name, struct store_objects *ret)
{
    struct stat st;

    if (!object_name_valid(name))
        return 0;
    if (fstatat(folder, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -errno;
    return S_ISREG(st.st_mode) ? store_objects_add(ret, name, (uint64_t)st.st_size) : 0;
}

int dir_list_objects(struct store *s, const struct uuid *build, struct store_objects *ret,
                     struct thaw_error *e)
{
    const struct dir_store *d = dir_store_of(s);
    int folder CLEANUP_FD = dir_open_build(d, build);
    DIR *stream CLEANUP(cleanup_dir) = NULL;
    const struct dirent *entry;
    int r;

    if (folder < 0)
        return dir_fail(d, build, NULL, folder, "listing", e);
    stream = stream_of(folder);
    if (!stream)
        return dir_fail(d, build, NULL, -errno, "listing", e);
    while ((entry = next_entry(stream, &r)) != NULL) {
        r = add_object(folder, entry->d_name, ret);
        if (r < 0)
            return dir_fail(d, build, entry->d_name, r, "listing", e);
    }
    return r < 0 ? dir_fail(d, build, NULL, r, "listing", e) : 0;
}

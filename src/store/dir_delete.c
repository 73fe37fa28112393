/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Deleting from a directory store. The folder is read once for every step, and each step is flushed
 * before the next: see store_build_delete().
 */
#include "store/dir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/crash.h"
#include "base/error.h"
#include "base/units.h"
#include "format/manifest.h"

/* What is removed when. SUMS and temporary files are last: they tell leftovers of thaw's. */
enum step { MANIFEST, HEADERS, DATA, REST, STEPS };

static bool ends_with(const char *name, const char *end)
{
    size_t len = strlen(name), end_len = strlen(end);

    return len >= end_len && strcmp(name + len - end_len, end) == 0;
}

static enum step step_of(const char *name)
{
    if (strcmp(name, MANIFEST_NAME) == 0)
        return MANIFEST;
    if (ends_with(name, ".header"))
        return HEADERS;
    return ends_with(name, ".sums") || name[0] == '.' ? REST : DATA;
}

/* What is in a folder, from one reading of it. */
struct names {
    struct dirent **list; /* owned, and so is each */
    int count;
};

static void names_finish(struct names *n)
{
    for (int i = 0; i < n->count; i++)
        free(n->list[i]);
    free(n->list);
}

static int is_other(const struct dirent *entry)
{
    return strcmp(entry->d_name, ".") != 0 && strcmp(entry->d_name, "..") != 0;
}

static int names_read(int folder, struct names *ret)
{
    struct dirent **list;
    int count = scandirat(folder, ".", &list, is_other, alphasort);

    if (count < 0)
        return -errno;
    *ret = (struct names){list, count};
    return 0;
}

/* A folder in a build's folder is not a store's work, and may be anything. */
static int refuse_folders(int folder, const struct names *names, const char **ret_name)
{
    struct stat st;

    for (int i = 0; i < names->count; i++) {
        if (fstatat(folder, names->list[i]->d_name, &st, AT_SYMLINK_NOFOLLOW) == 0 &&
            S_ISDIR(st.st_mode)) {
            *ret_name = names->list[i]->d_name;
            return -ENOTEMPTY;
        }
    }
    return 0;
}

static int remove_step(int folder, const struct names *names, enum step step, const char **ret_name)
{
    bool removed = false;

    for (int i = 0; i < names->count; i++) {
        if (step_of(names->list[i]->d_name) != step)
            continue;
        *ret_name = names->list[i]->d_name;
        if (unlinkat(folder, names->list[i]->d_name, 0) < 0 && errno != ENOENT)
            return -errno;
        crash_point("store:deleted:%s", names->list[i]->d_name);
        removed = true;
    }
    *ret_name = NULL;
    return removed && fsync(folder) < 0 ? -errno : 0;
}

static int remove_folder(const struct dir_store *d, const struct uuid *build)
{
    char id[UUID_TEXT_BYTES];

    if (unlinkat(d->dir_fd, uuid_format(build, id), AT_REMOVEDIR) < 0)
        return -errno;
    crash_point("store:folder-deleted");
    return fsync(d->dir_fd) < 0 ? -errno : 0;
}

/* Removes what is in the claimed folder, and it; *@ret_name: at what it failed, or NULL. */
static int remove_all(const struct dir_store *d, const struct uuid *build, bool only_unfinished,
                      struct names *names, const char **ret_name)
{
    int folder CLEANUP_FD = dir_open_build(d, build);
    int r = folder < 0 ? folder : names_read(folder, names);

    if (r == 0)
        r = refuse_folders(folder, names, ret_name);
    for (int i = 0; r == 0 && only_unfinished && i < names->count; i++) {
        if (strcmp(names->list[i]->d_name, MANIFEST_NAME) == 0)
            r = -EEXIST;
    }
    for (enum step step = 0; r == 0 && step < STEPS; step++)
        r = remove_step(folder, names, step, ret_name);
    return r == 0 ? remove_folder(d, build) : r;
}

static int remove_build(struct store *s, const struct uuid *build, bool only_unfinished,
                        struct thaw_error *e)
{
    struct dir_store *d = dir_store_of(s);
    struct names names CLEANUP(names_finish) = {0};
    const char *name = NULL;
    int r = dir_claim(d, build, false);

    if (r < 0)
        return dir_fail(d, build, NULL, r, "deleting", e);
    r = remove_all(d, build, only_unfinished, &names, &name);
    dir_claim_release(d, build);
    if (r == -EEXIST)
        return dir_fail(d, build, MANIFEST_NAME, r, "discarding what was left of a build", e);
    if (r == -ENOTEMPTY && name)
        return err_set(e, r,
                       "the folder of the build in %s has a folder '%s', which is not part of it; "
                       "nothing was deleted",
                       d->path, name);
    return r < 0 ? dir_fail(d, build, name, r, "deleting", e) : 0;
}

int dir_build_delete(struct store *s, const struct uuid *build, struct thaw_error *e)
{
    return remove_build(s, build, false, e);
}

int dir_build_discard(struct store *s, const struct uuid *build, struct thaw_error *e)
{
    return remove_build(s, build, true, e);
}

int dir_object_delete(struct store *s, const struct uuid *build, const char *name,
                      struct thaw_error *e)
{
    struct dir_store *d = dir_store_of(s);
    int folder CLEANUP_FD = dir_open_build(d, build);
    int r = folder < 0 ? folder : 0;

    if (r == 0 && unlinkat(folder, name, 0) < 0)
        r = errno == EISDIR ? -EBADMSG : -errno;
    if (r == 0)
        r = fsync(folder) < 0 ? -errno : 0;
    return r < 0 ? dir_fail(d, build, name, r, "deleting", e) : 0;
}

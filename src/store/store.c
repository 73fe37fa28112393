/* SPDX-License-Identifier: Apache-2.0 */
#include "store/store.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>

#include "base/error.h"
#include "base/file.h"
#include "store/dir.h"

/* Strips file:// and refuses what no store here speaks. */
static int local_path(const char *url, const char **ret, struct thaw_error *e)
{
    if (strncmp(url, "file://", 7) == 0)
        url += 7;
    else if (strstr(url, "://"))
        return err_set(e, -EPROTONOSUPPORT,
                       "store '%s': only directories (DIR or file:///DIR) can be opened", url);
    if (*url == '\0')
        return err_set(e, -EINVAL, "the store needs a folder: --store DIR");
    *ret = url;
    return 0;
}

int store_open(const char *url, struct io_engine *io, bool create, struct store **ret,
               struct thaw_error *e)
{
    struct store *s CLEANUP_STORE = calloc(1, sizeof(*s));
    const char *path = NULL;
    int r = local_path(url, &path, e);

    if (r < 0)
        return r;
    if (!s)
        return err_set(e, -ENOMEM, "no memory for a store");
    s->io = io;
    s->dir_fd = -1;
    s->path = strdup(path);
    if (!s->path)
        return err_set(e, -ENOMEM, "no memory for a store");
    if (create && mkdir(path, 0777) < 0 && errno != EEXIST)
        return err_errno(e, -errno, "making the store's folder %s", path);
    s->dir_fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return err_errno(e, -errno, "opening the store %s", path);
    *ret = TAKE_PTR(s);
    return 0;
}

void store_close(struct store *s)
{
    if (!s)
        return;
    close_fd(&s->dir_fd);
    free(s->path);
    free(s);
}

int store_get(struct store *s, const struct uuid *build, const char *name, size_t max_bytes,
              struct buf *ret, struct thaw_error *e)
{
    char id[UUID_TEXT_BYTES];
    int dir CLEANUP_FD = dir_open_build(s, build, false);
    int r = dir < 0 ? dir : file_load(dir, name, max_bytes, ret);

    if (r == -EFBIG)
        return err_set(e, r, "%s/%s/%s is larger than the %zu bytes such an object may have",
                       s->path, uuid_format(build, id), name, max_bytes);
    if (r < 0)
        return err_errno(e, r, "reading %s/%s/%s", s->path, uuid_format(build, id), name);
    return 0;
}

int store_size(struct store *s, const struct uuid *build, const char *name, uint64_t *ret_bytes)
{
    int dir CLEANUP_FD = dir_open_build(s, build, false);
    struct stat st;

    if (dir < 0)
        return dir;
    if (fstatat(dir, name, &st, 0) < 0)
        return -errno;
    *ret_bytes = (uint64_t)st.st_size;
    return 0;
}

int store_put(struct store *s, const struct uuid *build, const char *name, const void *bytes,
              size_t len_bytes, struct thaw_error *e)
{
    struct store_writer *w CLEANUP_STORE_WRITER = NULL;
    int r = store_writer_open(s, build, name, &w, e);

    if (r == 0)
        r = store_writer_append(w, bytes, len_bytes, e);
    if (r == 0)
        r = store_writer_commit(w, e);
    return r;
}

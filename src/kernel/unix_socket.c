/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/cleanup.h"

static int make_address(const char *path, struct sockaddr_un *ret, struct thaw_error *e)
{
    size_t len = strlen(path);

    if (len == 0)
        return err_set(e, -EINVAL, "the path of a socket is empty: say where to listen");
    if (len >= sizeof(ret->sun_path))
        return err_set(e, -ENAMETOOLONG, "socket path %s: the limit is %zu characters", path,
                       sizeof(ret->sun_path) - 1);
    *ret = (struct sockaddr_un){.sun_family = AF_UNIX};
    memcpy(ret->sun_path, path, len);
    return 0;
}

/* A socket file that is left of a process which did not remove it. */
static bool is_stale(const struct sockaddr_un *addr)
{
    int fd CLEANUP_FD = -1;
    struct stat st;

    if (lstat(addr->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return false;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd >= 0 && connect(fd, (const struct sockaddr *)addr, sizeof(*addr)) < 0 &&
           errno == ECONNREFUSED;
}

/* bind(2) gives the socket file the mode of the socket: it is never open to others. */
static int bind_private(int fd, const struct sockaddr_un *addr, bool replace_stale)
{
    const struct sockaddr *a = (const struct sockaddr *)addr;

    if (fchmod(fd, 0600) < 0)
        return -errno;
    if (bind(fd, a, sizeof(*addr)) == 0)
        return 0;
    if (errno != EADDRINUSE || !replace_stale)
        return -errno;
    if (!is_stale(addr))
        return -EADDRINUSE;
    if (unlink(addr->sun_path) < 0 || bind(fd, a, sizeof(*addr)) < 0)
        return -errno;
    return 0;
}

int unix_listen(const struct unix_listen_options *o, struct thaw_error *e)
{
    struct sockaddr_un addr;
    int fd CLEANUP_FD = -1;
    int r = make_address(o->path, &addr, e);

    if (r < 0)
        return r;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return err_errno(e, -errno, "making a socket");
    r = bind_private(fd, &addr, o->replace_stale);
    if (r == -EADDRINUSE)
        return err_set(e, r, "%s is in use: choose another path, or %s", o->path,
                       o->replace_stale ? "stop who listens there"
                                        : "remove it if nobody listens there");
    if (r < 0)
        return err_errno(e, r, "listening on %s", o->path);
    if (lchown(o->path, o->owner_uid, o->owner_gid) < 0 || listen(fd, o->backlog) < 0) {
        r = err_errno(e, -errno, "listening on %s", o->path);
        unlink(o->path);
        return r;
    }
    return TAKE_FD(fd);
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_UNIX_SOCKET_H
#define THAW_KERNEL_UNIX_SOCKET_H

/* Sockets in the file system. Control threads. */

#include <stdbool.h>
#include <sys/types.h>

#include "base/error.h"

/**
 * struct unix_listen_options - where to listen, and for whom
 * @path: of the socket file, 1 to 107 bytes (unix(7))
 * @owner_uid, @owner_gid: who may connect, besides root; -1: whoever we are
 * @backlog: connections that may wait to be accepted, see listen(2)
 * @replace_stale: a socket file at @path that nobody listens on any more is replaced. Nothing else
 *                 ever is
 */
struct unix_listen_options {
    const char *path;
    uid_t owner_uid;
    gid_t owner_gid;
    int backlog;
    bool replace_stale;
};

/**
 * unix_listen() - a listening, non-blocking stream socket in the file system
 *
 * The socket file has mode 0600 from its first moment. Whoever stops listening removes it.
 *
 * Returns: the descriptor, or -errno with the reason in @e, and then there is no new file: -EINVAL,
 * -ENAMETOOLONG the path is empty, too long; -EADDRINUSE something is there already.
 */
[[gnu::warn_unused_result]] int unix_listen(const struct unix_listen_options *o,
                                            struct thaw_error *e);

#endif

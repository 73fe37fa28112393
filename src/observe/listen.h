/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_LISTEN_H
#define THAW_OBSERVE_LISTEN_H

/* Listening where an operator says. Control threads: it may resolve a name and so block. */

#include <stddef.h>

#include "base/error.h"

#define LISTEN_ADDRESS_MAX 160

/**
 * listen_on() - a listening, non-blocking stream socket
 * @address: "HOST:PORT", "[::1]:PORT" or "unix:PATH". HOST is a name or a number, or empty for all
 *           addresses of this machine; PORT 0 takes any that is free
 * @ret_bound: the address that came of it, in the same notation and with numbers
 *
 * A socket file that nobody listens on any more is replaced; its new owner is this user alone.
 *
 * Returns: the descriptor, or -errno: -EINVAL the address is malformed, -ENAMETOOLONG its PATH is
 * too long for a socket, -EADDRINUSE taken.
 */
[[gnu::warn_unused_result]] int listen_on(const char *address,
                                          char ret_bound[static LISTEN_ADDRESS_MAX],
                                          struct thaw_error *e);

/** listen_forget() - remove the socket file of a "unix:PATH" that listen_on() gave; no other */
void listen_forget(const char *bound);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_LIBNBD_H
#define THAW_KERNEL_LIBNBD_H

/*
 * libnbd, loaded when it is first needed (kernel/library.h): libnbd->create() is nbd_create(), and
 * so on.
 */

#include <libnbd.h>

#include "kernel/library.h"

#define LIBNBD_FUNCTIONS(F)                                                                        \
    F(nbd_, add_meta_context)                                                                      \
    F(nbd_, aio_block_status)                                                                      \
    F(nbd_, aio_command_completed)                                                                 \
    F(nbd_, aio_connect_socket)                                                                    \
    F(nbd_, aio_connect_uri)                                                                       \
    F(nbd_, aio_get_direction)                                                                     \
    F(nbd_, aio_get_fd)                                                                            \
    F(nbd_, aio_is_closed)                                                                         \
    F(nbd_, aio_is_dead)                                                                           \
    F(nbd_, aio_is_ready)                                                                          \
    F(nbd_, aio_notify_read)                                                                       \
    F(nbd_, aio_notify_write)                                                                      \
    F(nbd_, aio_pread)                                                                             \
    F(nbd_, can_meta_context)                                                                      \
    F(nbd_, close)                                                                                 \
    F(nbd_, create)                                                                                \
    F(nbd_, get_errno)                                                                             \
    F(nbd_, get_error)                                                                             \
    F(nbd_, get_size)                                                                              \
    F(nbd_, set_export_name)

struct libnbd {
    LIBNBD_FUNCTIONS(LIBRARY_POINTER)
};

/* To be used after libnbd_load() only. */
extern const struct libnbd *const libnbd;

/** libnbd_load() - before any use of libnbd; any thread. As library_load() */
[[gnu::warn_unused_result]] int libnbd_load(struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_LIBMICROHTTPD_H
#define THAW_KERNEL_LIBMICROHTTPD_H

/*
 * libmicrohttpd, loaded when it is first needed (kernel/library.h): libmicrohttpd->start_daemon()
 * is MHD_start_daemon(), and so on.
 */

#include <microhttpd.h>

#include "kernel/library.h"

#define LIBMICROHTTPD_FUNCTIONS(F)                                                                 \
    F(MHD_, add_response_header)                                                                   \
    F(MHD_, create_response_from_buffer)                                                           \
    F(MHD_, destroy_response)                                                                      \
    F(MHD_, get_connection_values)                                                                 \
    F(MHD_, queue_response)                                                                        \
    F(MHD_, start_daemon)                                                                          \
    F(MHD_, stop_daemon)

struct libmicrohttpd {
    LIBMICROHTTPD_FUNCTIONS(LIBRARY_POINTER)
};

/* To be used after libmicrohttpd_load() only. */
extern const struct libmicrohttpd *const libmicrohttpd;

/** libmicrohttpd_load() - before any use of libmicrohttpd; any thread. As library_load() */
[[gnu::warn_unused_result]] int libmicrohttpd_load(struct thaw_error *e);

#endif

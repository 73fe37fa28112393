/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_SOURCE_NBD_H
#define THAW_IMAGE_SOURCE_NBD_H

/* An export of an NBD server as a source, read over one connection. Holes are those that the server
 * tells of (base:allocation). A server that says nothing for a minute is given up. */

#include <stdbool.h>

struct source;
struct thaw_error;

/** source_is_nbd_uri() - whether @path is one: nbd://, nbd+unix://, nbds://, nbds+unix:// */
bool source_is_nbd_uri(const char *path);

/** source_open_nbd() - connect to @uri, which stays the caller's */
[[gnu::warn_unused_result]] int source_open_nbd(const char *uri, struct source *ret,
                                                struct thaw_error *e);

/**
 * source_open_nbd_socket() - the same over a connected socket
 * @fd: becomes the source's in any case
 * @export_name: the export to ask for
 * @name: for messages; borrowed
 */
[[gnu::warn_unused_result]] int source_open_nbd_socket(int fd, const char *export_name,
                                                       const char *name, struct source *ret,
                                                       struct thaw_error *e);

#endif

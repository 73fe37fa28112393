/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_NBD_WRITER_H
#define THAW_BENCH_NBD_WRITER_H

/*
 * A guest that writes to its disk: an NBD client with one request under way. One thread, but for
 * nbd_writer_break().
 */

#include <stdint.h>

struct thaw_error;

struct nbd_writer_client {
    int sock; /* owned */
    uint64_t bytes;
    uint64_t cookie;
};

/** nbd_writer_open() - connect to the first export at @socket_path */
[[gnu::warn_unused_result]] int nbd_writer_open(struct nbd_writer_client *c,
                                                const char *socket_path, struct thaw_error *e);

/** nbd_writer_write() - write and wait for the answer; 0 or -errno */
[[gnu::warn_unused_result]] int nbd_writer_write(struct nbd_writer_client *c, uint64_t off,
                                                 const void *data, uint32_t len_bytes);

/** nbd_writer_flush() - 0 or -errno */
[[gnu::warn_unused_result]] int nbd_writer_flush(struct nbd_writer_client *c);

/** nbd_writer_break() - have a write that waits fail. Any thread. */
void nbd_writer_break(struct nbd_writer_client *c);

/** nbd_writer_close() - say goodbye; safe if it was not opened and sock is -1 */
void nbd_writer_close(struct nbd_writer_client *c);

#endif

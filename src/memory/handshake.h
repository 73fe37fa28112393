/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_HANDSHAKE_H
#define THAW_MEMORY_HANDSHAKE_H

/*
 * Receiving the hand-over of guest memory: one message with a JSON body and the uffd beside it, as
 * Firecracker sends it. The socket is non-blocking; the body may come in pieces. Every descriptor
 * that a peer sends is taken and, but for the uffd of a good hand-over, closed. One thread.
 */

#include <stddef.h>
#include <stdint.h>

struct handover;
struct thaw_error;

/* One uffd, and what variants of the protocol send with it; the kernel's own limit is 253. */
#define HANDSHAKE_MAX_FDS 16

struct handshake {
    char *body; /* owned: HANDOVER_MAX_BYTES */
    size_t len;
    int fds[HANDSHAKE_MAX_FDS]; /* owned */
    size_t fd_count;
};

/** handshake_init() - 0 or -ENOMEM */
[[gnu::warn_unused_result]] int handshake_init(struct handshake *h);

/** handshake_finish() - release everything that was not handed out */
void handshake_finish(struct handshake *h);

/**
 * handshake_receive() - take what has arrived on @sock
 * @ret_uffd: a userfaultfd, non-blocking and close-on-exec, the caller's to close
 *
 * Returns: 0 when the hand-over is complete, -EAGAIN when more must come, -ECONNRESET when the peer
 * closed before it sent anything, -EPROTO with the reason in @e when it broke the protocol.
 */
[[gnu::warn_unused_result]] int handshake_receive(struct handshake *h, int sock,
                                                  struct handover **ret, int *ret_uffd,
                                                  struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "memory/handshake.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "format/handover.h"
#include "kernel/uffd.h"

int handshake_init(struct handshake *h)
{
    *h = (struct handshake){.body = malloc(HANDOVER_MAX_BYTES)};
    return h->body ? 0 : -ENOMEM;
}

void handshake_finish(struct handshake *h)
{
    for (size_t i = 0; i < h->fd_count; i++)
        close_fd(&h->fds[i]);
    free(h->body);
    *h = (struct handshake){0};
}

/* All descriptors are taken, even those too many to keep: a leak would be ours. */
static int take_fds(struct handshake *h, struct msghdr *msg)
{
    int r = 0;

    for (struct cmsghdr *c = CMSG_FIRSTHDR(msg); c; c = CMSG_NXTHDR(msg, c)) {
        size_t n;

        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        n = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < n; i++) {
            int fd;

            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof(fd));
            if (h->fd_count < HANDSHAKE_MAX_FDS) {
                h->fds[h->fd_count++] = fd;
            } else {
                close(fd);
                r = -EPROTO;
            }
        }
    }
    return r;
}

/* Returns the number of bytes taken, 0 at end of stream, or -errno. */
static ssize_t receive_some(struct handshake *h, int sock, struct thaw_error *e)
{
    char control[CMSG_SPACE(HANDSHAKE_MAX_FDS * sizeof(int))];
    struct iovec iov = {.iov_base = h->body + h->len, .iov_len = HANDOVER_MAX_BYTES - h->len};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    ssize_t n;

    if (iov.iov_len == 0)
        return err_set(e, -EPROTO, "the hand-over is longer than %zu bytes",
                       (size_t)HANDOVER_MAX_BYTES);
    do
        n = recvmsg(sock, &msg, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        return errno == EAGAIN ? -EAGAIN : err_errno(e, -errno, "receiving the hand-over");
    /* The kernel drops what does not fit into the control buffer, and closes it: cmsg(3). */
    if (take_fds(h, &msg) < 0 || (msg.msg_flags & MSG_CTRUNC))
        return err_set(e, -EPROTO, "the hand-over carries more than %d descriptors",
                       HANDSHAKE_MAX_FDS);
    h->len += (size_t)n;
    return n;
}

/* The first descriptor is the uffd in every variant; what else was sent is not needed here. */
static int take_uffd(struct handshake *h, int *ret, struct thaw_error *e)
{
    int flags;

    if (h->fd_count == 0)
        return err_set(e, -EPROTO, "the hand-over carries no descriptor, so no userfaultfd");
    if (!uffd_is_one(h->fds[0]))
        return err_set(e, -EPROTO, "the descriptor in the hand-over is not a userfaultfd");
    flags = fcntl(h->fds[0], F_GETFL);
    if (flags < 0 || fcntl(h->fds[0], F_SETFL, flags | O_NONBLOCK) < 0)
        return err_errno(e, -errno, "making the userfaultfd non-blocking");
    *ret = TAKE_FD(h->fds[0]);
    return 0;
}

int handshake_receive(struct handshake *h, int sock, struct handover **ret, int *ret_uffd,
                      struct thaw_error *e)
{
    for (;;) {
        struct handover *parsed CLEANUP_HANDOVER = NULL;
        ssize_t n = receive_some(h, sock, e);
        int r;

        if (n < 0)
            return (int)n;
        if (n == 0 && h->len == 0)
            return err_set(e, -ECONNRESET, "the VMM closed its connection without a hand-over");
        r = handover_decode(h->body, h->len, &parsed, e);
        if (r == -EAGAIN && n > 0)
            continue;
        if (r == -EAGAIN)
            return err_set(e, -EPROTO,
                           "the VMM closed its connection in the middle of the "
                           "hand-over, after %zu bytes",
                           h->len);
        if (r == 0)
            r = take_uffd(h, ret_uffd, e);
        if (r == 0)
            *ret = TAKE_PTR(parsed);
        return r;
    }
}

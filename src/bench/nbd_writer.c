/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/nbd_writer.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "format/nbd.h"
#include "format/nbd_bytes.h"

#define ANSWER_BYTES 10 /* to NBD_OPT_EXPORT_NAME, without zeroes: size and flags */

static int receive_all(int sock, void *buf, size_t len)
{
    ssize_t n = recv(sock, buf, len, MSG_WAITALL);

    if (n < 0)
        return -errno;
    return (size_t)n == len ? 0 : -ECONNRESET;
}

/* @head, and after it @data; both are sent or it fails. */
static int send_both(int sock, const void *head, size_t head_len, const void *data, size_t data_len)
{
    struct iovec iov[] = {{(void *)(uintptr_t)head, head_len}, {(void *)(uintptr_t)data, data_len}};
    struct msghdr msg = {.msg_iov = iov, .msg_iovlen = 2};

    while (msg.msg_iovlen > 0) {
        ssize_t n = sendmsg(sock, &msg, MSG_NOSIGNAL);

        if (n < 0 && errno != EINTR)
            return -errno;
        for (size_t left = n > 0 ? (size_t)n : 0; msg.msg_iovlen > 0;) {
            struct iovec *v = msg.msg_iov;

            if (left < v->iov_len) {
                *v = (struct iovec){(char *)v->iov_base + left, v->iov_len - left};
                break;
            }
            left -= v->iov_len;
            msg.msg_iov++;
            msg.msg_iovlen--;
        }
    }
    return 0;
}

/* The shortest handshake there is: the export is chosen, and its size comes. */
static int shake_hands(struct nbd_writer_client *c)
{
    uint8_t greeting[NBD_GREETING_BYTES], hello[NBD_CLIENT_FLAGS_BYTES + NBD_OPTION_BYTES];
    uint8_t answer[ANSWER_BYTES];
    int r = receive_all(c->sock, greeting, sizeof(greeting));

    if (r < 0)
        return r;
    if (load_be(greeting, 8) != NBD_MAGIC || load_be(greeting + 8, 8) != NBD_OPTION_MAGIC)
        return -EPROTO;
    store_be(hello, NBD_FIXED_NEWSTYLE | NBD_NO_ZEROES, 4);
    store_be(hello + 4, NBD_OPTION_MAGIC, 8);
    store_be(hello + 12, NBD_OPT_EXPORT_NAME, 4);
    store_be(hello + 16, 0, 4);
    r = send_both(c->sock, hello, sizeof(hello), NULL, 0);
    if (r == 0)
        r = receive_all(c->sock, answer, sizeof(answer));
    if (r == 0)
        c->bytes = load_be(answer, 8);
    return r;
}

int nbd_writer_open(struct nbd_writer_client *c, const char *socket_path, struct thaw_error *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    int r;

    strncpy(addr.sun_path, socket_path, sizeof(addr.sun_path) - 1);
    *c = (struct nbd_writer_client){.sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)};
    if (c->sock < 0 || connect(c->sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return err_errno(e, -errno, "connecting to the disk at %s", socket_path);
    r = shake_hands(c);
    return r < 0 ? err_errno(e, r, "opening the disk at %s", socket_path) : 0;
}

static int request(struct nbd_writer_client *c, enum nbd_command command, uint64_t off,
                   const void *data, uint32_t len_bytes)
{
    uint8_t head[NBD_REQUEST_BYTES];

    store_be(head, NBD_REQUEST_MAGIC, 4);
    store_be(head + 4, 0, 2);
    store_be(head + 6, command, 2);
    store_be(head + 8, ++c->cookie, 8);
    store_be(head + 16, off, 8);
    store_be(head + 24, len_bytes, 4);
    return send_both(c->sock, head, sizeof(head), data, data ? len_bytes : 0);
}

static int wait_for_answer(struct nbd_writer_client *c)
{
    uint8_t answer[NBD_SIMPLE_BYTES];
    int r = receive_all(c->sock, answer, sizeof(answer));

    if (r < 0)
        return r;
    if (load_be(answer, 4) != NBD_SIMPLE_MAGIC || load_be(answer + 8, 8) != c->cookie)
        return -EPROTO;
    return load_be(answer + 4, 4) == NBD_ENOSPC ? -ENOSPC : load_be(answer + 4, 4) ? -EIO : 0;
}

int nbd_writer_write(struct nbd_writer_client *c, uint64_t off, const void *data,
                     uint32_t len_bytes)
{
    int r = request(c, NBD_CMD_WRITE, off, data, len_bytes);

    return r < 0 ? r : wait_for_answer(c);
}

int nbd_writer_flush(struct nbd_writer_client *c)
{
    int r = request(c, NBD_CMD_FLUSH, 0, NULL, 0);

    return r < 0 ? r : wait_for_answer(c);
}

void nbd_writer_break(struct nbd_writer_client *c)
{
    if (c->sock >= 0)
        shutdown(c->sock, SHUT_RDWR);
}

void nbd_writer_close(struct nbd_writer_client *c)
{
    if (c->sock >= 0)
        (void)!request(c, NBD_CMD_DISC, 0, NULL, 0);
    close_fd(&c->sock);
}

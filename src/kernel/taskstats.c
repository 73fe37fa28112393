/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/taskstats.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/genetlink.h>
#include <linux/netlink.h>
#include <linux/taskstats.h>
#include <stddef.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include "base/cleanup.h"

#define REPLY_BYTES     4096
#define MISLAID_VERSION 15 /* of Linux 6.14: it put new fields before these, 16 put them back */

struct request {
    struct nlmsghdr head;
    struct genlmsghdr command;
    struct nlattr attribute;
    uint8_t value[16];
};

/* The attributes of an answer, in a buffer that is aligned as they want it. */
struct answer {
    _Alignas(struct nlmsghdr) uint8_t bytes[REPLY_BYTES];
    const uint8_t *attributes;
    size_t len;
};

static int send_request(int fd, uint16_t family, uint8_t command, uint16_t attribute,
                        const void *value, size_t value_len)
{
    struct request r;
    ssize_t n;

    memset(&r, 0, sizeof(r));
    r.head.nlmsg_len = (uint32_t)(offsetof(struct request, value) + NLA_ALIGN(value_len));
    r.head.nlmsg_type = family;
    r.head.nlmsg_flags = NLM_F_REQUEST;
    r.command.cmd = command;
    r.command.version = 1;
    r.attribute.nla_type = attribute;
    r.attribute.nla_len = (uint16_t)(NLA_HDRLEN + value_len);
    memcpy(r.value, value, value_len);
    do {
        n = send(fd, &r, r.head.nlmsg_len, 0);
    } while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static int receive(int fd, struct answer *ret)
{
    struct nlmsghdr head;
    size_t body = NLMSG_HDRLEN + GENL_HDRLEN;
    ssize_t n;

    do {
        n = recv(fd, ret->bytes, sizeof(ret->bytes), 0);
    } while (n < 0 && errno == EINTR);
    if (n < 0)
        return -errno;
    memcpy(&head, ret->bytes, sizeof(head));
    if ((size_t)n < sizeof(head) || head.nlmsg_len > (size_t)n)
        return -EPROTO;
    if (head.nlmsg_type == NLMSG_ERROR) {
        struct nlmsgerr error;

        if ((size_t)n < NLMSG_HDRLEN + sizeof(error))
            return -EPROTO;
        memcpy(&error, ret->bytes + NLMSG_HDRLEN, sizeof(error));
        return error.error < 0 ? error.error : -EPROTO;
    }
    if (head.nlmsg_len < body)
        return -EPROTO;
    ret->attributes = ret->bytes + body;
    ret->len = head.nlmsg_len - body;
    return 0;
}

/* The value of attribute @type, at least @min bytes, or NULL */
static const uint8_t *find(const uint8_t *at, size_t len, uint16_t type, size_t min,
                           size_t *ret_len)
{
    struct nlattr a;

    while (len >= sizeof(a)) {
        size_t step;

        memcpy(&a, at, sizeof(a));
        if (a.nla_len < sizeof(a) || a.nla_len > len)
            return NULL;
        if ((a.nla_type & NLA_TYPE_MASK) == type && a.nla_len - sizeof(a) >= min) {
            *ret_len = a.nla_len - sizeof(a);
            return at + sizeof(a);
        }
        step = NLA_ALIGN((size_t)a.nla_len);
        step = step < len ? step : len;
        at += step;
        len -= step;
    }
    return NULL;
}

int taskstats_open(struct taskstats_socket *ret)
{
    /* The kernel answers within the request; the time limit only keeps a surprise from hanging us.
     */
    const struct timeval patience = {.tv_sec = 10};
    int fd CLEANUP_FD = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_GENERIC);
    struct answer answer;
    const uint8_t *id;
    size_t len = 0;
    int r;

    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) < 0)
        return -errno;
    r = send_request(fd, GENL_ID_CTRL, CTRL_CMD_GETFAMILY, CTRL_ATTR_FAMILY_NAME,
                     TASKSTATS_GENL_NAME, sizeof(TASKSTATS_GENL_NAME));
    if (r == 0)
        r = receive(fd, &answer);
    if (r < 0)
        return r;
    id = find(answer.attributes, answer.len, CTRL_ATTR_FAMILY_ID, sizeof(ret->family), &len);
    if (!id)
        return -EPROTO;
    memcpy(&ret->family, id, sizeof(ret->family));
    ret->fd = TAKE_FD(fd);
    return 0;
}

int taskstats_delay_of(struct taskstats_socket *s, pid_t tid, struct taskstats_delay *ret)
{
    /* Later versions only append; these two stand where version 1 has them, but for one. */
    const size_t needed = offsetof(struct taskstats, swapin_count);
    uint32_t id = (uint32_t)tid;
    uint16_t version;
    struct answer answer;
    const uint8_t *of_thread, *stats;
    size_t len = 0;
    int r =
        send_request(s->fd, s->family, TASKSTATS_CMD_GET, TASKSTATS_CMD_ATTR_PID, &id, sizeof(id));

    if (r == 0)
        r = receive(s->fd, &answer);
    if (r < 0)
        return r;
    of_thread = find(answer.attributes, answer.len, TASKSTATS_TYPE_AGGR_PID, 0, &len);
    stats = of_thread ? find(of_thread, len, TASKSTATS_TYPE_STATS, needed, &len) : NULL;
    if (!stats)
        return -EPROTO;
    memcpy(&version, stats + offsetof(struct taskstats, version), sizeof(version));
    if (version == MISLAID_VERSION)
        return -EOPNOTSUPP;
    memcpy(&ret->count, stats + offsetof(struct taskstats, blkio_count), sizeof(ret->count));
    memcpy(&ret->ns, stats + offsetof(struct taskstats, blkio_delay_total), sizeof(ret->ns));
    return 0;
}

void taskstats_close(struct taskstats_socket *s)
{
    close_fd(&s->fd);
}

bool delayacct_enabled(void)
{
    int fd CLEANUP_FD = open("/proc/sys/kernel/task_delayacct", O_RDONLY | O_CLOEXEC);
    char c = '0';

    return fd >= 0 && read(fd, &c, 1) == 1 && c == '1';
}

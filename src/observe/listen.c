/* SPDX-License-Identifier: Apache-2.0 */
#include "observe/listen.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "kernel/unix_socket.h"

#define UNIX_PREFIX "unix:"
#define BACKLOG     64
#define HOST_MAX    254 /* the longest name that DNS has */

/* ---- sockets in the file system ---- */

static int listen_on_path(const char *path, char ret_bound[static LISTEN_ADDRESS_MAX],
                          struct thaw_error *e)
{
    struct unix_listen_options at = {
        .path = path,
        .owner_uid = (uid_t)-1,
        .owner_gid = (gid_t)-1,
        .backlog = BACKLOG,
        .replace_stale = true,
    };
    int fd = unix_listen(&at, e);

    if (fd < 0)
        return fd;
    snprintf(ret_bound, LISTEN_ADDRESS_MAX, "%s%s", UNIX_PREFIX, path);
    return fd;
}

void listen_forget(const char *bound)
{
    if (strncmp(bound, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
        unlink(bound + strlen(UNIX_PREFIX));
}

/* ---- TCP ---- */

/* Part "HOST:PORT". Brackets belong around a host with colons, and are taken off. */
static int split_address(const char *address, char ret_host[static HOST_MAX], const char **ret_port,
                         struct thaw_error *e)
{
    const char *colon = strrchr(address, ':');
    const char *host = address;
    size_t len = colon ? (size_t)(colon - address) : 0;
    unsigned port = 0;
    int end = 0;

    if (!colon || sscanf(colon + 1, "%5u%n", &port, &end) != 1 || colon[1 + end] != '\0' ||
        port > UINT16_MAX || colon[1] < '0' || colon[1] > '9')
        return err_set(e, -EINVAL,
                       "address '%s' does not end with ':' and a port of 0 to 65535:"
                       " write HOST:PORT, [IPV6]:PORT or unix:PATH",
                       address);
    if (len >= 2 && host[0] == '[' && host[len - 1] == ']') {
        host++;
        len -= 2;
    } else if (memchr(host, ':', len)) {
        return err_set(e, -EINVAL, "address '%s': an IPv6 address stands in brackets, [::1]:PORT",
                       address);
    }
    if (len >= HOST_MAX)
        return err_set(e, -EINVAL, "address '%.40s...': the host is too long", address);
    memcpy(ret_host, host, len);
    ret_host[len] = '\0';
    *ret_port = colon + 1;
    return 0;
}

static int listen_on_one(const struct addrinfo *at)
{
    int fd CLEANUP_FD = socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    int on = 1;

    /* Connections of a process that has ended are in nobody's way. */
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on)) < 0 ||
        bind(fd, at->ai_addr, at->ai_addrlen) < 0 || listen(fd, BACKLOG) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static int tell_bound(int fd, char ret_bound[static LISTEN_ADDRESS_MAX])
{
    struct sockaddr_storage addr = {0};
    socklen_t len = sizeof(addr);
    char host[NI_MAXHOST], port[NI_MAXSERV];
    bool v6;

    if (getsockname(fd, (struct sockaddr *)&addr, &len) < 0 ||
        getnameinfo((struct sockaddr *)&addr, len, host, sizeof(host), port, sizeof(port),
                    NI_NUMERICHOST | NI_NUMERICSERV) != 0)
        return -EIO;
    v6 = addr.ss_family == AF_INET6;
    snprintf(ret_bound, LISTEN_ADDRESS_MAX, "%s%.80s%s:%.8s", v6 ? "[" : "", host, v6 ? "]" : "",
             port);
    return 0;
}

static void cleanup_addrinfo(struct addrinfo **list)
{
    if (*list)
        freeaddrinfo(*list);
}

static int listen_on_port(const char *address, char ret_bound[static LISTEN_ADDRESS_MAX],
                          struct thaw_error *e)
{
    struct addrinfo hints = {.ai_flags = AI_PASSIVE, .ai_socktype = SOCK_STREAM};
    struct addrinfo *list CLEANUP(cleanup_addrinfo) = NULL;
    char host[HOST_MAX];
    const char *port;
    int fd CLEANUP_FD = -1;
    int r = split_address(address, host, &port, e);

    if (r < 0)
        return r;
    r = getaddrinfo(host[0] ? host : NULL, port, &hints, &list);
    if (r != 0)
        return err_set(e, -EINVAL,
                       "address '%s': %s: is the host written right, and one of this"
                       " machine's?",
                       address, gai_strerror(r));
    fd = -EADDRNOTAVAIL;
    for (const struct addrinfo *at = list; at && fd < 0; at = at->ai_next)
        fd = listen_on_one(at);
    if (fd == -EADDRINUSE)
        return err_set(e, fd,
                       "address %s is in use: choose another port (0 takes any), or stop who"
                       " listens there",
                       address);
    if (fd < 0)
        return err_errno(e, fd, "listening on %s", address);
    if (tell_bound(fd, ret_bound) < 0)
        return err_set(e, -EIO, "listening on %s: the address cannot be told", address);
    return TAKE_FD(fd);
}

int listen_on(const char *address, char ret_bound[static LISTEN_ADDRESS_MAX], struct thaw_error *e)
{
    if (strncmp(address, UNIX_PREFIX, strlen(UNIX_PREFIX)) == 0)
        return listen_on_path(address + strlen(UNIX_PREFIX), ret_bound, e);
    return listen_on_port(address, ret_bound, e);
}

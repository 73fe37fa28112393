/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/pidfd.h"

#include <errno.h>
#include <stddef.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#ifndef SO_PEERPIDFD
#define SO_PEERPIDFD 77 /* asm-generic/socket.h since Linux 6.5 */
#endif

int pidfd_open_pid(pid_t pid)
{
    long fd = syscall(SYS_pidfd_open, pid, 0);

    return fd < 0 ? -errno : (int)fd;
}

int pidfd_of_peer(int sock, pid_t *ret_pid)
{
    struct ucred cred;
    socklen_t len = sizeof(cred);
    int fd = -1;

    if (getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &cred, &len) < 0)
        return -errno;
    len = sizeof(fd);
    if (getsockopt(sock, SOL_SOCKET, SO_PEERPIDFD, &fd, &len) == 0) {
        *ret_pid = cred.pid;
        return fd;
    }
    /* Where the kernel knows the option, the peer is gone, and its number may be another's. */
    if (errno != ENOPROTOOPT)
        return -errno;
    if (cred.pid <= 0)
        return -ESRCH;
    fd = pidfd_open_pid(cred.pid);
    if (fd >= 0)
        *ret_pid = cred.pid;
    return fd;
}

int pidfd_kill(int pidfd, int sig)
{
    return syscall(SYS_pidfd_send_signal, pidfd, sig, NULL, 0) < 0 ? -errno : 0;
}

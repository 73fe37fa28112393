/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/huge_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/error.h"

#define FOLDER "/sys/kernel/mm/hugepages/hugepages-2048kB/"

static int get(const char *path, uint64_t *ret)
{
    FILE *f = fopen(path, "re");
    int n = f ? fscanf(f, "%" SCNu64, ret) : 0;

    if (f)
        fclose(f);
    return n == 1 ? 0 : -ENOENT;
}

static int set_pool(uint64_t pages)
{
    char text[32];
    int n = snprintf(text, sizeof(text), "%" PRIu64, pages);
    int fd CLEANUP_FD = open(FOLDER "nr_hugepages", O_WRONLY | O_CLOEXEC);

    return fd < 0 || write(fd, text, (size_t)n) != n ? -errno : 0;
}

static int grow(uint64_t pages)
{
    uint64_t before = 0, now = 0, unused = 0;
    int r = get(FOLDER "nr_hugepages", &before);

    if (r == 0)
        r = set_pool(before + pages);
    if (r == 0)
        r = get(FOLDER "nr_hugepages", &now);
    if (r == 0)
        r = get(FOLDER "free_hugepages", &unused);
    if (r < 0)
        return r;
    if (now >= before + pages && unused >= pages)
        return 0;
    (void)set_pool(before);
    return -ENOMEM;
}

/* What others have changed meanwhile stays as it is. */
static void shrink(uint64_t pages)
{
    uint64_t now = 0;

    if (get(FOLDER "nr_hugepages", &now) == 0)
        (void)set_pool(now > pages ? now - pages : 0);
}

/* Says how it went, and gives them back when the other end is closed, by whatever. */
[[gnu::noreturn]] static void keep(uint64_t pages, int control)
{
    char byte;
    int r;

    signal(SIGINT, SIG_IGN);
    signal(SIGTERM, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    r = grow(pages);
    (void)!write(control, &r, sizeof(r));
    while (read(control, &byte, 1) < 0 && errno == EINTR)
        ;
    if (r == 0)
        shrink(pages);
    _exit(EXIT_SUCCESS);
}

int huge_pages_open(uint64_t pages, struct thaw_error *e)
{
    int pair[2], r = -ECHILD;
    pid_t pid;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, -errno, "making a socket pair");
    fflush(stdout);
    pid = fork();
    if (pid == 0) {
        close(pair[0]);
        keep(pages, pair[1]);
    }
    close(pair[1]);
    if (pid < 0 || read(pair[0], &r, sizeof(r)) != sizeof(r) || r < 0) {
        close(pair[0]);
        return err_errno(e, r, "%" PRIu64 " pages of 2 MiB cannot be had", pages);
    }
    return pair[0];
}

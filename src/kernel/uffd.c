/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "base/cleanup.h"

/*
 * Since Linux 6.6; Debian 12's headers are of 6.1. From the kernel's description in
 * Documentation/admin-guide/mm/userfaultfd.rst and its ABI (ioctl type 0xAA, number 8).
 */
struct poison_args {
    struct uffdio_range range;
    uint64_t mode;
    int64_t updated; /* out: bytes, or -errno */
};
#define POISON_IOCTL _IOWR(UFFDIO, 0x08, struct poison_args)

static int kernel_read(int fd, struct uffd_msg *ret, size_t max)
{
    ssize_t n;

    do
        n = read(fd, ret, max * sizeof(*ret));
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : (int)((size_t)n / sizeof(*ret));
}

/* The result field holds bytes done or -errno; the ioctl's own error is the one to believe. */
static int finish(int r, int64_t field, uint64_t len_bytes, uint64_t *ret_done)
{
    int err = r < 0 ? -errno : 0;

    *ret_done = field > 0 ? (uint64_t)field : 0;
    if (err == 0 && *ret_done < len_bytes)
        return -EAGAIN;
    return err;
}

static int kernel_copy(int fd, struct host_addr dst, const void *src, uint64_t len_bytes,
                       uint64_t *ret_done)
{
    struct uffdio_copy args = {.dst = dst.v, .src = (uintptr_t)src, .len = len_bytes};
    int r = ioctl(fd, UFFDIO_COPY, &args);

    return finish(r, args.copy, len_bytes, ret_done);
}

static int kernel_zero(int fd, struct host_addr dst, uint64_t len_bytes, uint64_t *ret_done)
{
    struct uffdio_zeropage args = {.range = {.start = dst.v, .len = len_bytes}};
    int r = ioctl(fd, UFFDIO_ZEROPAGE, &args);

    return finish(r, args.zeropage, len_bytes, ret_done);
}

static int kernel_wake(int fd, struct host_addr at, uint64_t len_bytes)
{
    struct uffdio_range range = {.start = at.v, .len = len_bytes};

    return ioctl(fd, UFFDIO_WAKE, &range) < 0 ? -errno : 0;
}

static int kernel_poison(int fd, struct host_addr at, uint64_t len_bytes)
{
    struct poison_args args = {.range = {.start = at.v, .len = len_bytes}};

    if (ioctl(fd, POISON_IOCTL, &args) == 0)
        return 0;
    /* A kernel that does not know the request says EINVAL: ioctl(2). */
    return errno == EINVAL ? -EOPNOTSUPP : -errno;
}

static int kernel_unprotect(int fd, struct host_addr at, uint64_t len_bytes)
{
    struct uffdio_writeprotect args = {.range = {.start = at.v, .len = len_bytes}};

    return ioctl(fd, UFFDIO_WRITEPROTECT, &args) < 0 ? -errno : 0;
}

const struct uffd_ops uffd_kernel = {
    .read = kernel_read,
    .copy = kernel_copy,
    .zero = kernel_zero,
    .wake = kernel_wake,
    .poison = kernel_poison,
    .unprotect = kernel_unprotect,
};

bool uffd_is_one(int fd)
{
    char path[64], target[64];
    ssize_t n;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
    n = readlink(path, target, sizeof(target) - 1);
    if (n < 0)
        return false;
    target[n] = '\0';
    return strcmp(target, "anon_inode:[userfaultfd]") == 0;
}

/* Where a sandbox forbids the system call, the device file (Linux 6.1) may have been let in. */
static int open_user_mode(void)
{
    int device CLEANUP_FD = -1;
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    int err = errno;

    if (fd >= 0)
        return fd;
    device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (device < 0)
        return -err;
    fd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    return fd < 0 ? -err : fd;
}

int uffd_guard_open(void)
{
    struct uffdio_api api = {.api = UFFD_API,
                             .features = UFFD_FEATURE_SIGBUS | UFFD_FEATURE_MISSING_SHMEM};
    int fd CLEANUP_FD = open_user_mode();

    if (fd < 0)
        return fd;
    /* EINVAL: one of the features is unknown. */
    if (ioctl(fd, UFFDIO_API, &api) < 0)
        return errno == EINVAL ? -EOPNOTSUPP : -errno;
    return TAKE_FD(fd);
}

int uffd_guard_add(int fd, void *start, size_t len_bytes)
{
    struct uffdio_register args = {.range = {.start = (uintptr_t)start, .len = len_bytes},
                                   .mode = UFFDIO_REGISTER_MODE_MISSING};

    return ioctl(fd, UFFDIO_REGISTER, &args) < 0 ? -errno : 0;
}

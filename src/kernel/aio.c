/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/aio.h"

#include <errno.h>
#include <linux/aio_abi.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "base/log.h"

/* --- where there is no aio --- */

static ssize_t write_at_once(int fd, const struct iovec *iov, unsigned count, uint64_t offset)
{
    ssize_t n;

    do
        n = pwritev(fd, iov, (int)count, (off_t)offset);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n;
}

/* --- where there is --- */

/* FUSE tells aio -EIO of a write that was only short. */
static bool is_fuse(int fd)
{
    struct statfs fs;

    return fstatfs(fd, &fs) == 0 && fs.f_type == FUSE_SUPER_MAGIC;
}

/*
 * Not on FUSE; and it may be refused by a sandbox, left out of the kernel, or all of fs.aio-max-nr
 * are taken.
 */
static bool has_context(struct aio_writer *a, int fd)
{
    aio_context_t context = 0;

    if (!a->asked)
        a->asked = is_fuse(fd);
    if (!a->asked && syscall(SYS_io_setup, 1, &context) < 0)
        log_debug("io_setup: %s; readers of a file may wait for writes to it", strerror(errno));
    if (!a->asked)
        a->context = context;
    a->asked = true;
    return a->context != 0;
}

/* It is not given up half-way: the kernel reads from the caller's memory until it is over. */
static ssize_t await(const struct aio_writer *a)
{
    struct io_event event;
    long n;

    do
        n = syscall(SYS_io_getevents, a->context, 1, 1, &event, NULL);
    while (n == 0 || (n < 0 && errno == EINTR));
    return n < 0 ? -errno : (ssize_t)event.res;
}

ssize_t aio_pwritev(struct aio_writer *a, int fd, const struct iovec *iov, unsigned count,
                    uint64_t offset)
{
    struct iocb request = {
        .aio_lio_opcode = IOCB_CMD_PWRITEV,
        .aio_fildes = (uint32_t)fd,
        .aio_buf = (uintptr_t)iov,
        .aio_nbytes = count,
        .aio_offset = (int64_t)offset,
    };
    struct iocb *list[] = {&request};
    ssize_t n = -EAGAIN;

    if (has_context(a, fd))
        n = syscall(SYS_io_submit, a->context, 1, list) == 1 ? await(a) : -errno;
    /* Not submitted: a lack of what only aio needs, or what pwritev(2) will say, too. */
    return n == -EAGAIN || n == -EINTR || n == -ENOSYS ? write_at_once(fd, iov, count, offset) : n;
}

void aio_writer_finish(struct aio_writer *a)
{
    if (a->context != 0)
        syscall(SYS_io_destroy, a->context);
    *a = (struct aio_writer){0};
}

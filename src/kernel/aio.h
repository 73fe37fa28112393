/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_AIO_H
#define THAW_KERNEL_AIO_H

/*
 * Writes to files with O_DIRECT that keep no reader of the same file waiting: aio(7).
 *
 * Ext4 holds the lock of a file while it puts data where a hole was, and readers need that lock.
 * pwritev(2) has it until the disk is done; a write that is only submitted has it until it is
 * submitted, and then the caller waits for its end without it. The interface is older than io_uring
 * and is there where that is forbidden. Where it is not, pwritev(2) does.
 *
 * One thread at a time, and files of one file system. Zeros are a good start.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>

struct aio_writer {
    unsigned long context; /* owned: aio_context_t; 0: none */
    bool asked;            /* whether there is one to be had is known */
};

/**
 * aio_pwritev() - as pwritev(2), of whose @count and @offset it is; blocks until it is done
 *
 * Returns: how many bytes, or -errno; -EINTR is not one of them.
 */
[[gnu::warn_unused_result]] ssize_t aio_pwritev(struct aio_writer *a, int fd,
                                                const struct iovec *iov, unsigned count,
                                                uint64_t offset);

/** aio_writer_finish() - release what the kernel has for it; it is as new afterwards */
void aio_writer_finish(struct aio_writer *a);

#endif

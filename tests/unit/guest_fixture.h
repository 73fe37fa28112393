/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_GUEST_FIXTURE_H
#define THAW_TESTS_GUEST_FIXTURE_H

/* A stand-in for guest memory: pages of our own that only UFFDIO_COPY fills. Any thread may. */

#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "kernel/uffd.h"
#include "unit.h"

struct guest {
    int uffd;
    char *memory;
    size_t bytes;
};

/** guest_is_possible() - whether this process may have a userfaultfd */
static inline bool guest_is_possible(void)
{
    int fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);

    if (fd >= 0)
        close(fd);
    return fd >= 0;
}

static inline void guest_init(struct guest *g, size_t bytes)
{
    struct uffdio_api api = {.api = UFFD_API};
    struct uffdio_register range = {.mode = UFFDIO_REGISTER_MODE_MISSING};

    g->bytes = bytes;
    g->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    assert_true(g->uffd >= 0);
    assert_int_equal(ioctl(g->uffd, UFFDIO_API, &api), 0);
    g->memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g->memory, MAP_FAILED);
    range.range.start = (uintptr_t)g->memory;
    range.range.len = bytes;
    assert_int_equal(ioctl(g->uffd, UFFDIO_REGISTER, &range), 0);
}

static inline void guest_finish(struct guest *g)
{
    munmap(g->memory, g->bytes);
    close(g->uffd);
}

/** guest_install() - @len bytes at @at; 0 or -errno */
static inline int guest_install(const struct guest *g, uint64_t at, const void *bytes, uint64_t len)
{
    uint64_t done;

    return uffd_kernel.copy(g->uffd, (struct host_addr){(uintptr_t)g->memory + at}, bytes, len,
                            &done);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
/*
 * libthaw-shim.so: preloaded into a VMM that does not know userfaultfd (QEMU), it hands the memory
 * of the guest to a memory server in the way that Firecracker does.
 *
 * The first writable mapping of exactly THAW_SHIM_BYTES bytes is taken for guest memory. Before
 * the VMM gets to see it, it is registered with a userfaultfd, and one message goes to the unix
 * socket THAW_SHIM_SOCKET: the regions as JSON (format/handover.h), the userfaultfd as SCM_RIGHTS.
 * Both descriptors stay open as long as the VMM lives: the server sees its death as a hang-up, and
 * should the server die, the kernel blocks the vCPUs instead of giving them zeros.
 *
 *     THAW_SHIM_SOCKET      path; without it every call just passes through
 *     THAW_SHIM_BYTES       size of guest memory
 *     THAW_SHIM_PAGE_BYTES  its page size, 4096 when absent
 *     THAW_SHIM_READY_FD    inherited descriptor that takes one byte once all is done, then closed
 *
 * Two more calls of the VMM are watched once memory is handed over:
 *
 *     madvise(MADV_DONTNEED) on shared guest memory becomes MADV_REMOVE. A VMM that discards memory
 *     punches a hole into its file and then drops the mapping. Between the two, and unknown to the
 *     server, a page can be installed anew; dropping its mapping alone would leave it in the file,
 *     and the guest would find old bytes where it must find zeros. MADV_REMOVE tells the server
 *     first and punches then: madvise(2), userfaultfd(2).
 *
 *     close() of the descriptors below, by a VMM that closes all that it does not know, does
 *     nothing, and says so on stderr.
 *
 * Failure is a line on stderr and the end of the process: a guest that runs on memory which nobody
 * serves would read zeros. The variables, and this library in LD_PRELOAD, are gone from the
 * environment before main(), so children of the VMM are left alone.
 *
 * mmap() is called before any constructor has run, from signal handlers, and by malloc's users in
 * places where malloc must not be entered: nothing here allocates, and settings are read when they
 * are first needed.
 */
#undef _FILE_OFFSET_BITS /* it would give mmap() the name of mmap64(); both are defined here */

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

#include "format/handover.h"

#define LIBRARY "libthaw-shim.so"
#define EXPORT  [[gnu::visibility("default")]]

static_assert(sizeof(off_t) == 8 && sizeof(size_t) == 8, "mmap and mmap64 are the same call");

static struct {
    struct sockaddr_un address;
    uint64_t bytes;
    uint64_t page_bytes;
    int ready_fd;
    bool active; /* THAW_SHIM_SOCKET is set */
} settings;
static pthread_once_t settings_once = PTHREAD_ONCE_INIT;
static atomic_bool handed_over; /* [a] the thread that sets it does the hand-over */

/* What was handed over. Written before the mapping is known to anybody but the thread that made it.
 */
static struct {
    uintptr_t start, end; /* both 0: the memory is private */
    int uffd, sock;
    pid_t pid; /* a child that closes its copies hurts nobody */
} guest = {.uffd = -1, .sock = -1};

_Noreturn static void fail(const char *what, int error)
{
    char line[256];
    int n;

    if (error)
        n = snprintf(line, sizeof(line), "%s: %s: %s\n", LIBRARY, what, strerrordesc_np(error));
    else
        n = snprintf(line, sizeof(line), "%s: %s\n", LIBRARY, what);
    if (n > 0 && write(STDERR_FILENO, line, (size_t)n) < 0)
        _exit(2); /* nobody to tell why */
    _exit(1);
}

/* A decimal number from the environment, or @otherwise where it is not set. */
static uint64_t number(const char *name, uint64_t otherwise)
{
    const char *text = getenv(name);
    char *end;
    uint64_t v;

    if (!text)
        return otherwise;
    errno = 0;
    v = strtoull(text, &end, 10);
    if (errno || *text < '0' || *text > '9' || *end)
        fail(name, EINVAL);
    return v;
}

static void read_settings(void)
{
    const char *path = getenv("THAW_SHIM_SOCKET");

    if (!path)
        return;
    settings.address.sun_family = AF_UNIX;
    if (strlen(path) >= sizeof(settings.address.sun_path))
        fail("THAW_SHIM_SOCKET", ENAMETOOLONG);
    memcpy(settings.address.sun_path, path, strlen(path) + 1);
    settings.bytes = number("THAW_SHIM_BYTES", 0);
    settings.page_bytes = number("THAW_SHIM_PAGE_BYTES", PAGE_BYTES);
    settings.ready_fd = (int)number("THAW_SHIM_READY_FD", UINT32_MAX);
    if (settings.bytes == 0)
        fail("THAW_SHIM_BYTES does not say how much memory the guest has", 0);
    if (settings.ready_fd >= 0)
        fcntl(settings.ready_fd, F_SETFD, FD_CLOEXEC);
    settings.active = true;
}

/* Cut the entry that names this library out of LD_PRELOAD, whose entries are divided by colons or
 * blanks: ld.so(8). In place, since the text only gets shorter. */
static void leave_preload(void)
{
    char *list = getenv("LD_PRELOAD");
    char *at = list;

    while (at && *at) {
        size_t len = strcspn(at, ": ");
        size_t with_divider = len + (at[len] != '\0');

        if (memmem(at, len, LIBRARY, strlen(LIBRARY)))
            memmove(at, at + with_divider, strlen(at + with_divider) + 1);
        else
            at += with_divider;
    }
    if (list && !*list)
        unsetenv("LD_PRELOAD");
}

[[gnu::constructor]] static void forget_environment(void)
{
    pthread_once(&settings_once, read_settings);
    unsetenv("THAW_SHIM_SOCKET");
    unsetenv("THAW_SHIM_BYTES");
    unsetenv("THAW_SHIM_PAGE_BYTES");
    unsetenv("THAW_SHIM_READY_FD");
    leave_preload();
}

/* A userfaultfd that also takes faults of the kernel (KVM, and the VMM's own system calls), which
 * needs CAP_SYS_PTRACE, the sysctl, or access to the device file: userfaultfd(2). */
static int open_uffd(void)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
    int uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (uffd < 0) {
        int device = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);

        if (device < 0)
            fail("no userfaultfd: neither may this user open /dev/userfaultfd nor is the sysctl "
                 "vm.unprivileged_userfaultfd set",
                 errno);
        uffd = ioctl(device, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
        if (uffd < 0)
            fail("no userfaultfd from /dev/userfaultfd", errno);
        close(device);
    }
    if (ioctl(uffd, UFFDIO_API, &api) < 0)
        fail("UFFDIO_API with UFFD_FEATURE_EVENT_REMOVE", errno);
    return uffd;
}

static int send_hand_over(int uffd, const char *body, size_t len)
{
    union {
        struct cmsghdr align;
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = (char *)(uintptr_t)body, .iov_len = len};
    struct msghdr message = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    int sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    ssize_t n;

    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof(uffd));
    memcpy(CMSG_DATA(header), &uffd, sizeof(uffd));
    if (sock < 0 ||
        connect(sock, (struct sockaddr *)&settings.address, sizeof(settings.address)) < 0)
        fail("connecting to the memory server at THAW_SHIM_SOCKET", errno);
    do
        n = sendmsg(sock, &message, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0)
        fail("sending the hand-over to the memory server", errno);
    if ((size_t)n != len)
        fail("the memory server's socket took only a part of the hand-over", 0);
    return sock; /* it stays open: its hang-up tells the server that the VMM is gone */
}

static void hand_over(void *memory, bool shared)
{
    struct handover_region region = {
        .base = {(uintptr_t)memory},
        .size_bytes = settings.bytes,
        .offset = {0},
    };
    struct uffdio_register reg = {
        .range = {.start = (uintptr_t)memory, .len = settings.bytes},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };
    char body[512];
    int len = handover_encode(&region, 1, settings.page_bytes, body, sizeof(body));
    int uffd = open_uffd();

    if (len < 0)
        fail("encoding the hand-over", -len);
    if (ioctl(uffd, UFFDIO_REGISTER, &reg) < 0)
        fail("UFFDIO_REGISTER of the guest's memory", errno);
    guest.sock = send_hand_over(uffd, body, (size_t)len);
    guest.uffd = uffd;
    guest.pid = getpid();
    if (shared) {
        guest.start = (uintptr_t)memory;
        guest.end = guest.start + settings.bytes;
    }
    if (settings.ready_fd >= 0) {
        if (write(settings.ready_fd, "1", 1) != 1)
            fail("reporting at THAW_SHIM_READY_FD", errno);
        close(settings.ready_fd);
    }
}

static void *map(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    long r = syscall(SYS_mmap, addr, len, prot, flags, fd, offset);
    void *memory = (void *)r; /* MAP_FAILED is -1, which is also what syscall() returns */

    pthread_once(&settings_once, read_settings);
    if (memory != MAP_FAILED && settings.active && len == settings.bytes && (prot & PROT_WRITE) &&
        !atomic_exchange_explicit(&handed_over, true, memory_order_relaxed)) {
        int saved = errno;

        hand_over(memory, (flags & MAP_TYPE) != MAP_PRIVATE);
        errno = saved;
    }
    return memory;
}

EXPORT void *mmap(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    return map(addr, len, prot, flags, fd, offset);
}

EXPORT void *mmap64(void *addr, size_t len, int prot, int flags, int fd, off_t offset)
{
    return map(addr, len, prot, flags, fd, offset);
}

EXPORT int madvise(void *addr, size_t len, int advice)
{
    uintptr_t start = (uintptr_t)addr;

    if (advice == MADV_DONTNEED && start >= guest.start && start < guest.end &&
        len <= guest.end - start)
        advice = MADV_REMOVE;
    return (int)syscall(SYS_madvise, addr, len, advice);
}

EXPORT int close(int fd)
{
    static const char text[] = LIBRARY ": the VMM wanted to close what serves its guest's memory\n";

    if (fd >= 0 && (fd == guest.uffd || fd == guest.sock) && guest.pid == getpid()) {
        ssize_t n = write(STDERR_FILENO, text, sizeof(text) - 1);

        (void)n; /* nobody else to tell */
        return 0;
    }
    return (int)syscall(SYS_close, fd);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "vmm_client.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "client_util.h"

#define HUGE_PAGE_BYTES (2 * MIB)
#define REGION_TEXT_MAX 160 /* one element of the JSON array: five numbers of at most 20 digits */

#ifndef MAP_HUGE_2MB
#define MAP_HUGE_2MB (21 << 26)
#endif

static int layout_parse_sizes(struct vmm_layout *layout, const char *spec)
{
    char *copy CLEANUP_FREE = strdup(spec), *rest = copy, *word;

    if (!copy)
        return -ENOMEM;
    while ((word = strsep(&rest, ",")) != NULL) {
        if (layout->n_regions == VMM_REGIONS_MAX)
            return -EINVAL;
        if (util_parse_size(word, &layout->sizes[layout->n_regions]) < 0)
            return -EINVAL;
        layout->n_regions++;
    }
    return 0;
}

int vmm_layout_parse(struct vmm_layout *ret, const char *spec, uint64_t page_bytes,
                     uint64_t memory_bytes)
{
    struct vmm_layout layout = {.page_bytes = page_bytes};
    uint64_t left = memory_bytes;
    int r;

    if (page_bytes != PAGE_BYTES && page_bytes != HUGE_PAGE_BYTES)
        return -EINVAL;
    if (spec) {
        r = layout_parse_sizes(&layout, spec);
        if (r < 0)
            return r;
    } else {
        uint64_t first = round_down(memory_bytes / 4 * 3, page_bytes);

        if (first > 0)
            layout.sizes[layout.n_regions++] = first;
        layout.sizes[layout.n_regions++] = memory_bytes - first;
    }
    for (size_t i = 0; i < layout.n_regions; i++) {
        if (layout.sizes[i] % page_bytes != 0 || layout.sizes[i] > left)
            return -EINVAL;
        left -= layout.sizes[i];
    }
    if (left != 0 || memory_bytes == 0)
        return -EINVAL;
    *ret = layout;
    return 0;
}

/* The device node first, then the system call: kernels before 6.1 have no node. */
static int open_uffd(void)
{
    int dev CLEANUP_FD = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    int fd;

    if (dev >= 0)
        fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC | O_NONBLOCK);
    else
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);
    return fd < 0 ? -errno : fd;
}

/* A region in the middle of reserved address space, each with another distance to its edges. */
static int map_region(struct vmm_client *c, struct vmm_region *region)
{
    uint64_t gap = (1 + c->n_regions % 3) * HUGE_PAGE_BYTES;
    uint64_t span_bytes = region->bytes + 2 * gap + HUGE_PAGE_BYTES;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED;
    char *span, *host;

    if (c->page_bytes == HUGE_PAGE_BYTES)
        flags |= MAP_HUGETLB | MAP_HUGE_2MB;
    span = mmap(NULL, span_bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (span == MAP_FAILED)
        return -errno;
    region->span = span;
    region->span_bytes = span_bytes;
    host = span + (round_up((uintptr_t)span + gap, HUGE_PAGE_BYTES) - (uintptr_t)span);
    /* Small pages need no more than their own alignment: do not always grant 2 MiB. */
    if (c->page_bytes == PAGE_BYTES)
        host += c->n_regions % 3 * PAGE_BYTES;
    host = mmap(host, region->bytes, PROT_READ | PROT_WRITE, flags, -1, 0);
    if (host == MAP_FAILED)
        return -errno;
    region->host = host;
    return 0;
}

static int register_region(struct vmm_client *c, const struct vmm_region *region)
{
    struct uffdio_register reg = {
        .range = {.start = (uintptr_t)region->host, .len = region->bytes},
        .mode = UFFDIO_REGISTER_MODE_MISSING,
    };

    return ioctl(c->uffd, UFFDIO_REGISTER, &reg) < 0 ? -errno : 0;
}

int vmm_client_map(struct vmm_client *ret, const struct vmm_layout *layout)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
    int r;

    *ret = (struct vmm_client){.uffd = -1, .sock = -1, .page_bytes = layout->page_bytes};
    ret->step = "mapping guest memory";
    for (size_t i = 0; i < layout->n_regions; i++) {
        struct vmm_region *region = &ret->regions[i];

        *region = (struct vmm_region){.bytes = layout->sizes[i], .offset = ret->memory_bytes};
        r = map_region(ret, region);
        ret->n_regions++;
        if (r < 0)
            return r;
        ret->memory_bytes += region->bytes;
    }
    ret->step = "opening a userfaultfd";
    r = open_uffd();
    if (r < 0)
        return r;
    ret->uffd = r;
    ret->step = "UFFDIO_API";
    if (ioctl(ret->uffd, UFFDIO_API, &api) < 0)
        return -errno;
    ret->step = "UFFDIO_REGISTER";
    for (size_t i = 0; i < ret->n_regions; i++) {
        r = register_region(ret, &ret->regions[i]);
        if (r < 0)
            return r;
    }
    return 0;
}

int vmm_client_connect(struct vmm_client *c, const char *path)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};

    c->step = "connecting to the memory server";
    if (strlen(path) >= sizeof(addr.sun_path))
        return -ENAMETOOLONG;
    memcpy(addr.sun_path, path, strlen(path));
    c->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (c->sock < 0)
        return -errno;
    if (connect(c->sock, (const struct sockaddr *)&addr, sizeof(addr)) < 0)
        return -errno;
    return 0;
}

/* Firecracker's serialiser writes no blanks, its fields in this order, and nothing at the end. */
static size_t format_body(const struct vmm_client *c, char *body, size_t cap)
{
    size_t len = 0;

    for (size_t i = 0; i < c->n_regions; i++)
        len += (size_t)snprintf(
            body + len, cap - len,
            "%s{\"base_host_virt_addr\":%" PRIu64 ",\"size\":%" PRIu64 ",\"offset\":%" PRIu64
            ",\"page_size\":%" PRIu64 ",\"page_size_kib\":%" PRIu64 "}",
            i == 0 ? "[" : ",", (uint64_t)(uintptr_t)c->regions[i].host, c->regions[i].bytes,
            c->regions[i].offset, c->page_bytes, c->page_bytes);
    len += (size_t)snprintf(body + len, cap - len, "]");
    return len;
}

int vmm_client_send(struct vmm_client *c)
{
    size_t cap = (c->n_regions + 1) * REGION_TEXT_MAX;
    char *body CLEANUP_FREE = malloc(cap);
    union {
        struct cmsghdr head; /* for its alignment */
        char bytes[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct iovec iov = {.iov_base = body};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control.bytes,
        .msg_controllen = sizeof(control.bytes),
    };
    struct cmsghdr *cmsg = CMSG_FIRSTHDR(&msg);
    ssize_t n;

    c->step = "sending the regions and the userfaultfd";
    if (!body)
        return -ENOMEM;
    iov.iov_len = format_body(c, body, cap);
    cmsg->cmsg_level = SOL_SOCKET;
    cmsg->cmsg_type = SCM_RIGHTS;
    cmsg->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(cmsg), &c->uffd, sizeof(int));
    n = sendmsg(c->sock, &msg, MSG_NOSIGNAL);
    if (n < 0)
        return -errno;
    /* A blocking stream socket takes all or fails; a second call would change the protocol. */
    return (size_t)n == iov.iov_len ? 0 : -EIO;
}

void vmm_client_close_socket(struct vmm_client *c)
{
    close_fd(&c->sock);
}

int vmm_client_server_pid(const struct vmm_client *c)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);

    if (getsockopt(c->sock, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0)
        return -errno;
    return peer.pid > 0 ? peer.pid : -ESRCH;
}

const struct vmm_region *vmm_client_region(const struct vmm_client *c, uint64_t offset)
{
    size_t low = 0, high = c->n_regions;

    while (high - low > 1) {
        size_t middle = (low + high) / 2;

        if (c->regions[middle].offset <= offset)
            low = middle;
        else
            high = middle;
    }
    return &c->regions[low];
}

char *vmm_client_host(const struct vmm_client *c, uint64_t offset)
{
    const struct vmm_region *region = vmm_client_region(c, offset);

    return region->host + (offset - region->offset);
}

void vmm_client_finish(struct vmm_client *c)
{
    close_fd(&c->sock);
    close_fd(&c->uffd);
    /* The span contains the region: one call frees both. */
    for (size_t i = 0; i < c->n_regions; i++)
        if (c->regions[i].span)
            munmap(c->regions[i].span, c->regions[i].span_bytes);
    c->n_regions = 0;
}

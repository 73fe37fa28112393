/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/mman.h>
#include <linux/userfaultfd.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"
#include "format/handover.h"

#define TOUCHERS_MAX 16

void bench_pin(int cpu)
{
    cpu_set_t set;

    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    /* With one processor there is nothing to choose, and the call fails: so be it. */
    if (sched_setaffinity(0, sizeof(set), &set) < 0)
        errno = 0;
}

void bench_warm_memory(uint64_t bytes)
{
    char *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED)
        return;
    (void)madvise(map, bytes, MADV_NOHUGEPAGE);
    for (size_t i = 0; i < bytes; i += PAGE_BYTES)
        map[i] = 1;
    munmap(map, bytes);
}

static int open_uffd(const struct bench_vm *vm)
{
    struct uffdio_api api = {.api = UFFD_API, .features = UFFD_FEATURE_EVENT_REMOVE};
    struct uffdio_register reg = {.range = {(uintptr_t)vm->memory, vm->bytes},
                                  .mode = UFFDIO_REGISTER_MODE_MISSING};
    int fd CLEANUP_FD = (int)syscall(SYS_userfaultfd, O_CLOEXEC | O_NONBLOCK);

    if (fd < 0 || ioctl(fd, UFFDIO_API, &api) < 0 || ioctl(fd, UFFDIO_REGISTER, &reg) < 0)
        return -errno;
    return TAKE_FD(fd);
}

static int send_handover(const struct bench_vm *vm, uint64_t page_bytes)
{
    struct handover_region region = {{(uintptr_t)vm->memory}, vm->bytes, {0}};
    char body[256], control[CMSG_SPACE(sizeof(int))] = {0};
    int n = handover_encode(&region, 1, page_bytes, body, sizeof(body));
    struct iovec iov = {.iov_base = body, .iov_len = (size_t)n};
    struct msghdr msg = {
        .msg_iov = &iov,
        .msg_iovlen = 1,
        .msg_control = control,
        .msg_controllen = sizeof(control),
    };
    struct cmsghdr *c = CMSG_FIRSTHDR(&msg);

    if (n < 0)
        return n;
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(sizeof(int));
    memcpy(CMSG_DATA(c), &vm->uffd, sizeof(int));
    return sendmsg(vm->sock, &msg, MSG_NOSIGNAL) == n ? 0 : -errno;
}

static int start(struct bench_vm *vm, const char *socket_path, uint64_t bytes, uint64_t page_bytes,
                 struct thaw_error *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    /* Huge pages are reserved here, rather than missed in a page fault. */
    int flags = page_bytes == PAGE_BYTES ? MAP_NORESERVE : MAP_HUGETLB | MAP_HUGE_2MB;
    void *map =
        mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | flags, -1, 0);
    int r;

    *vm = (struct bench_vm){.uffd = -1, .sock = -1};
    if (map == MAP_FAILED)
        return err_errno(e, -errno, "mapping %llu bytes", (unsigned long long)bytes);
    vm->memory = map;
    vm->bytes = bytes;
    r = vm->uffd = open_uffd(vm);
    if (r < 0)
        return err_errno(e, r, "registering memory with a userfaultfd");
    strncpy(addr.sun_path, socket_path, sizeof(addr.sun_path) - 1);
    vm->sock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (vm->sock < 0 || connect(vm->sock, (struct sockaddr *)&addr, sizeof(addr)) < 0)
        return err_errno(e, -errno, "connecting to %s", socket_path);
    r = send_handover(vm, page_bytes);
    return r < 0 ? err_errno(e, r, "handing memory over") : 0;
}

int bench_vm_start(struct bench_vm *vm, const char *socket_path, uint64_t bytes,
                   struct thaw_error *e)
{
    return start(vm, socket_path, bytes, PAGE_BYTES, e);
}

int bench_vm_start_huge(struct bench_vm *vm, const char *socket_path, uint64_t bytes,
                        struct thaw_error *e)
{
    return start(vm, socket_path, bytes, 2 * MIB, e);
}

void bench_vm_finish(struct bench_vm *vm)
{
    if (!vm->memory)
        return;
    munmap(vm->memory, vm->bytes);
    close_fd(&vm->sock);
    close_fd(&vm->uffd);
    vm->memory = NULL;
}

struct toucher {
    const struct bench_vm *vm;
    const uint32_t *order; /* this thread's pages */
    uint32_t *ns;
    size_t count;
    int cpu;
};

static void *touch(void *arg)
{
    const struct toucher *t = arg;

    bench_pin(t->cpu);
    for (size_t i = 0; i < t->count; i++) {
        const volatile unsigned char *page = t->vm->memory + t->order[i] * PAGE_BYTES;
        uint64_t begin = clock_now_ns();

        (void)*page;
        t->ns[i] = (uint32_t)MIN(clock_now_ns() - begin, UINT32_MAX);
    }
    return NULL;
}

uint32_t *bench_shuffled(size_t n)
{
    uint32_t *order = malloc(n * sizeof(*order));
    uint64_t seed = 88172645463325252u;

    if (!order)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t k;

        seed = seed * 6364136223846793005u + 1442695040888963407u;
        k = (size_t)(seed >> 33) % (i + 1);
        order[i] = order[k];
        order[k] = (uint32_t)i;
    }
    return order;
}

int bench_vm_touch(struct bench_vm *vm, unsigned threads, int cpu, uint32_t *ret_ns)
{
    size_t pages = vm->bytes / PAGE_BYTES, share = pages / threads;
    struct toucher touchers[TOUCHERS_MAX];
    pthread_t ids[TOUCHERS_MAX];
    uint32_t *order CLEANUP_FREE = bench_shuffled(pages);
    unsigned started = 0;
    int r = order ? 0 : -ENOMEM;

    for (; started < threads && r == 0; started++) {
        size_t from = started * share;

        touchers[started] = (struct toucher){vm, order + from, ret_ns + from,
                                             started == threads - 1 ? pages - from : share, cpu};
        r = thread_start(&ids[started], "toucher", touch, &touchers[started]);
        if (r < 0)
            break;
    }
    for (unsigned i = 0; i < started; i++)
        thread_join(ids[i]);
    return r;
}

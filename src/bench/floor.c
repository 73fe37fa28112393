/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/floor.h"

#include <errno.h>
#include <linux/userfaultfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>

#include "base/clock.h"
#include "base/error.h"
#include "base/units.h"
#include "bench/server.h"
#include "format/handover.h"
#include "memory/handshake.h"

struct vm_peer {
    int sock;
    int uffd;
    uint64_t base;
};

static int take_vm(const char *socket_path, int pipe, struct vm_peer *ret, struct thaw_error *e)
{
    struct sockaddr_un addr = {.sun_family = AF_UNIX};
    struct handover *h CLEANUP_HANDOVER = NULL;
    int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    struct handshake hs;
    struct pollfd p = {.events = POLLIN};
    int r;

    strncpy(addr.sun_path, socket_path, sizeof(addr.sun_path) - 1);
    if (listener < 0 || bind(listener, (struct sockaddr *)&addr, sizeof(addr)) < 0 ||
        listen(listener, 1) < 0 || write(pipe, "r", 1) != 1)
        return err_errno(e, -errno, "listening on %s", socket_path);
    ret->sock = accept(listener, NULL, NULL);
    close(listener);
    unlink(socket_path);
    if (ret->sock < 0)
        return err_errno(e, -errno, "accepting a VM");
    r = handshake_init(&hs);
    p.fd = ret->sock;
    do
        poll(&p, 1, -1);
    while (r == 0 && (r = handshake_receive(&hs, ret->sock, &h, &ret->uffd, e)) == -EAGAIN);
    handshake_finish(&hs);
    if (r == 0)
        ret->base = h->regions[0].base.v;
    return r;
}

static void answer_faults(const struct bench_image *image, const struct vm_peer *vm)
{
    struct pollfd p[] = {{.fd = vm->uffd, .events = POLLIN}, {.fd = vm->sock, .events = POLLIN}};

    while (poll(p, ARRAY_SIZE(p), -1) > 0 && !p[1].revents) {
        struct uffd_msg events[64];
        ssize_t n = read(vm->uffd, events, sizeof(events));

        for (ssize_t i = 0; i < n / (ssize_t)sizeof(events[0]); i++) {
            uint64_t addr = round_down(events[i].arg.pagefault.address, PAGE_BYTES);
            struct uffdio_copy copy = {
                .dst = addr, .src = (uintptr_t)image->bytes + (addr - vm->base), .len = PAGE_BYTES};

            if (ioctl(vm->uffd, UFFDIO_COPY, &copy) < 0 && errno != EEXIST)
                return;
        }
    }
}

/* One buffer for each layer, as a cache has one memory for each object. */
static unsigned char **split_layers(const struct bench_image *image)
{
    uint64_t pages = image->size_bytes / PAGE_BYTES;
    unsigned char **layers = calloc(image->layers, sizeof(*layers));

    for (unsigned i = 0; layers && i < image->layers; i++) {
        uint64_t bytes = round_up(image->size_bytes / image->layers + PAGE_BYTES, PAGE_BYTES);
        void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

        if (map == MAP_FAILED)
            return NULL;
        layers[i] = map;
    }
    for (uint64_t k = 0; layers && k < pages; k++)
        memcpy(layers[k % image->layers] + k / image->layers * PAGE_BYTES,
               image->bytes + k * PAGE_BYTES, PAGE_BYTES);
    return layers;
}

static int populate_all(const struct bench_image *image, unsigned char *const *layers,
                        const struct vm_peer *vm)
{
    _Alignas(4096) static unsigned char gathered[GRANULE_BYTES];

    for (uint64_t at = 0; at < image->size_bytes; at += GRANULE_BYTES) {
        struct uffdio_copy copy = {.dst = vm->base + at, .len = GRANULE_BYTES};

        if (layers) {
            for (uint64_t i = 0; i < GRANULE_BYTES / PAGE_BYTES; i++) {
                uint64_t k = at / PAGE_BYTES + i;

                memcpy(gathered + i * PAGE_BYTES,
                       layers[k % image->layers] + k / image->layers * PAGE_BYTES, PAGE_BYTES);
            }
        }
        copy.src = layers ? (uintptr_t)gathered : (uintptr_t)image->bytes + at;
        if (ioctl(vm->uffd, UFFDIO_COPY, &copy) < 0)
            return -errno;
    }
    return 0;
}

int bench_floor_main(const struct bench_image *image, bool populate, const char *socket_path,
                     int pipe, struct thaw_error *e)
{
    unsigned char **layers = populate && image->layers ? split_layers(image) : NULL;
    struct bench_server_result result;
    struct pollfd p = {.events = POLLIN};
    struct vm_peer vm = {.sock = -1, .uffd = -1};
    uint64_t begin;
    int r = take_vm(socket_path, pipe, &vm, e);

    if (r < 0)
        return r;
    if (!populate) {
        answer_faults(image, &vm);
        return 0;
    }
    begin = clock_now_ns();
    r = populate_all(image, layers, &vm);
    if (r < 0)
        return err_errno(e, r, "populating");
    result.populate_ns = clock_now_ns() - begin;
    if (write(pipe, &result, sizeof(result)) != sizeof(result))
        return -EIO;
    p.fd = vm.sock;
    poll(&p, 1, -1);
    return 0;
}

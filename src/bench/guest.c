/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/guest.h"

#include <errno.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"
#include "bench/throttle_image.h"
#include "bench/vm.h"
#include "cache/bus.h"

#define PAGES_PER_GRANULE (GRANULE_BYTES / PAGE_BYTES)

struct readers {
    struct bench_vm *vm;
    const uint32_t *granules;  /* in which order; NULL: all pages, in theirs */
    int done;                  /* owned: eventfd, readable when all have come to an end */
    _Atomic(unsigned) running; /* [a] acq_rel: the last one sees what the others did */
    _Atomic(int) failure;      /* [a] of the first one that failed */
    _Atomic(uint64_t) page;    /* [a] where that was */
};

/* One thread's share: pages, or places in the list of granules. */
struct reader {
    struct readers *all;
    uint64_t from, to;
};

struct comparison {
    const void *memory;
    const uint64_t *expected;
    bool same;
};

static void compare(void *arg)
{
    struct comparison *c = arg;

    c->same = memcmp(c->memory, c->expected, PAGE_BYTES) == 0;
}

static int read_page(const struct bench_vm *vm, uint64_t page)
{
    uint64_t expected[PAGE_BYTES / sizeof(uint64_t)];
    struct comparison c = {vm->memory + page * PAGE_BYTES, expected, false};
    int r;

    throttle_image_page(expected, page);
    r = bus_call(compare, &c); /* a page that cannot be served is poisoned */
    return r < 0 ? r : c.same ? 0 : -EBADMSG;
}

static void ends(struct readers *all, int result, uint64_t page)
{
    uint64_t one = 1;
    int none = 0;

    if (result < 0 && atomic_compare_exchange_strong(&all->failure, &none, result))
        atomic_store(&all->page, page);
    if (atomic_fetch_sub(&all->running, 1) == 1)
        (void)!write(all->done, &one, sizeof(one));
}

static void *read_share(void *arg)
{
    const struct reader *self = arg;
    struct readers *all = self->all;
    uint64_t page = 0;
    int r = 0;

    for (uint64_t i = self->from; i < self->to && r == 0; i++) {
        page = i;
        if (all->granules)
            page = all->granules[i] * PAGES_PER_GRANULE + i % PAGES_PER_GRANULE;
        r = read_page(all->vm, page);
    }
    ends(all, r, page);
    return NULL;
}

/* The server's death must not leave threads in page faults that nobody answers. */
static int wait_for(struct readers *all, int control, struct thaw_error *e)
{
    struct pollfd p[] = {{.fd = all->done, .events = POLLIN}, {.fd = control, .events = POLLIN}};
    bool alone = false;
    int r;

    while (!(p[0].revents & POLLIN)) {
        if (poll(p, ARRAY_SIZE(p), -1) < 0 || !p[1].revents)
            continue;
        close_fd(&all->vm->uffd); /* pages that are not there are zeros from now on */
        p[1].fd = -1;
        alone = true;
    }
    r = atomic_load(&all->failure);
    if (alone)
        return err_set(e, -ECHILD, "the process that serves has ended while it was needed");
    if (r == -EBADMSG || r == -EFAULT)
        return err_set(e, r, "page %llu of the guest %s", (unsigned long long)all->page,
                       r == -EFAULT ? "could not be served" : "holds other bytes than the image");
    return r < 0 ? err_errno(e, r, "the guest") : 0;
}

static int run(struct readers *all, uint64_t shares, unsigned threads, int control,
               struct thaw_error *e)
{
    struct reader readers[GUEST_THREADS_MAX];
    pthread_t ids[GUEST_THREADS_MAX];
    unsigned started = 0;
    int r = 0;

    atomic_store(&all->running, threads);
    for (; started < threads; started++) {
        readers[started] =
            (struct reader){all, shares * started / threads, shares * (started + 1) / threads};
        r = thread_start(&ids[started], "guest-cpu", read_share, &readers[started]);
        if (r < 0)
            break;
    }
    for (unsigned i = started; i < threads; i++)
        ends(all, r, 0);
    r = wait_for(all, control, e);
    for (unsigned i = 0; i < started; i++)
        thread_join(ids[i]);
    return r;
}

int guest_reads(struct bench_vm *vm, enum guest_order order, unsigned threads, int control,
                uint64_t *ret_ns, struct thaw_error *e)
{
    uint64_t granules = vm->bytes / GRANULE_BYTES;
    uint32_t *shuffled CLEANUP_FREE = bench_shuffled(granules);
    struct readers all = {.vm = vm, .done = eventfd(0, EFD_CLOEXEC)};
    uint64_t begin_ns;
    int r = bus_guard();

    if (order == GUEST_RANDOM_GRANULES)
        all.granules = shuffled;
    if (r < 0 || all.done < 0 || !shuffled) {
        close_fd(&all.done);
        return err_set(e, -ENOMEM, "preparing a guest");
    }
    begin_ns = clock_now_ns();
    r = run(&all, all.granules ? granules : vm->bytes / PAGE_BYTES, threads, control, e);
    *ret_ns = clock_now_ns() - begin_ns;
    close_fd(&all.done);
    return r;
}

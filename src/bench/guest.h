/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_GUEST_H
#define THAW_BENCH_GUEST_H

/*
 * Threads that read a VM's memory, which is served from the build of throttle_image_create(), and
 * compare every byte of what they read. One thread may call this.
 */

#include <stdint.h>

struct bench_vm;
struct thaw_error;

#define GUEST_THREADS_MAX 16u

enum guest_order {
    GUEST_ALL_PAGES,       /* each thread a part of the memory, from its beginning to its end */
    GUEST_RANDOM_GRANULES, /* one page of each granule, granules in random order */
};

/**
 * guest_reads() - read and compare, to the end
 * @control: a descriptor that becomes readable when the server ends: then the VM ends, too
 * @ret_ns: how long it took
 *
 * Returns: 0; -EBADMSG: other bytes; -EFAULT: a page that could not be served; -ECHILD: the server
 * has ended; or -errno.
 */
[[gnu::warn_unused_result]] int guest_reads(struct bench_vm *vm, enum guest_order order,
                                            unsigned threads, int control, uint64_t *ret_ns,
                                            struct thaw_error *e);

#endif

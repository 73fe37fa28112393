/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_VM_H
#define THAW_BENCH_VM_H

/*
 * A stand-in for a VMM: memory of this process, registered with a userfaultfd and handed over to
 * whoever listens on a socket, as Firecracker does it. Touched by threads that time each touch.
 */

#include <stdint.h>

#include "base/units.h"

struct thaw_error;

struct bench_vm {
    unsigned char *memory; /* owned mapping */
    uint64_t bytes;
    int uffd; /* owned */
    int sock; /* owned; stays open as long as the VM lives */
};

/** bench_vm_start() - map, register, hand over to the server at @socket_path */
[[gnu::warn_unused_result]] int bench_vm_start(struct bench_vm *vm, const char *socket_path,
                                               uint64_t bytes, struct thaw_error *e);

/** bench_vm_start_huge() - the same with memory of 2 MiB pages; -ENOMEM if the host has not as many
 */
[[gnu::warn_unused_result]] int bench_vm_start_huge(struct bench_vm *vm, const char *socket_path,
                                                    uint64_t bytes, struct thaw_error *e);

/** bench_vm_finish() - the end of the VM; safe on a zeroed struct */
void bench_vm_finish(struct bench_vm *vm);

/**
 * bench_vm_touch() - read one byte of every page, in random order, from @threads threads
 * @cpu: where the threads run
 * @ret_ns: one latency for each page, in any order
 *
 * Returns: 0, or -errno when a thread cannot be started.
 */
[[gnu::warn_unused_result]] int bench_vm_touch(struct bench_vm *vm, unsigned threads, int cpu,
                                               uint32_t *ret_ns);

/**
 * bench_warm_memory() - touch @bytes of memory and give them back, before something is measured
 *
 * What was freed lately is warm. What a host has taken back costs ten times as much to touch, and
 * whoever comes first would pay for it.
 */
void bench_warm_memory(uint64_t bytes);

/** bench_shuffled() - the numbers below @n in random order, the same each time; or NULL. Free it.
 */
uint32_t *bench_shuffled(size_t n);

/** bench_pin() - keep the calling thread on processor @cpu, if there is one */
void bench_pin(int cpu);

#endif

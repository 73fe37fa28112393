/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_SERVER_H
#define THAW_BENCH_SERVER_H

/*
 * The contenders of the memory benchmarks, each in a process of its own: thaw's memory server over
 * a build whose bytes are all in the cache, and the floor, which does no more than the kernel
 * demands: wait, read the event, copy from memory.
 */

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "cache/set.h"

struct thaw_error;

/**
 * struct bench_image - what is served
 * @bytes: contents, as guest memory reads; for the floor
 * @layers: 0: the floor copies runs of 64 KiB; n: page i comes from buffer i % n, as in a build
 *          whose map has a run for each page
 * @store, @build: the same as a build, for thaw
 * @backing: of thaw's caches
 */
struct bench_image {
    const unsigned char *bytes;
    uint64_t size_bytes;
    unsigned layers;
    const char *store;
    char build[37];
    enum cache_backing backing;
};

struct bench_server {
    pid_t pid;
    int pipe; /* owned: it says when it is ready, and at the end what it has measured */
};

/* What a server tells at its end. */
struct bench_server_result {
    uint64_t populate_ns; /* from the hand-over to the last page, when it was to populate */
};

/** bench_server_thaw() - start thaw's server on @socket_path, pinned to @cpu; when it is ready, 0
 */
[[gnu::warn_unused_result]] int bench_server_thaw(const struct bench_image *image, bool populate,
                                                  const char *socket_path, int cpu,
                                                  struct bench_server *ret, struct thaw_error *e);

/** bench_server_floor() - the same for the floor */
[[gnu::warn_unused_result]] int bench_server_floor(const struct bench_image *image, bool populate,
                                                   const char *socket_path, int cpu,
                                                   struct bench_server *ret, struct thaw_error *e);

/** bench_server_cpu_ns() - processor time that it has used so far */
uint64_t bench_server_cpu_ns(const struct bench_server *s);

/** bench_server_populated() - wait until everything is installed */
[[gnu::warn_unused_result]] int bench_server_populated(struct bench_server *s,
                                                       struct bench_server_result *ret,
                                                       struct thaw_error *e);

/** bench_server_finish() - end it, and wait until it has; the VM must be finished before */
void bench_server_finish(struct bench_server *s);

#endif

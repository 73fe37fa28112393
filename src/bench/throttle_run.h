/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_THROTTLE_RUN_H
#define THAW_BENCH_THROTTLE_RUN_H

/*
 * One run of `thaw bench throttle`: a process serves a guest's memory and its disk, so that every
 * thread of it is a thread that serves, and the benchmark's own process is the guest: threads that
 * touch all memory page after page, checking what they find, and one that writes to the disk.
 *
 * What the serving process finds out lies in memory that both share.
 */

#include <stdatomic.h>
#include <stdint.h>

#include "base/error.h"
#include "cache/set.h"
#include "observe/throttle.h"

#define RUN_SAMPLE_NS     (UINT64_C(8) * 1000 * 1000) /* between two looks at the threads */
#define RUN_SAMPLES_MAX   65536u
#define RUN_LATENCIES_MAX 131072u
#define RUN_THREADS_MAX   64u
#define RUN_TOUCHERS      4u

/* How things stood when the threads were looked at. */
struct run_sample {
    uint64_t at_ns; /* clock_now_ns() */
    uint64_t served_bytes;
    unsigned throttled; /* threads */
};

/* Shared: written by the serving process, read when that has said that it is done. */
struct run_record {
    struct thaw_error error;
    struct run_sample samples[RUN_SAMPLES_MAX];
    size_t sample_count;
    uint32_t store_us[RUN_LATENCIES_MAX];
    _Atomic(uint32_t) store_count; /* [a] relaxed; may be more than have room */
    _Atomic(uint64_t) store_bytes; /* [a] relaxed */
    struct throttle_counts throttle;
    struct throttle_thread threads[RUN_THREADS_MAX];
    uint64_t pss_bytes;
    uint64_t cpu_ns; /* of the serving process while it served */
    /* by the benchmark's process */
    uint64_t begin_ns, end_ns;
    uint64_t touch_max_ns;                 /* the longest that the guest waited for a page */
    uint64_t write_max_ns;                 /* and for a write */
    uint64_t dirty_bytes, writeback_bytes; /* of the device, at the end */
    uint64_t files_dirty_bytes;            /* of the files of the serving process, at most */
    int files_dirty_error;                 /* why not that; 0 */
    uint64_t peak_bytes; /* memory of the serving process beyond what it began with */
    const char *peak_source;
};

/**
 * struct run_job - what to serve, and how
 * @serve: makes the servers and calls run_serve() when they listen
 * @keep: false: what was fetched is dropped, and the guest writes to the same few blocks again and
 *        again
 * @budget_bytes: of the caches' memory; 0: more than enough
 * @way: of the minimal caches, see throttle_minimal.c
 */
struct run_job {
    int (*serve)(const struct run_job *job, int control, struct thaw_error *e);
    enum cache_backing backing;
    bool keep;
    uint64_t budget_bytes;
    unsigned way;

    const char *store, *build;
    uint64_t memory_bytes, disk_bytes;
    const char *folder; /* for files: on the device, empty; NULL for who has none */
    const char *device; /* a path on it, to ask it at the end; NULL: there is none yet */
    char memory_socket[100], disk_socket[100];
    struct run_record *record;
};

/** run_page_word() - the first eight bytes of page @page of the memory image */
uint64_t run_page_word(uint64_t page);

/** run_record_create() - shared memory for one; NULL if there is none */
struct run_record *run_record_create(void);
void run_record_destroy(struct run_record *r);

/**
 * run_guest() - serve and be served, to the end
 *
 * Returns: 0 with the record filled in, or -errno: a server failed, or the guest found a wrong
 * byte.
 */
[[gnu::warn_unused_result]] int run_guest(const struct run_job *job, struct thaw_error *e);

/* --- for the serving process --- */

/** run_serve_thaw() - thaw's memory server, NBD server, and caches of job->backing */
[[gnu::warn_unused_result]] int run_serve_thaw(const struct run_job *job, int control,
                                               struct thaw_error *e);

/* What a cache does with the bytes it has got. */
enum run_way { RUN_SYNC_FILE_RANGE, RUN_O_DIRECT, RUN_DONTCACHE };

/** run_serve_minimal() - the least that serves and verifies, with a cache of kind job->way */
[[gnu::warn_unused_result]] int run_serve_minimal(const struct run_job *job, int control,
                                                  struct thaw_error *e);

/** run_watch() - begin to account for the throttle; before other threads are there */
[[gnu::warn_unused_result]] int run_watch(const struct run_job *job,
                                          uint64_t (*served_bytes)(void *arg), void *arg,
                                          struct throttle **ret, struct thaw_error *e);

/** run_serve() - tell the guest to begin, and when it is done fill in the record */
void run_serve(const struct run_job *job, int control, struct throttle *watch);

/** run_record_store() - a batch that the store gave, and how long until it was in the cache. Any
 * thread. */
void run_record_store(void *record, uint64_t bytes, uint64_t ns);

#endif

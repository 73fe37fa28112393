/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_TIMED_STORE_H
#define THAW_BENCH_TIMED_STORE_H

/*
 * A store in front of another one that times the guest's reads of data: from store_read() until
 * done() has returned. The fetcher verifies and publishes a batch within done(), so this is the
 * time from the start of the batch's read until its bytes are in the cache. Reads of granule sums
 * are passed on untimed.
 *
 * For reading builds only: nothing else of a store is there.
 */

#include <stdint.h>

struct store;

/**
 * timed_store_create() - put one before @inner
 * @inner: borrowed, must outlive it
 * @record: called with @arg on a thread of the store for each read that has succeeded
 *
 * Returns: 0 or -ENOMEM. To be closed with store_close().
 */
[[gnu::warn_unused_result]] int timed_store_create(struct store *inner,
                                                   void (*record)(void *arg, uint64_t bytes,
                                                                  uint64_t ns),
                                                   void *arg, struct store **ret);

#endif

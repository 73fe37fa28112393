/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BENCH_DEBUG_FILES_H
#define THAW_BENCH_DEBUG_FILES_H

/* The kernel's accounts of a device's dirty pages, from debugfs, which need not be mounted. */

#include <stdint.h>
#include <sys/types.h>

/**
 * debug_files_bdi() - what waits to be written to @device, and what is being written
 *
 * Needs root. Leaves both untouched when the kernel does not tell.
 */
void debug_files_bdi(dev_t device, uint64_t *ret_dirty_bytes, uint64_t *ret_writeback_bytes);

#endif

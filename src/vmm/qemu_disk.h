/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_DISK_H
#define THAW_VMM_QEMU_DISK_H

/*
 * A disk of a running QEMU as a source of a build, of whatever format and on whatever storage: QEMU
 * itself serves it, read-only, by NBD. The connection is made before QEMU gets the listening
 * socket, whose name is gone by then, so that nobody else can come. Control thread; blocks.
 */

#include <stdint.h>

#include "base/error.h"

struct qmp;
struct source;

/**
 * qemu_disk_open() - have @node exported, and open it
 *
 * The source is to be closed, by whoever has it then, before qemu_disk_close() is called, which is
 * needed after success only.
 */
[[gnu::warn_unused_result]] int qemu_disk_open(struct qmp *q, const char *node,
                                               uint64_t deadline_ns, struct source *ret,
                                               struct thaw_error *e);

/** qemu_disk_close() - end the export and its server */
[[gnu::warn_unused_result]] int qemu_disk_close(struct qmp *q, uint64_t deadline_ns,
                                                struct thaw_error *e);

#endif

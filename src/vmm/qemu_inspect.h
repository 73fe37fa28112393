/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_INSPECT_H
#define THAW_VMM_QEMU_INSPECT_H

/*
 * What a running QEMU's monitor says of its guest, held against what a build can bring back: one
 * shared memory backend called QEMU_MEMORY_ID, and no disk that is written to but QEMU_DISK_ID.
 * Control thread; blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/error.h"
#include "vmm/qmp.h"

struct qemu_guest {
    char *machine;   /* owned; its full name: "pc-q35-7.2" */
    char *disk_node; /* owned; node of the root disk, NULL: it has none */
    uint64_t memory_bytes;
    bool running;
};

/** qemu_inspect() - fill in *@ret, which is all zeros; qemu_guest_finish() is needed in any case */
[[gnu::warn_unused_result]] int qemu_inspect(struct qmp *q, uint64_t deadline_ns,
                                             struct qemu_guest *ret, struct thaw_error *e);

/** qemu_guest_finish() - release what is in @g */
void qemu_guest_finish(struct qemu_guest *g);

#endif

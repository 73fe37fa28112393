/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_COMMAND_H
#define THAW_VMM_QEMU_COMMAND_H

/*
 * How QEMU is called: its command line and its environment, as plain data. Control thread only.
 *
 *     PROGRAM recorded arguments...
 *             -object memory-backend-file,id=mem,size=N,mem-path=/proc/self/fd/6,share=on
 *             -blockdev driver=nbd,node-name=rootfs,server.path=SOCKET,... (if there is a disk)
 *             -incoming defer -S
 *             -chardev socket,id=thaw-qmp,fd=3 -mon chardev=thaw-qmp,mode=control
 *             extra options...
 *
 * The recorded arguments name the memory by that id ("-machine TYPE,memory-backend=mem"); its name
 * is what the device state refers to, so the backend of the snapshotted QEMU may have been another.
 *
 * The memory is a memfd that QEMU inherits. It must be shared, or a state saved of the resumed
 * guest would hold all of it (x-ignore-shared); QEMU 8.1 and later want a file besides, and a
 * descriptor's name is one. It is never reserved, so the guest may have more memory than the host.
 * libthaw-shim.so, preloaded, hands it over.
 *
 * An extra option that makes an object, a device, a character device or the like of the same id as
 * a recorded one takes its place. Recorded and extra ones alike may say nothing that thaw says
 * itself; QEMU complains of that.
 */

#include <stdint.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "vmm/process.h"
#include "vmm/vmm.h"

/* Descriptors that QEMU inherits. */
enum {
    QEMU_QMP_FD = PROCESS_FIRST_FD,
    QEMU_SNAPFILE_FD,
    QEMU_READY_FD,
    QEMU_MEMORY_FD,
    QEMU_FDS_END,
};

struct qemu_command {
    char **argv;        /* owned, NULL-terminated, and so are its entries */
    char **environment; /* the same: entries to add */
};

/**
 * qemu_command_build() - the call for @o
 *
 * Returns: 0, -EINVAL, -ENOMEM, -ENOENT when the shim is not to be found, -EOPNOTSUPP for a page
 * size that the driver does not serve.
 */
[[gnu::warn_unused_result]] int qemu_command_build(const struct vmm_options *o,
                                                   struct qemu_command **ret, struct thaw_error *e);

/** qemu_command_destroy() - release @c; NULL is allowed */
void qemu_command_destroy(struct qemu_command *c);
DEFINE_CLEANUP(struct qemu_command, qemu_command_destroy);
#define CLEANUP_QEMU_COMMAND CLEANUP(cleanup_qemu_command_destroy)

#endif

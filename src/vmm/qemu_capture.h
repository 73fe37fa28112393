/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QEMU_CAPTURE_H
#define THAW_VMM_QEMU_CAPTURE_H

/*
 * A running QEMU that somebody else has started, as the makings of a build.
 *
 *     create   connect to its monitor, look at the guest, refuse what no build can bring back.
 *              The guest runs on.
 *     stop     stop the vCPUs, save the state of the devices, open memory and disk as sources.
 *     finish   let the guest go on, or leave it stopped. Not called: it becomes what it was.
 *
 * The state leaves QEMU through a pipe: it never lies in a file. Settings of QEMU that are changed
 * for it are put back. While the guest is stopped a helper process watches over thaw: should thaw
 * be killed, the helper lets the guest go on. Control thread; blocks.
 */

#include <stdbool.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "image/source.h"
#include "vmm/arg_list.h"

struct qemu_capture;

/**
 * struct qemu_snapshot - what a build is made of; borrowed from the capture
 * @memory, @disk: to be closed, or given away, before the capture is finished; @disk is all zeros
 *                 when the guest has none
 * @state: of the devices
 */
struct qemu_snapshot {
    char version[32];
    struct arg_list args;
    struct buf state;
    struct source memory;
    struct source disk;
};

/**
 * qemu_capture_create() - connect to the monitor at unix socket @path
 * @cancel_fd: readable: give up; 0: none
 */
[[gnu::warn_unused_result]] int qemu_capture_create(const char *path, int cancel_fd,
                                                    struct qemu_capture **ret,
                                                    struct thaw_error *e);

/** qemu_capture_stop() - stop the guest and fill the snapshot; valid until finish */
[[gnu::warn_unused_result]] int qemu_capture_stop(struct qemu_capture *c,
                                                  struct qemu_snapshot **ret, struct thaw_error *e);

/** qemu_capture_finish() - @go_on: let the guest run; else it stays stopped */
[[gnu::warn_unused_result]] int qemu_capture_finish(struct qemu_capture *c, bool go_on,
                                                    struct thaw_error *e);

/** qemu_capture_destroy() - put back what is to be put back, release; NULL is allowed */
void qemu_capture_destroy(struct qemu_capture *c);
DEFINE_CLEANUP(struct qemu_capture, qemu_capture_destroy);
#define CLEANUP_QEMU_CAPTURE CLEANUP(cleanup_qemu_capture_destroy)

#endif

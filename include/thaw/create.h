/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CREATE_H
#define THAW_CREATE_H

/* Making builds. Conventions: see thaw/thaw.h. */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "thaw/build.h"
#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct thaw_create_options - what a build is made of
 * @store: DIR or file:///DIR; made if it is missing (its parent is not)
 * @memory_path: raw guest memory, a multiple of @block_bytes: a file, a block device, or an NBD URI
 *               (nbd+unix:///EXPORT?socket=PATH); or NULL
 * @rootfs_path: raw guest disk, a multiple of 4096 bytes, likewise; or NULL, but not both
 * @snapfile_path: the VMM's device state; NULL without
 * @base: id of the build that this one is a layer over: only blocks that differ from it are stored.
 *        Memory must have the size of the base's, the disk need not. NULL: none
 * @block_bytes: of memory, 4096 or 2097152: what is stored or not as a whole; 0: the base's, or
 * 4096
 * @header_version: 4, or 3 for readers that know no other; 0: 4
 * @codec: "none", the only one; NULL for "none"
 * @vmm: "qemu", "firecracker" or "none": what the snapshot is of; NULL for "none", or with @base
 *       for what that has recorded, if neither @vmm_version nor @vmm_args is given
 * @vmm_version: as the VMM tells it, or NULL
 * @vmm_args: NULL-terminated: what the VMM must be started with again; NULL for nothing
 * @progress: called now and then with @progress_arg, or NULL
 * @from_qmp: path of the QMP unix socket of a running QEMU, whose guest becomes the build: its
 *            memory, its disk, its state and how it was started come from there, so that
 *            @memory_path, @rootfs_path, @snapfile_path and the @vmm ones must be NULL. See
 *            thaw-create(1) for how that QEMU must have been started. NULL: none
 * @go_on: with @from_qmp: let the guest run when the build exists; else it stays stopped
 * @cancel_fd: with @from_qmp: give up when this becomes readable; 0: none
 *
 * The files must not be written to before thaw_create() returns. When a build from a running guest
 * fails, the guest runs on, if it ran; should the process be killed, too.
 */
struct thaw_create_options {
    size_t opts_size;
    const char *store;
    const char *memory_path;
    const char *rootfs_path;
    const char *snapfile_path;
    const char *base;
    uint64_t block_bytes;
    unsigned header_version;
    const char *codec;
    const char *vmm;
    const char *vmm_version;
    const char *const *vmm_args;
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
    const char *from_qmp;
    bool go_on;
    int cancel_fd;
};

/**
 * thaw_create() - make a build; its id in @ret_id
 *
 * It is durable when this returns 0. What was written of one that failed is removed again. With
 * @from_qmp there is one failure that comes with a build: 1 is returned, with @ret_id and with what
 * happened in @e, when the build exists and QEMU could not be put back into its former state.
 */
int thaw_create(const struct thaw_create_options *options, char ret_id[THAW_BUILD_ID_BYTES],
                struct thaw_error *e);

#ifdef __cplusplus
}
#endif

#endif

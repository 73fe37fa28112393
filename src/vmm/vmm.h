/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_VMM_H
#define THAW_VMM_VMM_H

/*
 * Drivers of virtual machine monitors. Each brings up one kind of VMM whose guest memory is served
 * from outside over a memory socket (format/handover.h), and takes it through
 *
 *     start -> load -> run -> stop
 *
 * The memory socket is listening before start, and another thread serves faults throughout: they
 * arrive before load returns. All calls belong to the control thread and may block, each until a
 * deadline of its own; all of them end at once when the VMM does.
 *
 * Driver "none" is for a VMM that somebody else runs: start, load and run do nothing and succeed,
 * and there is no process: vmm_pidfd() is -1, which poll(2) passes over.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"

#define VMM_EXIT_TEXT_BYTES 384
#define VMM_NEWS_BYTES      256

struct memory_server;
struct vmm;

/**
 * struct vmm_options - what to bring up; borrowed for the call of start, but see snapfile_fd
 * @memory_socket: path of the listening unix socket that takes the hand-over
 * @memory_bytes: size of guest memory
 * @page_bytes: of guest memory; driver qemu knows 4096 only
 * @snapfile_fd: device state, readable and seekable; the VMM inherits it. The content is needed by
 *               load only: it may still be fetched while the VMM starts. Its file position is the
 *               driver's from start until load has returned.
 * @snapfile: path of the same, for a VMM that opens it itself (firecracker); NULL: there is none
 * @memory: the server behind @memory_socket, which must outlive the VMM; driver firecracker asks it
 *          whether the memory has come, and clears its event while it waits for that
 * @disk_socket: path of the listening NBD unix socket with the root disk; NULL: the build has none
 * @disk_export: its export's name; NULL for the default one, ""
 * @version: of the VMM that the snapshot is of, as recorded; NULL: not known, and not compared
 * @args: NULL-terminated, the VMM's command line as recorded in the build
 * @extra_options: NULL-terminated; each is one argument, or "-option value", divided at the first
 *                 blanks. May be NULL.
 * @program: path or name of the VMM, NULL for the usual one in PATH
 * @log_path: the VMM's output goes to this file, which is created or emptied
 */
struct vmm_options {
    const char *memory_socket;
    uint64_t memory_bytes;
    uint64_t page_bytes;
    int snapfile_fd;
    const char *snapfile;
    struct memory_server *memory;
    const char *disk_socket;
    const char *disk_export;
    const char *version;
    const char *const *args;
    const char *const *extra_options;
    const char *program;
    const char *log_path;
};

/**
 * struct vmm_driver - one kind of VMM
 * @start: run the process. It is not waited for: it connects to the memory socket soon, or ends.
 * @load: wait until it is up, and have it load the snapfile; the vCPUs do not run yet. Fails when
 *        the VMM has handed over no memory, since the guest would then run on zeros.
 * @run: let the vCPUs run
 * @stop: end it: politely, after three seconds by SIGKILL. Afterwards it is reaped, and
 *        vmm_exit_text() tells how it ended. May be called in every state, and again.
 * @event_fd, @news: see vmm_event_fd() and vmm_news(); NULL: it never tells anything
 * @release: stop and release everything; use vmm_destroy()
 *
 * After an error of load or run only stop and vmm_destroy() make sense. Its text ends with how the
 * VMM ended, if it did, and with the last lines of its log.
 */
struct vmm_driver {
    const char *name;
    int (*start)(const struct vmm_options *o, struct vmm **ret, struct thaw_error *e);
    int (*load)(struct vmm *v, struct thaw_error *e);
    int (*run)(struct vmm *v, struct thaw_error *e);
    void (*stop)(struct vmm *v);
    int (*event_fd)(struct vmm *v);
    bool (*news)(struct vmm *v, char ret[VMM_NEWS_BYTES]);
    void (*release)(struct vmm *v);
};

#define VMM_DRIVER_NAMES "none, qemu, firecracker" /* for messages */

/** vmm_driver_find() - the driver called @name, or NULL */
const struct vmm_driver *vmm_driver_find(const char *name);

/** vmm_pidfd() - readable when the VMM has ended; owned by @v; -1 without a process */
int vmm_pidfd(const struct vmm *v);

/** vmm_pid() - the VMM's process number, 0 without a process */
pid_t vmm_pid(const struct vmm *v);

/**
 * vmm_event_fd() - readable when vmm_news() is to be called; -1, which poll(2) passes over: not now
 *
 * May become -1 with any call of vmm_news(). Belongs to @v.
 */
int vmm_event_fd(struct vmm *v);

/**
 * vmm_news() - take in what the running VMM tells, so that it can tell more; does not wait
 * @ret: a sentence for the operator: the guest's kernel panicked, a disk failed, ...
 *
 * Returns: true with the next sentence, to be called again; false when there is none for now.
 */
bool vmm_news(struct vmm *v, char ret[VMM_NEWS_BYTES]);

/** vmm_ended_well() - whether the VMM's process has ended, by itself, with status 0 */
bool vmm_ended_well(const struct vmm *v);

/** vmm_exit_text() - "killed by signal 9 (SIGKILL); last lines of its log: ..." Returns @ret. */
const char *vmm_exit_text(struct vmm *v, char ret[VMM_EXIT_TEXT_BYTES]);

/** vmm_destroy() - stop @v if it runs, and release it; NULL is allowed */
void vmm_destroy(struct vmm *v);
DEFINE_CLEANUP(struct vmm, vmm_destroy);
#define CLEANUP_VMM CLEANUP(cleanup_vmm_destroy)

#endif

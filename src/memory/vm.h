/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_MEMORY_VM_H
#define THAW_MEMORY_VM_H

/*
 * One VM of a memory server: its thread, and the phases that it goes through.
 *
 *     listening --accept--> handshake --good--> serving --VM's end or stop--> ended
 *         ^                    |
 *         +-- broken, silent --+
 *
 * The thread sleeps in poll(2) alone. A VM's end is seen by its pidfd; the connection only counts
 * where there is no pidfd, because Firecracker up to 1.11 closes it right after the hand-over.
 */

#include "memory/pager.h"
#include "memory/server.h"

struct vm;

/** vm_create() - the VM that will be number @index of @s; its thread does not run yet */
[[gnu::warn_unused_result]] int vm_create(struct memory_server *s, unsigned index, struct vm **ret);

/** vm_start() - take over @listen_fd and run; on failure (-errno) @listen_fd stays the caller's */
[[gnu::warn_unused_result]] int vm_start(struct vm *v, int listen_fd);

/** vm_stop() - tell the thread to end; vm_destroy() waits for it */
void vm_stop(struct vm *v);

/** vm_destroy() - join the thread if it was started, release @v. NULL is allowed. */
void vm_destroy(struct vm *v);

/** vm_add_status() - add what this VM has done to @st. Any thread. */
void vm_add_status(struct vm *v, struct memory_status *st);

/* --- what a VM's thread asks of its server (server.c) --- */

const struct memory_server_options *server_options(const struct memory_server *s);

/** server_next() - @listen_fd is free: hand it to the next VM, or close it and remove the socket */
void server_next(struct memory_server *s, int listen_fd);

/** server_reject() - a connection was dropped */
void server_reject(struct memory_server *s, const struct thaw_error *why);

/** server_tell() - there is news for the control thread */
void server_tell(struct memory_server *s);

#endif

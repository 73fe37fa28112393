/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_QMP_H
#define THAW_VMM_QMP_H

/*
 * QMP, QEMU's machine protocol: JSON objects, one per line, over a connected stream socket. The
 * server greets; the client leaves negotiation mode with qmp_capabilities; then each command gets
 * one answer, with events in between at any time. (QEMU: docs/interop/qmp-spec.)
 *
 * One thread. Calls block until the answer, the deadline (clock_now_ns()) or the end of QEMU,
 * whichever is first. All that QEMU says is checked: it shares a process with a hostile guest.
 *
 * Errors besides those named: -ETIMEDOUT, -EPROTO what came was no QMP, -ECONNRESET the connection
 * or the process came to its end. After one of these @e says why, and only qmp_destroy() is left.
 */

#include <jansson.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/cleanup.h"
#include "base/error.h"
#include "format/json.h"

#define QMP_LINE_MAX_BYTES (1U << 20)
#define QMP_EVENTS_MAX     64 /* kept while an answer is waited for; the oldest are dropped */

struct qmp;

/**
 * qmp_create() - a client on the connected socket @fd
 * @fd: becomes the client's on success
 * @pidfd: borrowed for the client's life; its end ends every wait. -1 for none.
 */
[[gnu::warn_unused_result]] int qmp_create(int fd, int pidfd, struct qmp **ret);

/**
 * qmp_connect() - a client of the monitor that listens on unix socket @path
 * @ret_pid: the process that made the socket: unix(7), SO_PEERCRED
 * @ret_pidfd: of that process; borrowed by the client, the caller's to close afterwards
 *
 * Returns: 0, or -errno when there is no such socket or no such process to be seen.
 */
[[gnu::warn_unused_result]] int qmp_connect(const char *path, struct qmp **ret, pid_t *ret_pid,
                                            int *ret_pidfd, struct thaw_error *e);

/** qmp_negotiate() - read the greeting and enter command mode. When this returns 0, QEMU has set up
 *  its machine: commands are answered by its main loop. */
[[gnu::warn_unused_result]] int qmp_negotiate(struct qmp *q, uint64_t deadline_ns,
                                              struct thaw_error *e);

/* What the greeting says. Numbers of a greeting without them are 0. */
struct qmp_version {
    unsigned major, minor, micro;
};

/** qmp_version() - of the QEMU that has greeted */
struct qmp_version qmp_version(const struct qmp *q);

/**
 * qmp_execute() - run @command
 * @arguments: NULL for none; the reference is taken in any case
 * @ret: the value that the command returned, the caller's to json_decref(); NULL if not wanted
 *
 * Returns: 0, or -EREMOTEIO when QEMU refused: @e then holds its words, and the client can go on.
 */
[[gnu::warn_unused_result]] int qmp_execute(struct qmp *q, const char *command, json_t *arguments,
                                            uint64_t deadline_ns, json_t **ret,
                                            struct thaw_error *e);

/** qmp_pass_fd() - give QEMU a duplicate of @fd, which its commands then know as @name: "getfd" */
[[gnu::warn_unused_result]] int qmp_pass_fd(struct qmp *q, const char *name, int fd,
                                            uint64_t deadline_ns, struct thaw_error *e);

/** qmp_fd() - the socket, for poll(2) */
int qmp_fd(const struct qmp *q);

/**
 * qmp_next_event() - the oldest event that QEMU has told of so far; does not wait for one
 * @ret: the whole message, "event" and perhaps "data"; the caller's to json_decref()
 *
 * To be called between commands. Returns: 1, 0 when there is none, or an error.
 */
[[gnu::warn_unused_result]] int qmp_next_event(struct qmp *q, json_t **ret, struct thaw_error *e);

/**
 * qmp_wait_event() - the next event called @name; other events before it are dropped
 * @ret_data: its data object (NULL when it has none), the caller's to json_decref(); may be NULL
 */
[[gnu::warn_unused_result]] int qmp_wait_event(struct qmp *q, const char *name,
                                               uint64_t deadline_ns, json_t **ret_data,
                                               struct thaw_error *e);

/** qmp_forget_events() - drop the events that came so far, before a command that causes new ones */
void qmp_forget_events(struct qmp *q);

/** qmp_destroy() - close and release; NULL is allowed */
void qmp_destroy(struct qmp *q);
DEFINE_CLEANUP(struct qmp, qmp_destroy);
#define CLEANUP_QMP CLEANUP(cleanup_qmp_destroy)

#endif

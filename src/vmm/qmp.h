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

#include "base/cleanup.h"
#include "base/error.h"

#define QMP_LINE_MAX_BYTES (1U << 20)
#define QMP_EVENTS_MAX     64 /* kept while an answer is waited for; the oldest are dropped */

struct qmp;

/**
 * qmp_create() - a client on the connected socket @fd
 * @fd: becomes the client's on success
 * @pidfd: borrowed for the client's life; its end ends every wait. -1 for none.
 */
[[gnu::warn_unused_result]] int qmp_create(int fd, int pidfd, struct qmp **ret);

/** qmp_negotiate() - read the greeting and enter command mode. When this returns 0, QEMU has set up
 *  its machine: commands are answered by its main loop. */
[[gnu::warn_unused_result]] int qmp_negotiate(struct qmp *q, uint64_t deadline_ns,
                                              struct thaw_error *e);

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

static inline void cleanup_json(json_t **j)
{
    json_decref(*j);
}
#define CLEANUP_JSON CLEANUP(cleanup_json)

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_MAILBOX_H
#define THAW_BASE_MAILBOX_H

/*
 * Messages to a thread: many senders, one receiver, an eventfd to wait on.
 *
 * A message is embedded in the request that it completes, so sending allocates nothing and cannot
 * fail. Senders push onto a lock-free stack; the receiver takes the whole stack at once and
 * reverses it, which gives first-in first-out order per sender and no ABA problem. Only the push
 * that finds the stack empty writes to the eventfd: a burst costs one system call.
 *
 * The receiver must clear the eventfd *before* it takes the messages (mailbox_take() does both);
 * a push that comes between finds the stack empty or not, and either the message is taken now or
 * the eventfd is readable again.
 *
 * A message belongs to the mailbox from mailbox_post() until its function is called. That may be
 * before mailbox_post() has returned on the sending thread, so the mailbox counts the senders that
 * are still inside; mailbox_finish() waits them out, and no wake-up is ever written to a closed,
 * perhaps already reused, descriptor.
 */

#include <stdatomic.h>
#include <stddef.h>

struct message {
    struct message *next;                  /* mailbox only */
    void (*deliver)(struct message *self); /* called on the receiving thread; may free @self */
};

struct mailbox {
    _Atomic(struct message *) head; /* [a] senders push (release), receiver swaps out (acquire) */
    _Atomic(unsigned) posting;      /* [a] senders inside mailbox_post() */
    int event_fd;                   /* owned; readable when messages wait */
};

/** mailbox_init() - 0, or -errno when no eventfd is to be had */
[[gnu::warn_unused_result]] int mailbox_init(struct mailbox *box);

/**
 * mailbox_finish() - release @box. The receiver calls it when no message can be sent any more;
 * messages still in it are dropped, their owners keep them.
 */
void mailbox_finish(struct mailbox *box);

/** mailbox_post() - send @m, whose deliver is set. Any thread; does not block. */
void mailbox_post(struct mailbox *box, struct message *m);

/** mailbox_take() - all waiting messages, oldest first, NULL-terminated list. Receiver only. */
struct message *mailbox_take(struct mailbox *box);

/** mailbox_deliver() - take all waiting messages and call each one. Returns how many. */
size_t mailbox_deliver(struct mailbox *box);

#endif

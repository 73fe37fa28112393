/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_WAITING_H
#define THAW_TESTS_WAITING_H

/* Waiting for messages. The bound is for one that never comes; nothing depends on how long it is.
 */

#include <poll.h>

#include "base/mailbox.h"
#include "unit.h"

/** await_messages() - wait until there is one, and deliver all that are there. Its owner's thread
 */
static inline void await_messages(struct mailbox *inbox)
{
    struct pollfd p = {.fd = inbox->event_fd, .events = POLLIN};

    assert_int_equal(poll(&p, 1, 60000), 1); /* else: somebody was forgotten */
    mailbox_deliver(inbox);
}

#endif

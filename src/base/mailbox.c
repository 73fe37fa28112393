/* SPDX-License-Identifier: Apache-2.0 */
#include "base/mailbox.h"

#include <assert.h>
#include <errno.h>
#include <sched.h>
#include <stdint.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "base/cleanup.h"

int mailbox_init(struct mailbox *box)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    if (fd < 0)
        return -errno;
    atomic_init(&box->head, NULL);
    atomic_init(&box->posting, 0);
    box->event_fd = fd;
    return 0;
}

void mailbox_finish(struct mailbox *box)
{
    /* Pairs with the release in mailbox_post(); a sender is a few instructions from its end. */
    while (atomic_load_explicit(&box->posting, memory_order_acquire) > 0)
        sched_yield();
    close_fd(&box->event_fd);
}

void mailbox_post(struct mailbox *box, struct message *m)
{
    static const uint64_t one = 1;
    struct message *head;

    atomic_fetch_add_explicit(&box->posting, 1, memory_order_relaxed);
    head = atomic_load_explicit(&box->head, memory_order_relaxed);
    do {
        m->next = head;
    } while (!atomic_compare_exchange_weak_explicit(&box->head, &head, m, memory_order_release,
                                                    memory_order_relaxed));
    /* The write fails only when the counter is full, and then the receiver is awake as it is. */
    if (!head && write(box->event_fd, &one, sizeof(one)) < 0)
        assert(errno == EAGAIN);
    atomic_fetch_sub_explicit(&box->posting, 1, memory_order_release);
}

struct message *mailbox_take(struct mailbox *box)
{
    struct message *m, *fifo = NULL;
    uint64_t count;

    /* EAGAIN: nobody posted since the last call, or messages were seen before their wake-up. */
    if (read(box->event_fd, &count, sizeof(count)) < 0 && errno != EAGAIN)
        return NULL;
    m = atomic_exchange_explicit(&box->head, NULL, memory_order_acquire);
    while (m) {
        struct message *next = m->next;

        m->next = fifo;
        fifo = m;
        m = next;
    }
    return fifo;
}

size_t mailbox_deliver(struct mailbox *box)
{
    struct message *m = mailbox_take(box);
    size_t n = 0;

    while (m) {
        struct message *next = m->next;

        m->deliver(m);
        m = next;
        n++;
    }
    return n;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_IMAGE_LAYER_H
#define THAW_IMAGE_LAYER_H

/*
 * The layers of an image: the objects of its build and of the ancestors that its map refers to,
 * opened when they are first needed. A build may have hundreds of ancestors, and a resume touches
 * few: to open one means to read its manifest, which is a round trip to the store.
 *
 *     closed --first want--> opening --done--> open
 *        ^                      |
 *        +------ failed --------+     the waiters are told why; the next want tries again
 *
 * Opening blocks, so threads of its own do it, thaw-open/N, which exist only if there is an
 * ancestor. Once open, a layer stays open; looking at one is a single atomic load.
 *
 * Lock: layers.mu, a leaf, never held over a system call or a callback.
 */

#include "base/thread.h"
#include "base/uuid.h"
#include "fetch/fetch.h"
#include "format/manifest.h"

#define LAYER_OPENERS 4u

struct layout;
struct thaw_error;

struct layer {
    _Atomic(struct fetch_object *) object; /* [a] owned; NULL until open, set with release */
    struct layer *next;                    /* [m] mu: in the queue of the openers */
    struct fetch_waiter *waiters;          /* [m] mu */
    bool opening;                          /* [m] mu: in the queue, or with an opener */
    char why[200];                         /* [m] mu: why it could not be opened; "" */
};

struct layers {
    struct fetch *fetch;   /* borrowed */
    struct store *store;   /* borrowed */
    struct layout *layout; /* borrowed */
    struct manifest self;  /* just enough of it to tell the build's own objects from others' */
    struct layer *list;    /* owned: one per build of the header */
    size_t count;
    pthread_t openers[LAYER_OPENERS];
    unsigned opener_count;
    pthread_mutex_t mu;
    pthread_cond_t work;
    struct layer *queue_first, *queue_last; /* [m] mu */
    bool stopping;                          /* [m] mu */
};

/**
 * layers_init() - open the layer of the build @m itself; the others remain to be opened
 * @layout: from layout_open()
 *
 * Returns: 0 or -errno; layers_finish() is needed in either case.
 */
[[gnu::warn_unused_result]] int layers_init(struct layers *ls, struct layout *layout,
                                            const struct manifest *m, struct fetch *fetch,
                                            struct store *store, struct thaw_error *e);

/** layers_finish() - nothing may be pinned or wanted any more. Safe on a zeroed struct. */
void layers_finish(struct layers *ls);

/** layers_object() - the object of layer @i, or NULL as long as it is not open. Any thread. */
static inline struct fetch_object *layers_object(const struct layers *ls, size_t i)
{
    /* Pairs with the release in layer.c. */
    return atomic_load_explicit(&ls->list[i].object, memory_order_acquire);
}

/**
 * layers_want() - have layer @i opened
 *
 * @w gets a message: -EAGAIN when it is open (the request can be made now), or why it cannot be.
 * Returns: 0, or -EALREADY when it is open by now. Any thread; does not block.
 */
[[gnu::warn_unused_result]] int layers_want(struct layers *ls, size_t i, struct fetch_waiter *w);

/** layers_why() - why layer @i could not be opened the last time, "" if it could, into @ret */
void layers_why(struct layers *ls, size_t i, char *ret, size_t len_bytes);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "image/layer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "base/error.h"
#include "base/units.h"
#include "format/sums.h"
#include "image/build.h"
#include "image/layout.h"

/* The disk tier outlives builds: what it has of one is not taken for another of the same name. */
static uint64_t content_of(const struct manifest_object *data)
{
    return build_object_known(data) ? sums_of(data->sha256, sizeof(data->sha256)) : 0;
}

static int layer_open(struct layers *ls, size_t i, struct fetch_object **ret, struct thaw_error *e)
{
    const struct layout_object *o = &ls->layout->objects[i];
    int r = layout_find(ls->layout, i, &ls->self, ls->store, e);

    if (r == 0)
        r = layout_check_object(ls->layout, i, e);
    if (r < 0)
        return r;
    return fetch_object_open(ls->fetch,
                             &(struct fetch_object_options){
                                 .store = ls->store,
                                 .build = ls->layout->header->builds[i].id,
                                 .name = o->data.name,
                                 .sums_name = o->data.sums,
                                 .size_bytes = o->data.uncompressed_bytes,
                                 .content = content_of(&o->data),
                             },
                             ret, e);
}

static void tell(struct fetch_waiter *w, int result)
{
    struct fetch_waiter *next;

    for (; w; w = next) {
        next = w->next;
        w->result = result;
        mailbox_post(w->to, &w->msg);
    }
}

static void serve_layer(struct layers *ls, struct layer *layer)
{
    struct thaw_error why = THAW_ERROR_INIT;
    struct fetch_object *object = NULL;
    struct fetch_waiter *waiters;
    int r = layer_open(ls, (size_t)(layer - ls->list), &object, &why);

    mutex_lock(&ls->mu);
    atomic_store_explicit(&layer->object, object, memory_order_release);
    snprintf(layer->why, sizeof(layer->why), "%.*s", (int)sizeof(layer->why) - 1, why.text);
    layer->opening = false;
    waiters = TAKE_PTR(layer->waiters);
    mutex_unlock(&ls->mu);
    tell(waiters, r < 0 ? r : -EAGAIN);
}

static void *opener_thread(void *arg)
{
    struct layers *ls = arg;

    mutex_lock(&ls->mu);
    while (!ls->stopping) {
        struct layer *layer = ls->queue_first;

        if (!layer) {
            pthread_cond_wait(&ls->work, &ls->mu);
            continue;
        }
        ls->queue_first = layer->next;
        mutex_unlock(&ls->mu);
        serve_layer(ls, layer);
        mutex_lock(&ls->mu);
    }
    mutex_unlock(&ls->mu);
    return NULL;
}

static int start_openers(struct layers *ls, size_t ancestors)
{
    for (; ls->opener_count < MIN(ancestors, LAYER_OPENERS); ls->opener_count++) {
        char name[16];
        int r;

        snprintf(name, sizeof(name), "thaw-open/%u", ls->opener_count);
        r = thread_start(&ls->openers[ls->opener_count], name, opener_thread, ls);
        if (r < 0)
            return r;
    }
    return 0;
}

int layers_init(struct layers *ls, struct layout *layout, const struct manifest *m,
                struct fetch *fetch, struct store *store, struct thaw_error *e)
{
    size_t ancestors = 0;
    int r;

    ls->fetch = fetch;
    ls->store = store;
    ls->layout = layout;
    ls->self = *m; /* its objects are @m's, and are looked at in this function only */
    ls->count = layout->header->build_count;
    pthread_mutex_init(&ls->mu, NULL);
    pthread_cond_init(&ls->work, NULL);
    ls->list = calloc(ls->count + 1, sizeof(*ls->list));
    if (!ls->list)
        return err_set(e, -ENOMEM, "no memory for %zu layers", ls->count);
    for (size_t i = 0; i < ls->count; i++) {
        struct fetch_object *object = NULL;

        if (!layout->objects[i].used)
            continue;
        if (uuid_compare(&layout->header->builds[i].id, &m->build) != 0) {
            ancestors++;
            continue;
        }
        r = layer_open(ls, i, &object, e);
        if (r < 0)
            return r;
        atomic_store_explicit(&ls->list[i].object, object, memory_order_release);
    }
    ls->self.objects = NULL;
    ls->self.object_count = 0;
    r = start_openers(ls, ancestors);
    return r < 0 ? err_errno(e, r, "starting a thread that opens layers") : 0;
}

void layers_finish(struct layers *ls)
{
    if (!ls->layout)
        return;
    mutex_lock(&ls->mu);
    ls->stopping = true;
    mutex_unlock(&ls->mu);
    pthread_cond_broadcast(&ls->work);
    for (unsigned i = 0; i < ls->opener_count; i++)
        thread_join(ls->openers[i]);
    for (size_t i = 0; ls->list && i < ls->count; i++)
        fetch_object_close(layers_object(ls, i));
    pthread_cond_destroy(&ls->work);
    pthread_mutex_destroy(&ls->mu);
    free(ls->list);
    *ls = (struct layers){0};
}

int layers_want(struct layers *ls, size_t i, struct fetch_waiter *w)
{
    struct layer *layer = &ls->list[i];
    bool open, queue = false;

    mutex_lock(&ls->mu);
    open = layers_object(ls, i) != NULL;
    if (!open) {
        w->next = layer->waiters;
        layer->waiters = w;
        queue = !layer->opening;
    }
    if (queue) {
        layer->opening = true;
        layer->next = NULL;
        if (ls->queue_first)
            ls->queue_last->next = layer;
        else
            ls->queue_first = layer;
        ls->queue_last = layer;
    }
    mutex_unlock(&ls->mu);
    if (queue)
        pthread_cond_signal(&ls->work);
    return open ? -EALREADY : 0;
}

void layers_why(struct layers *ls, size_t i, char *ret, size_t len_bytes)
{
    mutex_lock(&ls->mu);
    snprintf(ret, len_bytes, "%s", ls->list[i].why);
    mutex_unlock(&ls->mu);
}

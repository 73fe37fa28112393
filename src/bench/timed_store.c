/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/timed_store.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "base/clock.h"
#include "image/build.h"
#include "store/internal.h"

struct timed_store {
    struct store store;
    struct store *inner; /* borrowed */
    void (*record)(void *arg, uint64_t bytes, uint64_t ns);
    void *arg;
};

struct timed_object {
    struct store_object object;
    struct store_object *inner; /* owned */
    bool timed;
};

/* What the store below is asked for in place of a read; freed when it is over. */
struct timed_read {
    struct store_read read;
    struct store_read *outer;
    uint64_t begin_ns;
};

static struct timed_store *store_of(struct store *s)
{
    return container_of(s, struct timed_store, store);
}

static struct timed_object *object_of(struct store_object *o)
{
    return container_of(o, struct timed_object, object);
}

static void timed_close(struct store *s)
{
    free(store_of(s));
}

static bool is_sums(const char *name)
{
    size_t len = strlen(name), suffix = strlen(SUMS_SUFFIX);

    return len > suffix && strcmp(name + len - suffix, SUMS_SUFFIX) == 0;
}

static int timed_object_open(struct store *s, const struct uuid *build, const char *name,
                             struct store_object **ret)
{
    struct timed_object *o = calloc(1, sizeof(*o));
    int r = o ? store_object_open(store_of(s)->inner, build, name, &o->inner) : -ENOMEM;

    if (r < 0) {
        free(o);
        return r;
    }
    o->object.store = s;
    o->timed = !is_sums(name);
    *ret = &o->object;
    return 0;
}

static void timed_object_close(struct store_object *object)
{
    struct timed_object *o = object_of(object);

    store_object_close(o->inner);
    free(o);
}

static void read_done(struct store_read *r, int64_t result)
{
    struct timed_read *t = container_of(r, struct timed_read, read);
    /* After its done() the outer read may be the next batch's, and the object is not asked. */
    struct timed_object *o = object_of(t->outer->object);
    struct timed_store *s = store_of(o->object.store);
    bool count = o->timed && result > 0;

    t->outer->done(t->outer, result);
    if (count)
        s->record(s->arg, (uint64_t)result, clock_now_ns() - t->begin_ns);
    free(t);
}

static void timed_read(struct store_read *r)
{
    struct timed_read *t = calloc(1, sizeof(*t));

    if (!t) {
        r->done(r, -ENOMEM);
        return;
    }
    t->outer = r;
    t->begin_ns = clock_now_ns();
    t->read = (struct store_read){
        .object = object_of(r->object)->inner,
        .buf = r->buf,
        .iov = r->iov,
        .iov_count = r->iov_count,
        .len_bytes = r->len_bytes,
        .offset = r->offset,
        .priority = r->priority,
        .done = read_done,
    };
    store_read(&t->read);
}

static int timed_get(struct store *s, const struct uuid *build, const char *name, size_t max_bytes,
                     struct buf *ret, struct thaw_error *e)
{
    return store_get(store_of(s)->inner, build, name, max_bytes, ret, e);
}

static int timed_size(struct store *s, const struct uuid *build, const char *name,
                      uint64_t *ret_bytes)
{
    return store_size(store_of(s)->inner, build, name, ret_bytes);
}

int timed_store_create(struct store *inner, void (*record)(void *arg, uint64_t bytes, uint64_t ns),
                       void *arg, struct store **ret)
{
    static const struct store_ops ops = {
        .close = timed_close,
        .object_open = timed_object_open,
        .object_close = timed_object_close,
        .read = timed_read,
        .get = timed_get,
        .size = timed_size,
    };
    struct timed_store *s = calloc(1, sizeof(*s));

    if (!s)
        return -ENOMEM;
    *s = (struct timed_store){
        .store = {&ops, inner->origin}, .inner = inner, .record = record, .arg = arg};
    *ret = &s->store;
    return 0;
}

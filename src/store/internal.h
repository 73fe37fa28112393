/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_STORE_INTERNAL_H
#define THAW_STORE_INTERNAL_H

/*
 * What a kind of store implements. Each operation does what the function of the same name in
 * store/store.h promises; store.c has checked the names of objects before it calls one. The structs
 * here are the heads of the implementation's own.
 */

#include "store/store.h"

struct store_ops {
    void (*close)(struct store *s);

    int (*object_open)(struct store *s, const struct uuid *build, const char *name,
                       struct store_object **ret);
    void (*object_close)(struct store_object *o);
    void (*read)(struct store_read *r);

    int (*get)(struct store *s, const struct uuid *build, const char *name, size_t max_bytes,
               struct buf *ret, struct thaw_error *e);
    int (*size)(struct store *s, const struct uuid *build, const char *name, uint64_t *ret_bytes);

    int (*writer_open)(struct store *s, const struct uuid *build, const char *name,
                       struct store_writer **ret, struct thaw_error *e);
    int (*writer_append)(struct store_writer *w, const void *bytes, size_t len_bytes,
                         struct thaw_error *e);
    int (*writer_commit)(struct store_writer *w, struct thaw_error *e);
    void (*writer_close)(struct store_writer *w);

    int (*list_builds)(struct store *s, struct store_builds *ret, struct thaw_error *e);
    int (*list_objects)(struct store *s, const struct uuid *build, struct store_objects *ret,
                        struct thaw_error *e);
    int (*object_delete)(struct store *s, const struct uuid *build, const char *name,
                         struct thaw_error *e);
    int (*build_delete)(struct store *s, const struct uuid *build, struct thaw_error *e);
    int (*build_discard)(struct store *s, const struct uuid *build, struct thaw_error *e);
};

struct store {
    const struct store_ops *ops;
    uint64_t origin; /* tells it from all other stores */
};

struct store_object {
    struct store *store; /* borrowed */
};

struct store_writer {
    struct store *store; /* borrowed */
};

/* Append one entry to a list; 0 or -ENOMEM. */
[[gnu::warn_unused_result]] int store_builds_add(struct store_builds *list,
                                                 const struct store_build *build);
[[gnu::warn_unused_result]] int store_objects_add(struct store_objects *list, const char *name,
                                                  uint64_t size_bytes);

#endif

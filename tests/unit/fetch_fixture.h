/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FETCH_FIXTURE_H
#define THAW_TESTS_FETCH_FIXTURE_H

/* A build of random bytes, whose memory is fetched by granules and compared with those bytes. */

#include "build_fixture.h"

static struct build_fixture f;
static unsigned char *content; /* of the memory, from malloc */
static size_t content_bytes;

/** fetch_fixture_init() - for a group of tests: make the build, of a memory of @bytes */
static inline void fetch_fixture_init(size_t bytes)
{
    content = random_bytes(bytes, 7);
    content_bytes = bytes;
    build_fixture_init(&f, content, bytes);
}

static inline int tear_down_group(void **state)
{
    (void)state;
    build_fixture_finish(&f);
    free(content);
    return 0;
}

/** open_object() - of the build; @sums_name: NULL for without. It need not be there */
static inline struct fetch_object *open_object(struct fetch *fetch, const char *name,
                                               const char *sums_name)
{
    struct fetch_object_options o = {
        .store = f.store,
        .build = f.id,
        .name = name,
        .sums_name = sums_name,
        .size_bytes = content_bytes,
    };
    struct fetch_object *object = NULL;

    assert_int_equal(fetch_object_open(fetch, &o, &object, NULL), 0);
    return object;
}

/** is_right() - whether a granule of the memory is there; if it is, it is compared */
static inline bool is_right(struct fetch_object *memory, uint32_t granule)
{
    const void *bytes = fetch_pin(memory, granule);
    uint64_t from = granule * GRANULE_BYTES;

    if (!bytes)
        return false;
    assert_memory_equal(bytes, content + from, MIN(GRANULE_BYTES, content_bytes - from));
    fetch_unpin(memory, granule);
    return true;
}

#endif

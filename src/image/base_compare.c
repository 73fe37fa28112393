/* SPDX-License-Identifier: Apache-2.0 */
#include "image/base.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"
#include "format/header.h"
#include "format/sums.h"
#include "image/base_internal.h"
#include "image/pack.h"
#include "store/store.h"

/*
 * Comparing. The stretch of the image is walked by the runs of the base's map. Where the base is
 * zeros nothing is read. Elsewhere the piece of the object that has the bytes is noted, and the
 * granules around it are planned to be read: neighbours in one read, none twice. When the buffer is
 * full of what is planned (at the end of the stretch, most often) all of it is read at once,
 * verified and compared. Blocks that are known to differ already are left out.
 *
 * A packed object has its blocks in the order of the image. So a stretch of the image needs, of
 * each object, one or a few runs of granules, however many layers it was made of.
 */

#define BUFFER_GRANULES                                                                            \
    (4 * MIB / GRANULE_BYTES) /* a stretch that one object has, and one more                       \
                               */
#define PIECES_MAX (BASE_COMPARE_MAX_BYTES / PAGE_BYTES)

/* One read: neighbouring granules of one object. */
struct plan_read {
    struct store_read read;
    struct base_reader *reader;
    const struct base_object *object;
    uint64_t first;
    uint64_t count;
    uint64_t slot; /* where in the buffer, in granules */
    int64_t result;
};

/* Bytes of the stretch, and where in the buffer the base's are. */
struct plan_piece {
    size_t data_at;
    size_t buffer_at;
    size_t len_bytes;
};

struct base_reader {
    const struct base *base; /* borrowed */
    char *buffer;            /* owned: BUFFER_GRANULES */
    uint64_t slots;          /* of it, planned */
    struct plan_read reads[BUFFER_GRANULES];
    size_t read_count;
    struct plan_piece pieces[PIECES_MAX];
    size_t piece_count;

    pthread_mutex_t mu;
    pthread_cond_t all_done;
    size_t under_way; /* [m] mu */
};

/* The question that base_compare() is asked. */
struct question {
    const char *data;
    uint64_t block_bytes;
    enum block_fate *fates;
};

int base_reader_create(const struct base *b, struct base_reader **ret, struct thaw_error *e)
{
    struct base_reader *r = calloc(1, sizeof(*r));

    if (r) {
        r->base = b;
        pthread_mutex_init(&r->mu, NULL);
        pthread_cond_init(&r->all_done, NULL);
        r->buffer = aligned_alloc(PAGE_BYTES, BUFFER_GRANULES * GRANULE_BYTES);
    }
    if (!r || !r->buffer) {
        base_reader_destroy(r);
        return err_set(e, -ENOMEM, "no memory to compare with the base");
    }
    *ret = r;
    return 0;
}

void base_reader_destroy(struct base_reader *r)
{
    if (!r)
        return;
    free(r->buffer);
    pthread_cond_destroy(&r->all_done);
    pthread_mutex_destroy(&r->mu);
    free(r);
}

static void read_done(struct store_read *read, int64_t result)
{
    struct plan_read *p = container_of(read, struct plan_read, read);
    struct base_reader *r = p->reader;
    LOCK_SCOPE(&r->mu);

    p->result = result;
    if (--r->under_way == 0)
        pthread_cond_signal(&r->all_done);
}

static uint64_t read_bytes(const struct plan_read *p)
{
    return MIN(p->count * GRANULE_BYTES, p->object->size_bytes - p->first * GRANULE_BYTES);
}

static void read_all(struct base_reader *r)
{
    mutex_lock(&r->mu);
    r->under_way = r->read_count;
    mutex_unlock(&r->mu);
    for (size_t i = 0; i < r->read_count; i++) {
        struct plan_read *p = &r->reads[i];

        p->reader = r;
        p->read = (struct store_read){
            .object = p->object->object,
            .buf = r->buffer + p->slot * GRANULE_BYTES,
            .len_bytes = read_bytes(p),
            .offset = {p->first * GRANULE_BYTES},
            .priority = IO_DEMAND,
            .done = read_done,
        };
        store_read(&p->read);
    }
    mutex_lock(&r->mu);
    while (r->under_way > 0)
        pthread_cond_wait(&r->all_done, &r->mu);
    mutex_unlock(&r->mu);
}

static int check_read(const struct base_reader *r, const struct plan_read *p, struct thaw_error *e)
{
    const struct base_object *o = p->object;
    uint64_t len_bytes = read_bytes(p);
    char id[UUID_TEXT_BYTES];

    uuid_format(&o->build, id);
    if (p->result < 0)
        return err_errno(e, (int)p->result, "reading the base: object %s of build %s", o->name, id);
    if ((uint64_t)p->result != len_bytes)
        return err_set(e, -EBADMSG,
                       "the base is damaged: object %s of build %s ends at byte %llu, by the "
                       "manifest it has %llu",
                       o->name, id, (unsigned long long)(p->first * GRANULE_BYTES) + p->result,
                       (unsigned long long)o->size_bytes);
    for (uint64_t at = 0; o->sums && at < len_bytes; at += GRANULE_BYTES) {
        uint64_t granule = p->first + at / GRANULE_BYTES;
        const char *bytes = r->buffer + p->slot * GRANULE_BYTES + at;

        if (sums_of(bytes, MIN(GRANULE_BYTES, len_bytes - at)) != o->sums[granule])
            return err_set(e, -EBADMSG,
                           "the base is damaged: granule %llu of object %s of build %s does not "
                           "have its checksum",
                           (unsigned long long)granule, o->name, id);
    }
    return 0;
}

/* Reads, verifies and compares what is planned, and begins a new plan. */
static int run_plan(struct base_reader *r, const struct question *q, struct thaw_error *e)
{
    int result = 0;

    read_all(r);
    for (size_t i = 0; result == 0 && i < r->read_count; i++)
        result = check_read(r, &r->reads[i], e);
    for (size_t i = 0; result == 0 && i < r->piece_count; i++) {
        const struct plan_piece *p = &r->pieces[i];

        if (memcmp(q->data + p->data_at, r->buffer + p->buffer_at, p->len_bytes) != 0)
            q->fates[p->data_at / q->block_bytes] = BLOCK_DIRTY;
    }
    r->slots = r->read_count = r->piece_count = 0;
    return result;
}

/* Where in the buffer @granule of @o will be, planning its read if need be; false: no room. */
static bool plan_granule(struct base_reader *r, const struct base_object *o, uint64_t granule,
                         uint64_t *ret_slot)
{
    for (size_t i = r->read_count; i-- > 0;) {
        struct plan_read *p = &r->reads[i];

        if (p->object == o && granule >= p->first && granule < p->first + p->count) {
            *ret_slot = p->slot + (granule - p->first);
            return true;
        }
    }
    if (r->slots == BUFFER_GRANULES)
        return false;
    if (r->read_count > 0) {
        struct plan_read *last = &r->reads[r->read_count - 1];

        if (last->object == o && granule == last->first + last->count) {
            last->count++;
            *ret_slot = r->slots++;
            return true;
        }
    }
    r->reads[r->read_count++] =
        (struct plan_read){.object = o, .first = granule, .count = 1, .slot = r->slots};
    *ret_slot = r->slots++;
    return true;
}

/* Plans what lies within one granule: then it is in one place of the buffer. */
static int add_piece(struct base_reader *r, const struct question *q, const struct base_object *o,
                     uint64_t storage, size_t data_at, size_t len_bytes, struct thaw_error *e)
{
    uint64_t slot;

    if (r->piece_count == PIECES_MAX || !plan_granule(r, o, storage / GRANULE_BYTES, &slot)) {
        int result = run_plan(r, q, e);

        if (result < 0 || !plan_granule(r, o, storage / GRANULE_BYTES, &slot))
            return result;
    }
    r->pieces[r->piece_count++] = (struct plan_piece){
        .data_at = data_at,
        .buffer_at = slot * GRANULE_BYTES + storage % GRANULE_BYTES,
        .len_bytes = len_bytes,
    };
    return 0;
}

static bool is_zero(const char *data, size_t len_bytes)
{
    for (size_t at = 0; at < len_bytes; at += PAGE_BYTES) {
        if (!page_is_zero(data + at))
            return false;
    }
    return true;
}

/* Compares the beginning of a block, as far as it is of one kind; returns how far, or -errno. */
static int64_t compare_some(struct base_reader *r, const struct question *q, uint64_t offset,
                            size_t data_at, size_t len_bytes, struct thaw_error *e)
{
    const struct base_object *o;
    struct map_extent extent = {.zero = true, .len_bytes = len_bytes};
    int result = map_lookup(r->base->layout->header->map, (struct image_off){offset}, &extent);
    char id[UUID_TEXT_BYTES];

    if (result == -ERANGE) /* the image has grown: by zeros */
        result = 0;
    if (result < 0)
        return err_errno(e, result, "looking up byte %llu of the base", (unsigned long long)offset);
    len_bytes = MIN(len_bytes, extent.len_bytes);
    if (extent.zero) {
        if (!is_zero(q->data + data_at, len_bytes))
            q->fates[data_at / q->block_bytes] = BLOCK_DIRTY;
        return (int64_t)len_bytes;
    }
    o = &r->base->objects[extent.build];
    len_bytes = MIN(len_bytes, GRANULE_BYTES - extent.storage.v % GRANULE_BYTES);
    if (extent.storage.v + len_bytes > o->size_bytes)
        return err_set(e, -EBADMSG,
                       "the base maps byte %llu to byte %llu of object %s of build %s, which has "
                       "only %llu",
                       (unsigned long long)offset, (unsigned long long)extent.storage.v, o->name,
                       uuid_format(&o->build, id), (unsigned long long)o->size_bytes);
    result = add_piece(r, q, o, extent.storage.v, data_at, len_bytes, e);
    return result < 0 ? result : (int64_t)len_bytes;
}

int base_compare(struct base_reader *r, uint64_t offset, const void *data, size_t len_bytes,
                 uint64_t block_bytes, enum block_fate *fates, struct thaw_error *e)
{
    struct question q = {.data = data, .block_bytes = block_bytes, .fates = fates};

    assert(len_bytes <= BASE_COMPARE_MAX_BYTES);
    r->slots = r->read_count = r->piece_count = 0;
    for (size_t block = 0; block < len_bytes; block += block_bytes) {
        size_t at = block;

        while (at < block + block_bytes && fates[block / block_bytes] == BLOCK_SAME) {
            int64_t n = compare_some(r, &q, offset + at, at, block + block_bytes - at, e);

            if (n < 0)
                return (int)n;
            at += (size_t)n;
        }
    }
    return run_plan(r, &q, e);
}

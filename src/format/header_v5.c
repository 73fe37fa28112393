/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header_codec.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

/*
 * V5's mapping section, in pages:
 *
 *   build count u32 | ids [16] | mapping count u32 | offset deltas, uvarint | lengths, uvarint |
 *   storage deltas, zigzag varint | indexes into the ids, uvarint
 *
 * Only mapped runs are stored; the gaps between them are zeros. The four columns are read side by
 * side, each by a reader of its own, so that no column has to be kept.
 */

/* E2B's cap: 42 bytes is what it reckons a mapping takes in memory. Its other cap, 8 Mi, is above.
 */
#define MAX_MAPPINGS      (HEADER_BLOCK_MAX_BYTES / 42)
#define MAX_UVARINT_BYTES 10

enum column { OFFSETS, LENGTHS, STORAGE, BUILDS, COLUMNS };

static const char *const column_names[COLUMNS] = {
    [OFFSETS] = "offset delta",
    [LENGTHS] = "length",
    [STORAGE] = "storage delta",
    [BUILDS] = "build index",
};

struct columns {
    struct reader at[COLUMNS];
    uint64_t offset;   /* page where the last mapping started */
    int64_t storage;   /* and its storage page */
    uint16_t *indexes; /* owned; from this section's build table to the header's */
    uint32_t index_count;
};

static void columns_finish(struct columns *c)
{
    free(c->indexes);
}

/* Seven bits a byte, the lowest first. More than 64 bits fail the reader. */
static uint64_t read_uvarint(struct reader *r)
{
    uint64_t v = 0;

    for (unsigned i = 0; i < MAX_UVARINT_BYTES; i++) {
        uint8_t byte = reader_u8(r);

        if (i == MAX_UVARINT_BYTES - 1 && byte > 1)
            break;
        v |= (uint64_t)(byte & 0x7f) << (7 * i);
        if (byte < 0x80)
            return v;
    }
    r->failed = true;
    return 0;
}

/* 0, -1, 1, -2 … as 0, 1, 2, 3 … */
static int64_t unzigzag(uint64_t v)
{
    return (int64_t)(v >> 1 ^ -(v & 1));
}

static int decode_ids(struct header_input *in, struct columns *c)
{
    size_t at = reader_offset(&in->r);
    uint32_t count = reader_u32(&in->r);

    if (in->r.failed || count > MAP_MAX_BUILDS || count > reader_left(&in->r) / sizeof(struct uuid))
        return err_set(in->e, -EBADMSG,
                       "count of mapped builds at byte %zu of %s is %" PRIu32
                       ": the %zu bytes behind it do not hold them, or they are more than %d",
                       at, in->where, count, reader_left(&in->r), MAP_MAX_BUILDS);
    c->indexes = reallocarray(NULL, count + 1, sizeof(*c->indexes));
    if (!c->indexes)
        return err_set(in->e, -ENOMEM, "no memory for %" PRIu32 " builds", count);
    for (; c->index_count < count; c->index_count++) {
        struct uuid id = header_read_uuid(&in->r);
        int r;

        if (uuid_is_nil(&id))
            return err_set(in->e, -EBADMSG, "mapped build %" PRIu32 " of %s: id is nil",
                           c->index_count, in->where);
        r = build_table_add(in->builds, &id, &c->indexes[c->index_count]);
        if (r < 0)
            return err_set(in->e, r == -E2BIG ? -EBADMSG : r, "mapped build %" PRIu32 " of %s: %s",
                           c->index_count, in->where,
                           r == -E2BIG ? "too many builds" : "no memory");
    }
    return 0;
}

/* Finds where the columns start, by reading through all but the last one of them. */
static int find_columns(struct header_input *in, struct columns *c, uint32_t count)
{
    for (enum column i = OFFSETS; i < COLUMNS; i++) {
        c->at[i] = in->r;
        for (uint32_t n = 0; n < count; n++) {
            size_t at = reader_offset(&in->r);

            read_uvarint(&in->r);
            if (in->r.failed)
                return err_set(in->e, -EBADMSG,
                               "%s of mapping %" PRIu32 " at byte %zu of %s is no varint",
                               column_names[i], n, at, in->where);
        }
    }
    return 0;
}

/* The next mapping of the columns, in bytes. Values beyond any image are refused here. */
static int next_mapping(struct header_input *in, struct columns *c, struct header_mapping *ret)
{
    uint64_t delta = read_uvarint(&c->at[OFFSETS]);
    uint64_t pages = read_uvarint(&c->at[LENGTHS]);
    int64_t storage_delta = unzigzag(read_uvarint(&c->at[STORAGE]));
    uint64_t index = read_uvarint(&c->at[BUILDS]);

    if (delta > MAP_MAX_PAGES - c->offset)
        return err_set(in->e, -EBADMSG, "offset delta %" PRIu64 " leads past 16 TiB", delta);
    if (pages > MAP_MAX_PAGES)
        return err_set(in->e, -EBADMSG, "length %" PRIu64 " is past 16 TiB", pages);
    if (storage_delta < -c->storage || storage_delta > (int64_t)MAP_MAX_PAGES - c->storage)
        return err_set(in->e, -EBADMSG, "storage delta %" PRId64 " leads below 0 or past 16 TiB",
                       storage_delta);
    if (index >= c->index_count)
        return err_set(in->e, -EBADMSG, "build index %" PRIu64 ": there are %" PRIu32 " builds",
                       index, c->index_count);
    c->offset += delta;
    c->storage += storage_delta;
    *ret = (struct header_mapping){
        .offset = c->offset * PAGE_BYTES,
        .len_bytes = pages * PAGE_BYTES,
        .storage = (uint64_t)c->storage * PAGE_BYTES,
        .build = in->builds->builds[c->indexes[index]].id,
    };
    return 0;
}

/* Puts zeros between the end of the last mapping and @offset, or the image's end. */
static int fill_gap(struct header_input *in, const struct header *h, uint64_t offset, size_t at)
{
    uint64_t end = MIN(offset, round_up(h->size_bytes, PAGE_BYTES));
    struct header_mapping gap = {.offset = in->mapped_pages * PAGE_BYTES};
    int r;

    if (end <= gap.offset)
        return 0;
    gap.len_bytes = end - gap.offset;
    r = header_input_map(in, h, &gap, at);
    in->mapping_count--; /* it is none of the file's */
    return r;
}

int header_v5_decode_map(struct header_input *in, const struct header *h)
{
    struct columns c CLEANUP(columns_finish) = {0};
    int r = decode_ids(in, &c);
    size_t at;
    uint32_t count;

    if (r < 0)
        return r;
    at = reader_offset(&in->r);
    count = reader_u32(&in->r);
    if (in->r.failed || count > MAX_MAPPINGS || count > reader_left(&in->r) / COLUMNS)
        return err_set(in->e, -EBADMSG,
                       "mapping count at byte %zu of %s is %" PRIu32
                       ": the %zu bytes behind it do not hold them, or they are too many",
                       at, in->where, count, reader_left(&in->r));
    r = find_columns(in, &c, count);
    for (uint32_t i = 0; r == 0 && i < count; i++) {
        struct header_mapping m = {0};

        at = reader_offset(&c.at[OFFSETS]);
        r = next_mapping(in, &c, &m);
        if (r < 0)
            err_wrap(in->e, "mapping %" PRIu32 ", offset delta at byte %zu of %s", i, at,
                     in->where);
        if (r == 0)
            r = fill_gap(in, h, m.offset, at);
        if (r == 0)
            r = header_input_map(in, h, &m, at);
    }
    return r < 0 ? r : fill_gap(in, h, UINT64_MAX, reader_offset(&in->r));
}

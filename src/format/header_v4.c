/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header_codec.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "format/lz4_frame.h"

/*
 * V4 and V5: after the metadata
 *
 *   flags u8 | size u32 | LZ4 frame that decompresses to `size` bytes, the block
 *   block := build count u32 | builds, ascending by id | mapping section
 *   build := id [16] | size of its data i64 | SHA-256 of its data [32] | frame table
 *
 * V4's mapping section is a count u32 and as many mappings of 40 bytes; V5's is in header_v5.c.
 */

#define FLAG_INCOMPLETE   0x01 /* the build's data is still being uploaded; never stored */
#define BUILD_FIXED_BYTES (16 + 8 + 32)
#define BUILD_MIN_BYTES   (BUILD_FIXED_BYTES + FRAME_TABLE_HEAD_BYTES)

static int decode_build(struct header_input *in, uint32_t number, const struct uuid *before,
                        struct uuid *ret_id)
{
    size_t at = reader_offset(&in->r);
    struct uuid id = header_read_uuid(&in->r);
    uint64_t size_bytes = reader_u64(&in->r);
    const void *sha256 = reader_take(&in->r, HEADER_SHA256_BYTES);
    struct header_build *b;
    uint16_t index;
    int r;

    if (!sha256)
        return err_set(in->e, -EBADMSG, "build %" PRIu32 " at byte %zu: %s ends within it", number,
                       at, in->where);
    if (before && uuid_compare(before, &id) >= 0)
        return err_set(in->e, -EBADMSG,
                       "build %" PRIu32 " at byte %zu of %s: id is not above that of the build "
                       "before it",
                       number, at, in->where);
    if (size_bytes > INT64_MAX)
        return err_set(in->e, -EBADMSG, "build %" PRIu32 " at byte %zu of %s: size is negative",
                       number, at, in->where);
    r = build_table_add(in->builds, &id, &index);
    if (r < 0)
        return err_set(in->e, r, "build %" PRIu32 ": no memory", number);
    b = &in->builds->builds[index];
    b->known = true;
    b->size_bytes = size_bytes;
    memcpy(b->sha256, sha256, sizeof(b->sha256));
    *ret_id = id;
    r = frame_table_decode(&in->r, &b->frames, in->e);
    if (r < 0)
        err_wrap(in->e, "build %" PRIu32 " at byte %zu of %s", number, at, in->where);
    return r;
}

static int decode_builds(struct header_input *in)
{
    size_t at = reader_offset(&in->r);
    uint32_t count = reader_u32(&in->r);
    struct uuid ids[2];

    if (in->r.failed)
        return err_set(in->e, -EBADMSG, "build count at byte %zu: %s ends within it", at,
                       in->where);
    if (count > reader_left(&in->r) / BUILD_MIN_BYTES || count > MAP_MAX_BUILDS)
        return err_set(in->e, -EBADMSG,
                       "build count at byte %zu of %s is %" PRIu32 ": the %zu bytes behind it hold "
                       "at most %zu, the format %d",
                       at, in->where, count, reader_left(&in->r),
                       reader_left(&in->r) / BUILD_MIN_BYTES, MAP_MAX_BUILDS);
    for (uint32_t i = 0; i < count; i++) {
        int r = decode_build(in, i, i > 0 ? &ids[(i - 1) % 2] : NULL, &ids[i % 2]);

        if (r < 0)
            return r;
    }
    return 0;
}

static int decode_v4_map(struct header_input *in, const struct header *h)
{
    size_t at = reader_offset(&in->r);
    uint32_t count = reader_u32(&in->r);

    if (in->r.failed)
        return err_set(in->e, -EBADMSG, "mapping count at byte %zu: %s ends within it", at,
                       in->where);
    if (count > reader_left(&in->r) / HEADER_RECORD_BYTES)
        return err_set(in->e, -EBADMSG,
                       "mapping count at byte %zu of %s is %" PRIu32
                       ", more than the %zu bytes behind it can hold",
                       at, in->where, count, reader_left(&in->r));
    return header_read_records(in, count, h);
}

static int decode_block(struct header_input *in, struct header *h)
{
    int r = decode_builds(in);

    if (r < 0)
        return r;
    r = header_format(h) == HEADER_V5 ? header_v5_decode_map(in, h) : decode_v4_map(in, h);
    if (r < 0)
        return r;
    if (reader_left(&in->r) > 0)
        return err_set(in->e, -EBADMSG, "%zu bytes follow the mappings, at byte %zu of %s",
                       reader_left(&in->r), reader_offset(&in->r), in->where);
    return header_input_finish(in, h);
}

int header_v4_decode(struct header_input *in, struct header *h)
{
    uint8_t *block CLEANUP_FREE = NULL;
    uint8_t flags = reader_u8(&in->r);
    uint32_t size = reader_u32(&in->r);
    size_t at = reader_offset(&in->r);
    int r;

    if (in->r.failed)
        return err_set(in->e, -EBADMSG, "flags and size at byte %d: the file ends within them",
                       HEADER_META_BYTES);
    if (flags & FLAG_INCOMPLETE)
        return err_set(in->e, -EBADMSG,
                       "flags at byte %d say that the build's data was not uploaded yet when the "
                       "header was written",
                       HEADER_META_BYTES);
    if (flags != 0)
        return err_set(in->e, -EBADMSG, "flags at byte %d are 0x%02x, this thaw knows none of them",
                       HEADER_META_BYTES, flags);
    if (size > HEADER_BLOCK_MAX_BYTES)
        return err_set(in->e, -EBADMSG,
                       "size at byte %d is %" PRIu32 ", the format allows %" PRIu64,
                       HEADER_META_BYTES + 1, size, HEADER_BLOCK_MAX_BYTES);
    r = lz4_frame_decode(in->r.at, reader_left(&in->r), size, &block, in->e);
    if (r < 0) {
        err_wrap(in->e, "block at byte %zu", at);
        return r;
    }
    in->r = reader_init(block, size);
    in->where = "the uncompressed block";
    return decode_block(in, h);
}

/* Encoding. */

static int compare_builds(const void *a, const void *b)
{
    const struct header_build *const *x = a, *const *y = b;

    return uuid_compare(&(*x)->id, &(*y)->id);
}

/* The known builds of @h in the order of their ids; *@ret to be freed. */
static int sort_builds(const struct header *h, const struct header_build ***ret,
                       uint32_t *ret_count)
{
    const struct header_build **sorted = reallocarray(NULL, h->build_count + 1, sizeof(*sorted));
    uint32_t count = 0;

    if (!sorted)
        return -ENOMEM;
    for (size_t i = 0; i < h->build_count; i++) {
        if (h->builds[i].known)
            sorted[count++] = &h->builds[i];
    }
    qsort(sorted, count, sizeof(*sorted), compare_builds);
    *ret = sorted;
    *ret_count = count;
    return 0;
}

/*
 * Which frames a map touches: one flag per frame of all builds, those of a build from starts[its
 * index] on. Runs are counted at the first frame they touch and discounted behind the last one, so
 * that a run costs the same however many frames it has.
 */
struct frame_use {
    size_t *starts; /* owned */
    bool *used;     /* owned */
};

static void frame_use_finish(struct frame_use *u)
{
    free(u->starts);
    free(u->used);
}

static void count_run(const struct header *h, size_t run_index, const size_t *starts,
                      int64_t *changes)
{
    struct map_run run = map_run_at(h->map, run_index);
    uint64_t offset = run.start * PAGE_BYTES, storage = run.storage * PAGE_BYTES;
    uint64_t len_bytes = MIN(map_run_pages(h->map, run_index) * PAGE_BYTES, h->size_bytes - offset);
    const struct header_build *b = &h->builds[run.build];
    const struct frame *first, *last;

    if (!b->known || b->frames.count == 0)
        return;
    first = frame_table_find(&b->frames, (struct u_off){storage});
    last = frame_table_find(&b->frames, (struct u_off){storage + len_bytes - 1});
    assert(first && last); /* header_check() saw to it */
    changes[starts[run.build] + (size_t)(first - b->frames.frames)]++;
    changes[starts[run.build] + (size_t)(last - b->frames.frames) + 1]--;
}

static int frame_use_init(struct frame_use *u, const struct header *h)
{
    int64_t *changes CLEANUP_FREE = NULL;
    size_t total = 0;
    int64_t runs = 0;

    u->starts = reallocarray(NULL, h->build_count + 1, sizeof(*u->starts));
    if (!u->starts)
        return -ENOMEM;
    for (size_t i = 0; i < h->build_count; i++) {
        u->starts[i] = total;
        total += h->builds[i].frames.count + 1; /* room to discount behind the last frame */
    }
    changes = calloc(total + 1, sizeof(*changes));
    u->used = calloc(total + 1, sizeof(*u->used));
    if (!changes || !u->used)
        return -ENOMEM;
    for (size_t i = 0; i < map_run_count(h->map); i++) {
        if (map_run_at(h->map, i).build != MAP_ZERO)
            count_run(h, i, u->starts, changes);
    }
    for (size_t i = 0; i < total; i++) {
        runs += changes[i];
        u->used[i] = runs > 0;
    }
    return 0;
}

/* The flags to trim @b's table by; NULL to keep it whole, as its own and unmapped builds are. */
static const bool *frames_to_keep(const struct header *h, const struct header_build *b,
                                  const struct frame_use *use)
{
    const bool *used = use->used + use->starts[b - h->builds];

    if (uuid_compare(&b->id, &h->build) == 0)
        return NULL;
    for (size_t i = 0; i < b->frames.count; i++) {
        if (used[i])
            return used;
    }
    return NULL;
}

static int encode_block(const struct header *h, struct buf *block)
{
    const struct header_build **sorted CLEANUP_FREE = NULL;
    struct frame_use use CLEANUP(frame_use_finish) = {0};
    uint32_t count = 0;

    if (sort_builds(h, &sorted, &count) < 0 || frame_use_init(&use, h) < 0)
        return -ENOMEM;
    buf_put_u32(block, count);
    for (uint32_t i = 0; i < count; i++) {
        const struct header_build *b = sorted[i];

        buf_put(block, b->id.b, sizeof(b->id.b));
        buf_put_u64(block, b->size_bytes);
        buf_put(block, b->sha256, sizeof(b->sha256));
        frame_table_encode(&b->frames, frames_to_keep(h, b, &use), block);
    }
    buf_put_u32(block, (uint32_t)map_run_count(h->map));
    header_write_records(h, block);
    return block->failed ? -ENOMEM : 0;
}

int header_v4_encode(const struct header *h, struct buf *ret, struct thaw_error *e)
{
    struct buf block CLEANUP_BUF = {0};
    uint64_t mapping_bytes = (uint64_t)map_run_count(h->map) * HEADER_RECORD_BYTES;

    /* First what needs no block to be made, so that a hopeless one is never made. */
    if (mapping_bytes > HEADER_BLOCK_MAX_BYTES)
        return err_set(e, -EINVAL,
                       "%zu mappings take %" PRIu64 " bytes, the format allows %" PRIu64
                       ": compact the build",
                       map_run_count(h->map), mapping_bytes, HEADER_BLOCK_MAX_BYTES);
    if (encode_block(h, &block) < 0)
        return err_set(e, -ENOMEM, "no memory for the block");
    if (block.len > HEADER_BLOCK_MAX_BYTES)
        return err_set(e, -EINVAL,
                       "builds and mappings take %zu bytes, the format allows %" PRIu64
                       ": compact the build",
                       block.len, HEADER_BLOCK_MAX_BYTES);
    buf_put_u8(ret, 0);
    buf_put_u32(ret, (uint32_t)block.len);
    return lz4_frame_encode(block.data, block.len, ret, e);
}

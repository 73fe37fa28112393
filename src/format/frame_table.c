/* SPDX-License-Identifier: Apache-2.0 */
#include "format/frame_table.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

void frame_table_finish(struct frame_table *t)
{
    free(t->frames);
    *t = (struct frame_table){0};
}

int frame_table_copy(const struct frame_table *t, struct frame_table *ret)
{
    struct frame *frames = NULL;

    if (t->count > 0) {
        frames = reallocarray(NULL, t->count, sizeof(*frames));
        if (!frames)
            return -ENOMEM;
        memcpy(frames, t->frames, t->count * sizeof(*frames));
    }
    *ret = (struct frame_table){
        .codec = t->codec, .frames = frames, .count = t->count, .cap = t->count};
    return 0;
}

static uint64_t frame_u_end(const struct frame *f)
{
    return f->u.v + f->u_bytes;
}

static uint64_t frame_c_end(const struct frame *f)
{
    return f->c.v + f->c_bytes;
}

const struct frame *frame_table_find(const struct frame_table *t, struct u_off off)
{
    size_t low = 0, high = t->count;

    while (low < high) { /* frames before low start at or before off, those from high on behind */
        size_t mid = low + (high - low) / 2;

        if (t->frames[mid].u.v <= off.v)
            low = mid + 1;
        else
            high = mid;
    }
    if (low == 0 || off.v >= frame_u_end(&t->frames[low - 1]))
        return NULL;
    return &t->frames[low - 1];
}

bool frame_table_covers(const struct frame_table *t, struct u_off off, uint64_t len_bytes)
{
    const struct frame *first = frame_table_find(t, off);
    const struct frame *last;

    if (len_bytes == 0)
        return true;
    if (!first || len_bytes > UINT64_MAX - off.v)
        return false;
    last = frame_table_find(t, (struct u_off){off.v + len_bytes - 1});
    return last && last->gaps == first->gaps;
}

static int check_frame(const struct frame *f, const struct frame *before, struct thaw_error *e)
{
    if (f->u_bytes == 0 || f->u_bytes > INT32_MAX || f->c_bytes == 0 || f->c_bytes > INT32_MAX)
        return err_set(e, -EINVAL, "sizes %" PRIu32 " and %" PRIu32 " are not in 1..2^31-1",
                       f->u_bytes, f->c_bytes);
    if (f->u.v > (uint64_t)INT64_MAX - f->u_bytes || f->c.v > (uint64_t)INT64_MAX - f->c_bytes)
        return err_set(e, -EINVAL, "its offsets are negative or its end passes 2^63");
    if (before && f->u.v < frame_u_end(before))
        return err_set(e, -EINVAL,
                       "starts at %" PRIu64
                       " of the uncompressed data, before the end of the frame before it",
                       f->u.v);
    if (before && f->c.v < frame_c_end(before))
        return err_set(e, -EINVAL,
                       "starts at %" PRIu64
                       " of the stored data, before the end of the frame before it",
                       f->c.v);
    return 0;
}

static int reserve(struct frame_table *t, size_t count)
{
    struct frame *grown;

    if (count <= t->cap)
        return 0;
    grown = reallocarray(t->frames, count, sizeof(*grown));
    if (!grown)
        return -ENOMEM;
    t->frames = grown;
    t->cap = count;
    return 0;
}

int frame_table_append(struct frame_table *t, struct u_off u, struct c_off c, uint32_t u_bytes,
                       uint32_t c_bytes, struct thaw_error *e)
{
    struct frame f = {.u = u, .c = c, .u_bytes = u_bytes, .c_bytes = c_bytes};
    const struct frame *before = t->count > 0 ? &t->frames[t->count - 1] : NULL;
    int r = check_frame(&f, before, e);

    if (r < 0) {
        err_wrap(e, "frame %zu", t->count);
        return r;
    }
    if (t->codec == CODEC_NONE)
        return err_set(e, -EINVAL, "frame table: a frame in an object without codec");
    if (t->count == FRAME_TABLE_MAX_FRAMES)
        return err_set(e, -EINVAL, "frame table: the format allows %" PRIu32 " frames",
                       FRAME_TABLE_MAX_FRAMES);
    if (before)
        f.gaps = before->gaps + (f.u.v != frame_u_end(before));
    if (t->count == t->cap && reserve(t, t->cap ? t->cap * 2 : 16) < 0)
        return err_set(e, -ENOMEM, "frame table: no memory for frame %zu", t->count);
    t->frames[t->count++] = f;
    return 0;
}

/* Reads the fields before the frames, and checks that so many frames can follow. */
static int decode_head(struct reader *r, enum codec *ret_codec, uint32_t *ret_count,
                       struct thaw_error *e)
{
    size_t at = reader_offset(r);
    uint32_t codec = reader_u32(r);
    uint32_t count = reader_u32(r);

    if (r->failed)
        return err_set(e, -EBADMSG, "frame table at byte %zu: the data ends within it", at);
    if (codec > CODEC_LZ4)
        return err_set(e, -EBADMSG, "frame table: codec at byte %zu is %" PRIu32 ", known are 0..2",
                       at, codec);
    if (codec == CODEC_NONE && count > 0)
        return err_set(e, -EBADMSG,
                       "frame table: count at byte %zu is %" PRIu32 " though there is no codec",
                       at + 4, count);
    if (count > FRAME_TABLE_MAX_FRAMES)
        return err_set(e, -EBADMSG,
                       "frame table: count at byte %zu is %" PRIu32 ", the format allows %" PRIu32,
                       at + 4, count, FRAME_TABLE_MAX_FRAMES);
    if (count > reader_left(r) / FRAME_TABLE_ENTRY_BYTES)
        return err_set(e, -EBADMSG,
                       "frame table: count at byte %zu is %" PRIu32 ", more than the %zu bytes "
                       "behind it can hold",
                       at + 4, count, reader_left(r));
    *ret_codec = (enum codec)codec;
    *ret_count = count;
    return 0;
}

/* What is a mistake in a caller is damage in a file. */
static int as_bad_message(struct thaw_error *e, size_t at)
{
    err_wrap(e, "frame table entry at byte %zu", at);
    if (e)
        e->code = -EBADMSG;
    return -EBADMSG;
}

int frame_table_decode(struct reader *r, struct frame_table *ret, struct thaw_error *e)
{
    struct frame_table t CLEANUP_FRAME_TABLE = {0};
    uint32_t count = 0;
    int err = decode_head(r, &t.codec, &count, e);

    if (err < 0)
        return err;
    if (reserve(&t, count) < 0)
        return err_set(e, -ENOMEM, "frame table: no memory for %" PRIu32 " frames", count);
    for (uint32_t i = 0; i < count; i++) {
        size_t at = reader_offset(r);
        struct u_off u = {reader_u64(r)};
        struct c_off c = {reader_u64(r)};
        uint32_t u_bytes = reader_u32(r);
        uint32_t c_bytes = reader_u32(r);

        err = frame_table_append(&t, u, c, u_bytes, c_bytes, e);
        if (err == -EINVAL)
            return as_bad_message(e, at);
        if (err < 0)
            return err;
    }
    *ret = t;
    t = (struct frame_table){0};
    return 0;
}

void frame_table_encode(const struct frame_table *t, const bool *keep, struct buf *ret)
{
    uint32_t count = 0;

    for (size_t i = 0; i < t->count; i++)
        count += !keep || keep[i];
    buf_put_u32(ret, (uint32_t)t->codec);
    buf_put_u32(ret, count);
    for (size_t i = 0; i < t->count; i++) {
        const struct frame *f = &t->frames[i];

        if (keep && !keep[i])
            continue;
        buf_put_u64(ret, f->u.v);
        buf_put_u64(ret, f->c.v);
        buf_put_u32(ret, f->u_bytes);
        buf_put_u32(ret, f->c_bytes);
    }
}

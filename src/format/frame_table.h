/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_FRAME_TABLE_H
#define THAW_FORMAT_FRAME_TABLE_H

/*
 * The frames of a compressed object: where each piece lies uncompressed (U-space) and as stored
 * (C-space). Sorted in both, never overlapping; gaps are allowed, because a header carries only
 * the frames that it needs. Immutable once built; any thread may read one.
 *
 * Encoded: codec u32, count u32, then per frame start U i64, start C i64, size U i32, size C i32.
 */

#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/units.h"
#include "format/codec.h"

#define FRAME_TABLE_MAX_FRAMES  (UINT32_C(1) << 20) /* E2B: maxDeserializedFrames */
#define FRAME_TABLE_HEAD_BYTES  8
#define FRAME_TABLE_ENTRY_BYTES 24

struct frame {
    struct u_off u;
    struct c_off c;
    uint32_t u_bytes; /* both at least 1 and at most INT32_MAX */
    uint32_t c_bytes;
    uint32_t gaps; /* of U-space, between the frames up to this one: tells stretches without gap */
};

/* Zero-initialised is the table of an uncompressed object. Filled by frame_table_append() alone. */
struct frame_table {
    enum codec codec;
    struct frame *frames; /* owned */
    size_t count;         /* 0 with CODEC_NONE */
    size_t cap;
};

#define CLEANUP_FRAME_TABLE CLEANUP(frame_table_finish)

/** frame_table_finish() - release the frames; @t is an empty table afterwards */
void frame_table_finish(struct frame_table *t);

/** frame_table_copy() - a table of its own into @ret; 0 or -ENOMEM */
[[gnu::warn_unused_result]] int frame_table_copy(const struct frame_table *t,
                                                 struct frame_table *ret);

/**
 * frame_table_append() - add a frame behind the others
 *
 * Returns: 0, -ENOMEM, or -EINVAL when a size is not in 1..INT32_MAX, an end passes INT64_MAX, the
 * frame overlaps the one before it in either space, or the table is full. @t is unchanged then.
 */
[[gnu::warn_unused_result]] int frame_table_append(struct frame_table *t, struct u_off u,
                                                   struct c_off c, uint32_t u_bytes,
                                                   uint32_t c_bytes, struct thaw_error *e);

/** frame_table_find() - the frame that holds @off, or NULL when none does. Allocates nothing. */
const struct frame *frame_table_find(const struct frame_table *t, struct u_off off);

/** frame_table_covers() - whether frames without a gap hold all of [@off, @off + @len_bytes) */
bool frame_table_covers(const struct frame_table *t, struct u_off off, uint64_t len_bytes);

/**
 * frame_table_decode() - read one table at @r
 *
 * Memory is allocated only for frames whose bytes are there. Returns: 0, -ENOMEM or -EBADMSG.
 */
[[gnu::warn_unused_result]] int frame_table_decode(struct reader *r, struct frame_table *ret,
                                                   struct thaw_error *e);

/**
 * frame_table_encode() - append @t
 * @keep: one flag per frame, or NULL to keep all
 */
void frame_table_encode(const struct frame_table *t, const bool *keep, struct buf *ret);

#endif

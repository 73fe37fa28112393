/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_HEADER_CODEC_H
#define THAW_FORMAT_HEADER_CODEC_H

/*
 * Between the files of the header codec; nobody else includes it.
 *
 * A decoder takes the fields from a struct header_input, whose reader gives their byte offsets, and
 * fills a struct header whose metadata is already there. Mappings arrive one by one, in the order
 * of the image, at header_input_map(), which holds them against every rule.
 */

#include "base/bytes.h"
#include "base/error.h"
#include "format/build_table.h"
#include "format/header.h"

#define HEADER_RECORD_BYTES 40 /* a mapping in V1 to V4 */

struct header_input {
    struct reader r;
    const char *where; /* what the reader's offsets count in: "the file" */
    struct build_table *builds;
    struct map_builder map;
    uint64_t mapped_pages;  /* so far, including what reaches beyond the image */
    uint64_t mapping_count; /* so far */
    uint16_t last_build;    /* index of the mapping before, which most often has the same build */
    bool has_last_build;
    struct thaw_error *e;
};

/* The id at @r; nil past the end. */
static inline struct uuid header_read_uuid(struct reader *r)
{
    struct uuid id = {0};
    const void *p = reader_take(r, sizeof(id.b));

    if (p)
        memcpy(id.b, p, sizeof(id.b));
    return id;
}

/* One mapping as stored, in bytes. */
struct header_mapping {
    uint64_t offset;
    uint64_t len_bytes;
    uint64_t storage;
    struct uuid build; /* nil: zeros */
};

/**
 * header_input_map() - take over the next mapping
 * @at: byte offset of the mapping, for the text of an error
 */
[[gnu::warn_unused_result]] int header_input_map(struct header_input *in, const struct header *h,
                                                 const struct header_mapping *m, size_t at);

/** header_input_finish() - check that the mappings cover the image; move map and builds into @h */
[[gnu::warn_unused_result]] int header_input_finish(struct header_input *in, struct header *h);

/** header_input_discard() - release what was not moved; for CLEANUP() */
void header_input_discard(struct header_input *in);

/**
 * header_check_extent() - whether the data of @b has [@storage, @storage + @len_bytes)
 *
 * Returns: 0, or @code.
 */
[[gnu::warn_unused_result]] int header_check_extent(const struct header_build *b, uint64_t storage,
                                                    uint64_t len_bytes, int code,
                                                    struct thaw_error *e);

/** header_check_meta() - whether the fields of the first 64 bytes are in their ranges; or @code */
[[gnu::warn_unused_result]] int header_check_meta(const struct header *h, int code,
                                                  struct thaw_error *e);

/** header_read_records() - @count mappings of 40 bytes each */
[[gnu::warn_unused_result]] int header_read_records(struct header_input *in, uint64_t count,
                                                    const struct header *h);

/** header_write_records() - all mappings of @h; failures show in @ret */
void header_write_records(const struct header *h, struct buf *ret);

/* Per version: decode what follows the metadata in @in; encode it after the metadata in @ret. */
[[gnu::warn_unused_result]] int header_v3_decode(struct header_input *in, struct header *h);
[[gnu::warn_unused_result]] int header_v3_encode(const struct header *h, struct buf *ret,
                                                 struct thaw_error *e);
[[gnu::warn_unused_result]] int header_v4_decode(struct header_input *in, struct header *h);
[[gnu::warn_unused_result]] int header_v4_encode(const struct header *h, struct buf *ret,
                                                 struct thaw_error *e);

/** header_v5_decode_map() - the mapping section of V5; the rest is as in V4 */
[[gnu::warn_unused_result]] int header_v5_decode_map(struct header_input *in,
                                                     const struct header *h);

#endif

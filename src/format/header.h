/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_HEADER_H
#define THAW_FORMAT_HEADER_H

/*
 * The header of an image (memfile.header, rootfs.ext4.header): 64 bytes of metadata, and the map
 * of the image onto the packed data of this build and of its ancestors. Read in the formats V1 to
 * V5, written as V3 (uncompressed data only) or V4 (frame tables, sizes, checksums).
 *
 * Headers come from an object store: decoding trusts nothing, allocates in proportion to its input
 * and checks that the map covers the image exactly and stays within the objects, as far as the
 * header knows them. Decoded headers are immutable; any thread may read one.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/error.h"
#include "base/uuid.h"
#include "format/frame_table.h"
#include "format/map.h"
#include "format/page_set.h"

#define HEADER_META_BYTES 64
#define HEADER_FORMAT_MASK                                                                         \
    UINT64_C(0xffff) /* the format version is in the low bits of the field                         \
                      */
#define HEADER_V3 3
#define HEADER_V4 4
#define HEADER_V5 5

/* A larger header than this is refused before it is fetched: V4's cap on the block, and change. */
#define HEADER_BLOCK_MAX_BYTES (256 * MIB)
#define HEADER_MAX_BYTES       (HEADER_BLOCK_MAX_BYTES + MIB)
#define HEADER_SHA256_BYTES    32

/*
 * What a header knows of one build. V3 headers know nothing but the id. In V4, a build without an
 * entry has @known false: its own header must be read to learn how its data is stored.
 */
struct header_build {
    struct uuid id;
    bool known;
    uint64_t size_bytes;                 /* of the packed data, uncompressed; 0: not recorded */
    uint8_t sha256[HEADER_SHA256_BYTES]; /* of the packed data, uncompressed; zeros: not recorded */
    struct frame_table frames;           /* CODEC_NONE: stored uncompressed (when known) */
};

struct header {
    uint64_t version; /* the field as stored; see header_format() */
    uint64_t block_bytes;
    uint64_t size_bytes;
    uint64_t generation; /* number of pauses since the base */
    struct uuid build;
    struct uuid base;
    struct header_build *builds; /* owned; map build indexes refer to it; no id twice */
    size_t build_count;          /* at most MAP_MAX_BUILDS */
    struct map *map;             /* owned; covers div_round_up(size_bytes, PAGE_BYTES) pages */
};

/** header_format() - 1 to 5 */
static inline unsigned header_format(const struct header *h)
{
    return (unsigned)(h->version & HEADER_FORMAT_MASK);
}

/**
 * header_decode() - read a header of any version
 *
 * Returns: 0, -ENOMEM, or -EBADMSG with the field and its byte offset (in the file; for what V4 and
 * V5 compress, in the uncompressed block) in @e.
 */
[[gnu::warn_unused_result]] int header_decode(const void *bytes, size_t len, struct header **ret,
                                              struct thaw_error *e);

/**
 * header_encode() - append the stored form; the version field picks V3 or V4
 *
 * V4 entries are written in the order of their ids; the frame tables of builds other than the
 * header's own are trimmed to the frames that the map touches.
 *
 * Returns: 0, -ENOMEM, or -EINVAL when @h breaks a limit or rule that a reader enforces (V3 cannot
 * hold compressed builds). @ret is unchanged on failure.
 */
[[gnu::warn_unused_result]] int header_encode(const struct header *h, struct buf *ret,
                                              struct thaw_error *e);

/**
 * header_check() - the rules that both directions enforce on a header in memory
 *
 * Returns: 0 or -EINVAL, naming the field.
 */
[[gnu::warn_unused_result]] int header_check(const struct header *h, struct thaw_error *e);

/** header_find_build() - the entry of @id, or NULL */
struct header_build *header_find_build(const struct header *h, const struct uuid *id);

/**
 * header_create_base() - a V4 header of a build without parent
 * @dirty: pages that the build stores, packed in order; all others read as zeros
 *
 * The build's own entry is known, uncompressed, of the size that @dirty gives; the caller adds
 * sha256 and frames. Returns: 0, -ENOMEM, -EINVAL or -ERANGE.
 */
[[gnu::warn_unused_result]] int header_create_base(const struct uuid *build, uint64_t block_bytes,
                                                   uint64_t size_bytes,
                                                   const struct page_set *dirty,
                                                   struct header **ret, struct thaw_error *e);

/**
 * header_create_child() - a V4 header of a layer over @parent
 * @size_bytes: of the image, which may have grown (by zeros) or shrunk since the parent
 * @dirty, @empty: as for map_merge()
 *
 * Entries of builds that the child still maps are copied from @parent, known or not. Generation is
 * the parent's plus one, base and block size are the parent's. Returns as header_create_base().
 */
[[gnu::warn_unused_result]] int header_create_child(const struct header *parent,
                                                    const struct uuid *build, uint64_t size_bytes,
                                                    const struct page_set *dirty,
                                                    const struct page_set *empty,
                                                    struct header **ret, struct thaw_error *e);

/** header_destroy() - release @h; NULL and half-built headers are allowed */
void header_destroy(struct header *h);
DEFINE_CLEANUP(struct header, header_destroy);
#define CLEANUP_HEADER CLEANUP(cleanup_header_destroy)

#endif

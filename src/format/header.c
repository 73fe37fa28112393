/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include <xxhash.h>

#include "format/header_codec.h"

/* Byte offsets of the metadata's fields, all little-endian. */
#define AT_VERSION 0
#define AT_BLOCK   8
#define AT_SIZE    16
#define AT_BUILD   32

#define BLOCK_MAX_BYTES (2 * MIB)

int header_check_meta(const struct header *h, int code, struct thaw_error *e)
{
    if (header_format(h) < 1 || header_format(h) > HEADER_V5)
        return err_set(e, code, "version at byte %d is %u, this thaw reads 1 to %d", AT_VERSION,
                       header_format(h), HEADER_V5);
    if (h->block_bytes < PAGE_BYTES || h->block_bytes > BLOCK_MAX_BYTES ||
        (h->block_bytes & (h->block_bytes - 1)) != 0)
        return err_set(e, code,
                       "block size at byte %d is %" PRIu64
                       ", which is not a power of two from 4 KiB to 2 MiB",
                       AT_BLOCK, h->block_bytes);
    if (h->size_bytes > MAP_MAX_PAGES * PAGE_BYTES)
        return err_set(e, code, "image size at byte %d is %" PRIu64 ", the format allows %" PRIu64,
                       AT_SIZE, h->size_bytes, MAP_MAX_PAGES * PAGE_BYTES);
    if (uuid_is_nil(&h->build))
        return err_set(e, code, "build id at byte %d is nil", AT_BUILD);
    return 0;
}

static void decode_meta(struct reader *r, struct header *h)
{
    h->version = reader_u64(r);
    h->block_bytes = reader_u64(r);
    h->size_bytes = reader_u64(r);
    h->generation = reader_u64(r);
    h->build = header_read_uuid(r);
    h->base = header_read_uuid(r);
}

static int decode(struct header_input *in, struct header *h)
{
    int r;

    decode_meta(&in->r, h);
    r = header_check_meta(h, -EBADMSG, in->e);
    if (r < 0)
        return r;
    return header_format(h) >= HEADER_V4 ? header_v4_decode(in, h) : header_v3_decode(in, h);
}

int header_decode(const void *bytes, size_t len, struct header **ret, struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = NULL;
    struct build_table builds CLEANUP_BUILD_TABLE = {0};
    struct header_input in CLEANUP(header_input_discard) = {
        .r = reader_init(bytes, len), .where = "the file", .builds = &builds, .e = e};
    int r;

    if (len < HEADER_META_BYTES)
        return err_set(e, -EBADMSG, "header: it has %zu bytes, the metadata alone takes %d", len,
                       HEADER_META_BYTES);
    if (len > HEADER_MAX_BYTES)
        return err_set(e, -EBADMSG, "header: it has %zu bytes, no valid one is above %" PRIu64, len,
                       HEADER_MAX_BYTES);
    h = calloc(1, sizeof(*h));
    if (!h)
        return err_set(e, -ENOMEM, "header: no memory");
    builds = build_table_init(XXH3_64bits(bytes, len));
    r = decode(&in, h);
    if (r < 0) {
        err_wrap(e, "header");
        return r;
    }
    *ret = TAKE_PTR(h);
    return 0;
}

static void encode_meta(const struct header *h, struct buf *ret)
{
    buf_put_u64(ret, h->version);
    buf_put_u64(ret, h->block_bytes);
    buf_put_u64(ret, h->size_bytes);
    buf_put_u64(ret, h->generation);
    buf_put(ret, h->build.b, sizeof(h->build.b));
    buf_put(ret, h->base.b, sizeof(h->base.b));
}

int header_encode(const struct header *h, struct buf *ret, struct thaw_error *e)
{
    size_t before = ret->len;
    int r = header_check(h, e);

    if (r < 0)
        return r;
    if (header_format(h) != HEADER_V3 && header_format(h) != HEADER_V4)
        return err_set(e, -EINVAL, "header: version %u is only read; set it to 3 or 4",
                       header_format(h));
    encode_meta(h, ret);
    r = header_format(h) == HEADER_V3 ? header_v3_encode(h, ret, e) : header_v4_encode(h, ret, e);
    if (r == 0 && ret->failed)
        r = err_set(e, -ENOMEM, "no memory");
    if (r < 0) {
        ret->len = before;
        err_wrap(e, "header");
    }
    return r;
}

/* No id may be there twice. */
static int check_builds(const struct header *h, struct thaw_error *e)
{
    struct build_table seen CLEANUP_BUILD_TABLE = build_table_init(0);
    char text[UUID_TEXT_BYTES];

    for (size_t i = 0; i < h->build_count; i++) {
        const struct header_build *b = &h->builds[i];
        uint16_t index;
        int r = build_table_add(&seen, &b->id, &index);

        if (r < 0)
            return err_set(e, r == -E2BIG ? -EINVAL : r, "builds: %s",
                           r == -E2BIG ? "more than the format allows" : "no memory");
        if (index != i)
            return err_set(e, -EINVAL, "build %s is there twice", uuid_format(&b->id, text));
        if (b->size_bytes > INT64_MAX)
            return err_set(e, -EINVAL, "build %s: its size is above 2^63",
                           uuid_format(&b->id, text));
        if (b->frames.codec == CODEC_NONE && b->frames.count > 0)
            return err_set(e, -EINVAL, "build %s: it has frames but no codec",
                           uuid_format(&b->id, text));
    }
    return 0;
}

static int check_map(const struct header *h, struct thaw_error *e)
{
    if (!h->map || map_page_count(h->map) != div_round_up(h->size_bytes, PAGE_BYTES))
        return err_set(e, -EINVAL,
                       "the map has %" PRIu32 " pages, the image of %" PRIu64 " bytes has %" PRIu64,
                       h->map ? map_page_count(h->map) : 0, h->size_bytes,
                       div_round_up(h->size_bytes, PAGE_BYTES));
    for (size_t i = 0; i < map_run_count(h->map); i++) {
        struct map_run run = map_run_at(h->map, i);
        uint64_t start = run.start * PAGE_BYTES;
        uint64_t len_bytes = MIN(map_run_pages(h->map, i) * PAGE_BYTES, h->size_bytes - start);
        int r;

        if (run.build == MAP_ZERO)
            continue;
        if (run.build >= h->build_count || uuid_is_nil(&h->builds[run.build].id))
            return err_set(e, -EINVAL, "mapping of image offset %" PRIu64 ": build %u is none",
                           start, run.build);
        r = header_check_extent(&h->builds[run.build], run.storage * PAGE_BYTES, len_bytes, -EINVAL,
                                e);
        if (r < 0) {
            err_wrap(e, "mapping of image offset %" PRIu64, start);
            return r;
        }
    }
    return 0;
}

int header_check(const struct header *h, struct thaw_error *e)
{
    int r = header_check_meta(h, -EINVAL, e);

    if (r == 0)
        r = check_builds(h, e);
    if (r == 0)
        r = check_map(h, e);
    if (r < 0)
        err_wrap(e, "header");
    return r;
}

struct header_build *header_find_build(const struct header *h, const struct uuid *id)
{
    for (size_t i = 0; i < h->build_count; i++) {
        if (uuid_compare(&h->builds[i].id, id) == 0)
            return &h->builds[i];
    }
    return NULL;
}

void header_destroy(struct header *h)
{
    if (!h)
        return;
    header_builds_destroy(h->builds, h->build_count);
    map_destroy(h->map);
    free(h);
}

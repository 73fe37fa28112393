/* SPDX-License-Identifier: Apache-2.0 */
#include "format/header_codec.h"

#include <errno.h>
#include <inttypes.h>

/*
 * From mappings as they are stored to the map of the image: the rules of every version.
 *
 * The image may end within a block. Its last mapping then covers the whole block; what reaches
 * beyond the image is cut off here.
 */

static uint64_t image_pages(const struct header *h)
{
    return div_round_up(h->size_bytes, PAGE_BYTES);
}

static int check_mapping(const struct header_input *in, const struct header *h,
                         const struct header_mapping *m)
{
    uint64_t expect = in->mapped_pages * PAGE_BYTES;
    uint64_t end_max = round_up(h->size_bytes, h->block_bytes);

    if (m->offset >= h->size_bytes)
        return err_set(in->e, -EBADMSG, "offset %" PRIu64 " is behind the image's end, %" PRIu64,
                       m->offset, h->size_bytes);
    if (m->offset != expect)
        return err_set(in->e, -EBADMSG, "offset %" PRIu64 " %s: the one before it ends at %" PRIu64,
                       m->offset, m->offset < expect ? "overlaps" : "leaves a gap", expect);
    if (m->len_bytes == 0 || m->len_bytes % PAGE_BYTES != 0)
        return err_set(in->e, -EBADMSG, "length %" PRIu64 " is not a number of 4 KiB pages",
                       m->len_bytes);
    if (m->len_bytes > end_max - m->offset)
        return err_set(in->e, -EBADMSG,
                       "length %" PRIu64 " reaches beyond the image's last block, which ends at "
                       "%" PRIu64,
                       m->len_bytes, end_max);
    if (uuid_is_nil(&m->build))
        return 0; /* zeros: the storage offset means nothing */
    if (m->storage % PAGE_BYTES != 0)
        return err_set(in->e, -EBADMSG, "storage offset %" PRIu64 " is not a multiple of 4096",
                       m->storage);
    if (m->storage / PAGE_BYTES > MAP_MAX_PAGES - m->len_bytes / PAGE_BYTES)
        return err_set(in->e, -EBADMSG,
                       "storage offset %" PRIu64 ": the data would end past 16 TiB", m->storage);
    return 0;
}

/* The index of the mapping's build, with a new entry where it is the first one to name it. */
static int find_build(struct header_input *in, const struct uuid *id, uint16_t *ret)
{
    int r;

    if (in->has_last_build && uuid_compare(&in->builds->builds[in->last_build].id, id) == 0) {
        *ret = in->last_build;
        return 0;
    }
    r = build_table_add(in->builds, id, &in->last_build);
    if (r == -E2BIG)
        return err_set(in->e, -EBADMSG, "build: more than %d different ones", MAP_MAX_BUILDS);
    if (r < 0)
        return err_set(in->e, r, "build: no memory");
    in->has_last_build = true;
    *ret = in->last_build;
    return 0;
}

static int add_mapping(struct header_input *in, const struct header *h,
                       const struct header_mapping *m)
{
    uint64_t pages = MIN(m->len_bytes / PAGE_BYTES, image_pages(h) - in->mapped_pages);
    uint16_t build = MAP_ZERO;
    int r = check_mapping(in, h, m);

    if (r < 0)
        return r;
    if (!uuid_is_nil(&m->build)) {
        r = find_build(in, &m->build, &build);
        if (r < 0)
            return r;
        r = header_check_extent(&in->builds->builds[build], m->storage,
                                MIN(m->len_bytes, h->size_bytes - m->offset), -EBADMSG, in->e);
        if (r < 0)
            return r;
    }
    r = map_builder_add(&in->map, (uint32_t)pages, build,
                        build == MAP_ZERO ? 0 : (uint32_t)(m->storage / PAGE_BYTES));
    if (r < 0)
        return err_set(in->e, r, "no memory for the map");
    in->mapped_pages += m->len_bytes / PAGE_BYTES;
    return 0;
}

int header_input_map(struct header_input *in, const struct header *h,
                     const struct header_mapping *m, size_t at)
{
    int r = add_mapping(in, h, m);

    if (r < 0)
        err_wrap(in->e, "mapping %" PRIu64 " at byte %zu of %s", in->mapping_count, at, in->where);
    in->mapping_count++;
    return r;
}

int header_input_finish(struct header_input *in, struct header *h)
{
    uint64_t mapped = in->mapped_pages * PAGE_BYTES;
    int r;

    if (mapped < h->size_bytes)
        return err_set(in->e, -EBADMSG,
                       "mappings: they end at %" PRIu64 " of an image of %" PRIu64
                       " bytes (byte %zu of %s): the header is incomplete",
                       mapped, h->size_bytes, reader_offset(&in->r), in->where);
    r = map_builder_finish(&in->map, &h->map);
    if (r < 0)
        return err_set(in->e, r, "no memory for the map");
    h->builds = TAKE_PTR(in->builds->builds);
    h->build_count = in->builds->count;
    in->builds->count = 0;
    return 0;
}

void header_input_discard(struct header_input *in)
{
    map_builder_discard(&in->map);
}

int header_check_extent(const struct header_build *b, uint64_t storage, uint64_t len_bytes,
                        int code, struct thaw_error *e)
{
    char text[UUID_TEXT_BYTES];

    if (!b->known)
        return 0;
    /* E2B writes 0 for builds of whose data it knows no more than that it is uncompressed. */
    if (b->size_bytes > 0 && (storage > b->size_bytes || len_bytes > b->size_bytes - storage))
        return err_set(e, code,
                       "storage offset %" PRIu64 ", length %" PRIu64
                       ": beyond the data of build %s, which has %" PRIu64 " bytes",
                       storage, len_bytes, uuid_format(&b->id, text), b->size_bytes);
    if (b->frames.codec != CODEC_NONE &&
        !frame_table_covers(&b->frames, (struct u_off){storage}, len_bytes))
        return err_set(e, code,
                       "storage offset %" PRIu64 ", length %" PRIu64
                       ": no frame of build %s holds all of it",
                       storage, len_bytes, uuid_format(&b->id, text));
    return 0;
}

int header_read_records(struct header_input *in, uint64_t count, const struct header *h)
{
    for (uint64_t i = 0; i < count; i++) {
        size_t at = reader_offset(&in->r);
        struct header_mapping m;
        int r;

        m.offset = reader_u64(&in->r);
        m.len_bytes = reader_u64(&in->r);
        m.build = header_read_uuid(&in->r);
        m.storage = reader_u64(&in->r);
        if (in->r.failed)
            return err_set(in->e, -EBADMSG, "mapping %" PRIu64 " at byte %zu: %s ends within it", i,
                           at, in->where);
        r = header_input_map(in, h, &m, at);
        if (r < 0)
            return r;
    }
    return 0;
}

void header_write_records(const struct header *h, struct buf *ret)
{
    static const struct uuid nil;

    for (size_t i = 0; i < map_run_count(h->map); i++) {
        struct map_run run = map_run_at(h->map, i);
        const struct uuid *id = run.build == MAP_ZERO ? &nil : &h->builds[run.build].id;

        buf_put_u64(ret, run.start * PAGE_BYTES);
        buf_put_u64(ret, map_run_pages(h->map, i) * PAGE_BYTES);
        buf_put(ret, id->b, sizeof(id->b));
        buf_put_u64(ret, run.storage * PAGE_BYTES);
    }
}

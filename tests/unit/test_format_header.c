/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>

#include <lz4frame.h>

#include "../lib/golden_data.h"
#include "../lib/header_same.h"
#include "../lib/test_random.h"
#include "format/header.h"
#include "unit.h"

#define BLOCK_AT (HEADER_META_BYTES + 1 + 4) /* where the LZ4 frame of V4 and V5 starts */

static struct uuid id_of(uint8_t byte)
{
    struct uuid id;

    memset(id.b, byte, sizeof(id.b));
    return id;
}

static struct header *decode(const void *bytes, size_t len)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct header *h = NULL;

    if (header_decode(bytes, len, &h, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(e.code, 0);
    return h;
}

/* What make_golden.py says is in the golden image; a build is named by its id's byte. */
static const struct {
    uint32_t start, pages;
    uint8_t build;
    uint32_t storage;
} golden_runs[] = {
    {0, 3, 0xa1, 0},   {3, 5, 0, 0},        {8, 2, 0xb2, 0}, {10, 1, 0xa1, 10},
    {11, 1, 0xa1, 12}, {12, 20, 0xc3, 100}, {32, 8, 0, 0},
};

static void assert_golden_image(const struct header *h)
{
    struct uuid a = id_of(0xa1), b = id_of(0xb2);

    assert_int_equal(h->block_bytes, 4096);
    assert_int_equal(h->size_bytes, 40 * PAGE_BYTES);
    assert_int_equal(h->generation, 3);
    assert_int_equal(uuid_compare(&h->build, &b), 0);
    assert_int_equal(uuid_compare(&h->base, &a), 0);
    assert_int_equal(map_page_count(h->map), 40);
    assert_int_equal(map_run_count(h->map), ARRAY_SIZE(golden_runs));
    for (size_t i = 0; i < ARRAY_SIZE(golden_runs); i++) {
        struct map_run run = map_run_at(h->map, i);

        assert_int_equal(run.start, golden_runs[i].start);
        assert_int_equal(map_run_pages(h->map, i), golden_runs[i].pages);
        assert_int_equal(run.storage, golden_runs[i].storage);
        if (golden_runs[i].build == 0)
            assert_int_equal(run.build, MAP_ZERO);
        else
            assert_int_equal(h->builds[run.build].id.b[7], golden_runs[i].build);
    }
}

static void assert_golden_builds(const struct header *h)
{
    struct uuid a_id = id_of(0xa1), b_id = id_of(0xb2), c_id = id_of(0xc3);
    const struct header_build *a = header_find_build(h, &a_id);
    const struct header_build *b = header_find_build(h, &b_id);
    const struct header_build *c = header_find_build(h, &c_id);

    assert_int_equal(h->build_count, 3);
    assert_true(a && b && c);
    assert_true(a->known);
    assert_int_equal(a->size_bytes, 20 * PAGE_BYTES);
    for (unsigned i = 0; i < HEADER_SHA256_BYTES; i++)
        assert_int_equal(a->sha256[i], i);
    assert_int_equal(a->frames.codec, CODEC_ZSTD);
    assert_int_equal(a->frames.count, 2);
    assert_int_equal(a->frames.frames[1].u.v, 40960);
    assert_int_equal(a->frames.frames[1].c.v, 9000);
    assert_int_equal(a->frames.frames[1].u_bytes, 16384);
    assert_int_equal(a->frames.frames[1].c_bytes, 700);
    assert_true(b->known);
    assert_int_equal(b->size_bytes, 2 * PAGE_BYTES);
    assert_int_equal(b->frames.codec, CODEC_NONE);
    assert_false(c->known); /* no entry: its own header must be asked */
}

static void golden_v1_to_v3_are_read(void **state)
{
    uint8_t bytes[sizeof(golden_header_v3)];

    (void)state;
    memcpy(bytes, golden_header_v3, sizeof(bytes));
    for (uint8_t version = 1; version <= 3; version++) {
        struct header *h CLEANUP_HEADER = NULL;

        bytes[0] = version;
        h = decode(bytes, sizeof(bytes));
        assert_int_equal(header_format(h), version);
        assert_golden_image(h);
        assert_int_equal(h->build_count, 3);
        for (size_t i = 0; i < 3; i++)
            assert_false(h->builds[i].known);
    }
}

static void golden_v4_and_v5_are_read(void **state)
{
    struct header *v4 CLEANUP_HEADER = decode(golden_header_v4, sizeof(golden_header_v4));
    struct header *v5 CLEANUP_HEADER = decode(golden_header_v5, sizeof(golden_header_v5));

    (void)state;
    assert_int_equal(header_format(v4), 4);
    assert_golden_image(v4);
    assert_golden_builds(v4);
    assert_int_equal(header_format(v5), 5);
    assert_golden_image(v5);
    assert_golden_builds(v5);
}

static void v3_is_written_to_the_byte(void **state)
{
    struct header *h CLEANUP_HEADER = decode(golden_header_v3, sizeof(golden_header_v3));
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(header_encode(h, &b, NULL), 0);
    assert_int_equal(b.len, sizeof(golden_header_v3));
    assert_memory_equal(b.data, golden_header_v3, b.len);
}

/* Decompresses the frame of a V4 header without thaw's help. */
static struct buf unpack(const struct buf *header)
{
    struct buf block = {0};
    LZ4F_dctx *d = NULL;
    size_t took = header->len - BLOCK_AT, gave = 1 << 20;

    assert_non_null(buf_extend(&block, gave));
    assert_false(LZ4F_isError(LZ4F_createDecompressionContext(&d, LZ4F_VERSION)));
    assert_int_equal(LZ4F_decompress(d, block.data, &gave, header->data + BLOCK_AT, &took, NULL),
                     0);
    assert_int_equal(took, header->len - BLOCK_AT);
    LZ4F_freeDecompressionContext(d);
    block.len = gave;
    return block;
}

/* The block to the byte; the frame around it compresses, so it is held against its settings. */
static void v4_is_written_to_the_byte(void **state)
{
    static const uint8_t frame_start[] = {0x04, 0x22, 0x4d, 0x18, 0x74, 0x70};
    const uint8_t *block = golden_header_block_v4 + HEADER_META_BYTES;
    size_t block_len = sizeof(golden_header_block_v4) - HEADER_META_BYTES;
    struct header *h CLEANUP_HEADER = decode(golden_header_v4, sizeof(golden_header_v4));
    struct buf b CLEANUP_BUF = {0}, unpacked CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(header_encode(h, &b, NULL), 0);
    assert_memory_equal(b.data, golden_header_v4, BLOCK_AT);
    assert_memory_equal(b.data + BLOCK_AT, frame_start, sizeof(frame_start));
    unpacked = unpack(&b);
    assert_int_equal(unpacked.len, block_len);
    assert_memory_equal(unpacked.data, block, block_len);
}

static void truncated_at_every_length(void **state)
{
    static const struct {
        const uint8_t *bytes;
        size_t len;
    } files[] = {{golden_header_v3, sizeof(golden_header_v3)},
                 {golden_header_v4, sizeof(golden_header_v4)},
                 {golden_header_v5, sizeof(golden_header_v5)}};

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(files); i++) {
        for (size_t len = 0; len < files[i].len; len++) {
            struct thaw_error e = THAW_ERROR_INIT;
            struct header *h = NULL;

            assert_int_equal(header_decode(files[i].bytes, len, &h, &e), -EBADMSG);
            assert_int_equal(e.code, -EBADMSG);
            assert_non_null(strstr(e.text, "header: "));
            assert_non_null(strstr(e.text, "byte"));
            assert_null(h);
        }
    }
}

/* A V3 file read the naive way: what it says about each page is what the map must say. */
static void assert_means_what_it_says(const struct header *h, const uint8_t *bytes, size_t len)
{
    static const struct uuid nil;

    for (size_t at = HEADER_META_BYTES; at < len; at += 40) {
        uint64_t offset = load_le(bytes + at, 8), storage = load_le(bytes + at + 32, 8);
        struct uuid id;

        memcpy(id.b, bytes + at + 16, sizeof(id.b));
        for (uint64_t i = 0; i < load_le(bytes + at + 8, 8); i += PAGE_BYTES) {
            struct map_extent x;

            if (offset + i >= h->size_bytes)
                continue;
            assert_int_equal(map_lookup(h->map, (struct image_off){offset + i}, &x), 0);
            assert_int_equal(x.zero, uuid_compare(&id, &nil) == 0);
            if (!x.zero) {
                assert_int_equal(uuid_compare(&h->builds[x.build].id, &id), 0);
                assert_int_equal(x.storage.v, storage + i);
            }
        }
    }
}

/*
 * Flips each byte of a header in three ways. V4 and V5 protect all but the metadata by checksums.
 * Elsewhere a flip can make another valid header; it must then mean exactly what it says.
 */
static void flip_every_byte(const uint8_t *golden, size_t len, size_t unprotected)
{
    static const uint8_t flips[] = {0x01, 0x80, 0xff};
    uint8_t *bytes CLEANUP_FREE = malloc(len);

    assert_non_null(bytes);
    memcpy(bytes, golden, len);
    for (size_t i = 0; i < ARRAY_SIZE(flips) * len; i++) {
        size_t at = i / ARRAY_SIZE(flips);
        uint8_t flip = flips[i % ARRAY_SIZE(flips)];
        struct thaw_error e = THAW_ERROR_INIT;
        struct header *h CLEANUP_HEADER = NULL;
        int r;

        bytes[at] ^= flip;
        r = header_decode(bytes, len, &h, &e);
        if (r < 0) {
            assert_int_equal(r, -EBADMSG);
            assert_true(strlen(e.text) > strlen("header: "));
        } else {
            assert_true(at < unprotected);
            if (header_format(h) <= HEADER_V3)
                assert_means_what_it_says(h, bytes, len);
        }
        bytes[at] ^= flip;
    }
}

static void flipped_bytes_are_seen(void **state)
{
    (void)state;
    flip_every_byte(golden_header_v3, sizeof(golden_header_v3), sizeof(golden_header_v3));
    flip_every_byte(golden_header_v4, sizeof(golden_header_v4), HEADER_META_BYTES);
    flip_every_byte(golden_header_v5, sizeof(golden_header_v5), HEADER_META_BYTES);
}

/* A header with frames, gaps, unknown builds and a size that may end within a page. */
static void random_builds(struct test_random *t, struct header *h, bool v3)
{
    h->build_count = 1 + test_random_below(t, 6);
    h->builds = calloc(h->build_count, sizeof(*h->builds));
    assert_non_null(h->builds);
    for (size_t i = 0; i < h->build_count; i++) {
        struct header_build *b = &h->builds[i];
        uint64_t u = 0, c = 0;

        b->id = id_of((uint8_t)(200 - i * 17));
        b->known = !v3 && test_random_below(t, 4) > 0;
        if (!b->known)
            continue;
        b->size_bytes = 200 * PAGE_BYTES;
        b->sha256[3] = (uint8_t)test_random_next(t);
        if (test_random_below(t, 2) == 0)
            continue;
        b->frames.codec = CODEC_LZ4;
        while (u < b->size_bytes) {
            uint32_t u_bytes = (uint32_t)(1 + test_random_below(t, 9 * PAGE_BYTES));
            uint32_t c_bytes = (uint32_t)(1 + test_random_below(t, 1000));

            assert_int_equal(frame_table_append(&b->frames, (struct u_off){u}, (struct c_off){c},
                                                u_bytes, c_bytes, NULL),
                             0);
            u += u_bytes;
            c += c_bytes + test_random_below(t, 2);
        }
    }
}

static struct header *random_header(struct test_random *t, bool v3)
{
    struct header *h = calloc(1, sizeof(*h));
    struct map_builder b = {0};
    uint64_t pages = 0;

    assert_non_null(h);
    h->version = v3 ? HEADER_V3 : HEADER_V4;
    h->block_bytes = PAGE_BYTES << test_random_below(t, 10);
    h->generation = test_random_next(t);
    h->base = id_of(0x77);
    random_builds(t, h, v3);
    h->build = h->builds[0].id;
    for (size_t i = 0; i < h->build_count + 30; i++) {
        uint32_t count = (uint32_t)(1 + test_random_below(t, 20));
        /* Every build once, so that also the unknown ones are in the file. */
        uint64_t build = i < h->build_count ? i : test_random_below(t, h->build_count + 1);
        uint16_t index = build == h->build_count ? MAP_ZERO : (uint16_t)build;

        assert_int_equal(map_builder_add(&b, count, index, (uint32_t)test_random_below(t, 180)), 0);
        pages += count;
    }
    assert_int_equal(map_builder_finish(&b, &h->map), 0);
    h->size_bytes = pages * PAGE_BYTES - test_random_below(t, PAGE_BYTES);
    return h;
}

/* Drops what header_encode() trims: frames of other builds that no mapping touches. */
static void trim(struct header *h)
{
    for (size_t i = 0; i < h->build_count; i++) {
        struct header_build *b = &h->builds[i];
        struct frame_table kept = {.codec = b->frames.codec};

        if (uuid_compare(&b->id, &h->build) == 0)
            continue;
        for (size_t f = 0; f < b->frames.count; f++) {
            const struct frame *frame = &b->frames.frames[f];
            bool touched = false;

            for (size_t r = 0; r < map_run_count(h->map) && !touched; r++) {
                struct map_run run = map_run_at(h->map, r);
                uint64_t start = run.storage * PAGE_BYTES, offset = run.start * PAGE_BYTES;
                uint64_t len = MIN(map_run_pages(h->map, r) * PAGE_BYTES, h->size_bytes - offset);

                touched = run.build == i && start < frame->u.v + frame->u_bytes &&
                          frame->u.v < start + len;
            }
            if (touched)
                assert_int_equal(frame_table_append(&kept, frame->u, frame->c, frame->u_bytes,
                                                    frame->c_bytes, NULL),
                                 0);
        }
        frame_table_finish(&b->frames);
        b->frames = kept;
    }
}

static void random_headers_round_trip(void **state)
{
    struct test_random t = {.state = 5};

    (void)state;
    for (int round = 0; round < 400; round++) {
        bool v3 = round % 2 == 1;
        struct header *h CLEANUP_HEADER = random_header(&t, v3);
        struct header *again CLEANUP_HEADER = NULL;
        struct buf b CLEANUP_BUF = {0}, second CLEANUP_BUF = {0};
        struct thaw_error e = THAW_ERROR_INIT;

        if (header_encode(h, &b, &e) < 0)
            fail_msg("%s", e.text);
        again = decode(b.data, b.len);
        trim(h);
        assert_true(header_same(h, again));
        assert_int_equal(header_encode(again, &second, NULL), 0);
        assert_int_equal(second.len, b.len);
        assert_memory_equal(second.data, b.data, b.len);
    }
}

static void add_frames(struct header_build *b, unsigned count)
{
    b->frames.codec = CODEC_ZSTD;
    for (uint64_t i = 0; i < count; i++)
        assert_int_equal(frame_table_append(&b->frames, (struct u_off){i * GRANULE_BYTES},
                                            (struct c_off){i * 100}, GRANULE_BYTES, 100, NULL),
                         0);
}

/* The child stores two frames and maps one, and of its parent's three it maps the last one. */
static void own_frames_are_never_trimmed(void **state)
{
    struct page_set dirty CLEANUP_PAGE_SET = {0}, changed CLEANUP_PAGE_SET = {0};
    struct page_set empty CLEANUP_PAGE_SET = {0};
    struct header *base CLEANUP_HEADER = NULL, *child CLEANUP_HEADER = NULL;
    struct header *again CLEANUP_HEADER = NULL;
    struct uuid p = id_of(0x10), q = id_of(0x20);
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(page_set_add(&dirty, 0, 48), 0);
    assert_int_equal(header_create_base(&p, PAGE_BYTES, 64 * PAGE_BYTES, &dirty, &base, NULL), 0);
    add_frames(&base->builds[0], 3);
    assert_int_equal(page_set_add(&changed, 0, 32), 0);
    assert_int_equal(page_set_add(&empty, 16, 16), 0);
    assert_int_equal(
        header_create_child(base, &q, base->size_bytes, &changed, &empty, &child, NULL), 0);
    add_frames(header_find_build(child, &q), 2);
    assert_int_equal(header_encode(child, &b, NULL), 0);
    again = decode(b.data, b.len);
    assert_int_equal(header_find_build(again, &q)->frames.count, 2);
    assert_int_equal(header_find_build(again, &p)->frames.count, 1);
    assert_int_equal(header_find_build(again, &p)->frames.frames[0].u.v, 2 * GRANULE_BYTES);
}

static void layers_stack(void **state)
{
    struct page_set dirty CLEANUP_PAGE_SET = {0}, changed CLEANUP_PAGE_SET = {0};
    struct page_set empty CLEANUP_PAGE_SET = {0};
    struct header *base CLEANUP_HEADER = NULL, *child CLEANUP_HEADER = NULL;
    struct header *other CLEANUP_HEADER = NULL;
    struct thaw_error e = THAW_ERROR_INIT;
    struct uuid p = id_of(0x10), q = id_of(0x20), r = id_of(0x30);
    struct map_extent x;

    (void)state;
    assert_int_equal(page_set_add(&dirty, 2, 6), 0);
    assert_int_equal(header_create_base(&p, PAGE_BYTES, 10 * PAGE_BYTES, &dirty, &base, &e), 0);
    assert_int_equal(base->generation, 0);
    assert_int_equal(uuid_compare(&base->base, &p), 0);
    assert_int_equal(base->builds[0].size_bytes, 6 * PAGE_BYTES);
    assert_int_equal(header_check(base, &e), 0);

    assert_int_equal(page_set_add(&changed, 3, 1), 0);
    assert_int_equal(page_set_add(&empty, 4, 1), 0);
    assert_int_equal(header_create_child(base, &q, 12 * PAGE_BYTES, &changed, &empty, &child, &e),
                     0);
    assert_int_equal(child->generation, 1);
    assert_int_equal(uuid_compare(&child->base, &p), 0);
    assert_int_equal(child->build_count, 2);
    assert_int_equal(map_page_count(child->map), 12);
    assert_int_equal(map_lookup(child->map, (struct image_off){3 * PAGE_BYTES}, &x), 0);
    assert_int_equal(uuid_compare(&child->builds[x.build].id, &q), 0);
    assert_int_equal(map_lookup(child->map, (struct image_off){4 * PAGE_BYTES}, &x), 0);
    assert_true(x.zero);
    assert_int_equal(map_lookup(child->map, (struct image_off){5 * PAGE_BYTES}, &x), 0);
    assert_int_equal(uuid_compare(&child->builds[x.build].id, &p), 0);
    assert_int_equal(x.storage.v, 3 * PAGE_BYTES);
    assert_int_equal(header_check(child, &e), 0);

    /* A layer that leaves nothing of its parent knows nothing of its parent's data. */
    page_set_finish(&changed);
    page_set_finish(&empty);
    assert_int_equal(page_set_add(&changed, 0, 12), 0);
    assert_int_equal(header_create_child(child, &r, 12 * PAGE_BYTES, &changed, &empty, &other, &e),
                     0);
    assert_int_equal(other->build_count, 1);
    assert_int_equal(other->generation, 2);
    header_destroy(TAKE_PTR(other));

    assert_int_equal(header_create_child(child, &p, 12 * PAGE_BYTES, &changed, &empty, &other, &e),
                     -EINVAL);
    assert_int_equal(header_create_child(child, &r, 11 * PAGE_BYTES, &changed, &empty, &other, &e),
                     -ERANGE);
    assert_null(other);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(golden_v1_to_v3_are_read),
        cmocka_unit_test(golden_v4_and_v5_are_read),
        cmocka_unit_test(v3_is_written_to_the_byte),
        cmocka_unit_test(v4_is_written_to_the_byte),
        cmocka_unit_test(truncated_at_every_length),
        cmocka_unit_test(flipped_bytes_are_seen),
        cmocka_unit_test(random_headers_round_trip),
        cmocka_unit_test(own_frames_are_never_trimmed),
        cmocka_unit_test(layers_stack),
    };

    mallopt(M_PERTURB, 0); /* meson asks to fill what is allocated: 8 MiB by liblz4, every time */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

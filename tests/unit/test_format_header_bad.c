/* SPDX-License-Identifier: Apache-2.0 */
#include <errno.h>
#include <malloc.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <lz4frame.h>

#include "../lib/golden_data.h"
#include "format/header.h"
#include "unit.h"

/* Headers that must be refused, each with what the error has to say; and the edges of what not. */

#define BLOCK_LEN (sizeof(golden_header_block_v4) - HEADER_META_BYTES)

/* Where things are in the block of the golden V4 header: see make_golden.py. */
#define AT_BUILD_COUNT   0
#define AT_BUILD_A       4
#define AT_SIZE_A        (AT_BUILD_A + 16)
#define AT_CODEC_A       (AT_BUILD_A + 56)
#define AT_FRAME_COUNT_A (AT_BUILD_A + 60)
#define AT_FRAME_0       (AT_BUILD_A + 64)
#define AT_FRAME_1       (AT_FRAME_0 + 24)
#define AT_BUILD_B       (AT_FRAME_1 + 24)
#define AT_CODEC_B       (AT_BUILD_B + 56)
#define AT_FRAME_COUNT_B (AT_BUILD_B + 60)
#define AT_MAPPING_COUNT (AT_BUILD_B + 64)
#define AT_MAPPING(n)    (AT_MAPPING_COUNT + 4 + 40 * (n))

/* And in that of the golden V5 header, whose first part is the same. */
#define AT_ID_COUNT AT_MAPPING_COUNT
#define AT_IDS      (AT_ID_COUNT + 4)
#define AT_V5_COUNT (AT_IDS + 3 * 16)
#define AT_OFFSETS  (AT_V5_COUNT + 4)
#define AT_LENGTHS  (AT_OFFSETS + 5)
#define AT_STORAGE  (AT_LENGTHS + 5)
#define AT_INDEXES  (AT_STORAGE + 7) /* two of the storage deltas take two bytes */

static void assert_refused(const void *bytes, size_t len, const char *says)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct header *h = NULL;

    if (header_decode(bytes, len, &h, &e) != -EBADMSG || e.code != -EBADMSG || h ||
        !strstr(e.text, says) || strncmp(e.text, "header: ", 8) != 0)
        fail_msg("expected \"%s\", got %d: %s", says, e.code, e.text);
}

static struct header *accepted(const void *bytes, size_t len)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct header *h = NULL;

    if (header_decode(bytes, len, &h, &e) < 0)
        fail_msg("%s", e.text);
    return h;
}

/* Metadata, flags and a proper LZ4 frame around a block; *@size_field is what the header says. */
static struct buf frame(const uint8_t meta[HEADER_META_BYTES], const void *block, size_t len,
                        uint32_t size_field)
{
    struct buf b = {0};
    size_t bound = LZ4F_compressFrameBound(len, NULL);
    size_t n;

    buf_put(&b, meta, HEADER_META_BYTES);
    buf_put_u8(&b, 0);
    buf_put_u32(&b, size_field);
    n = b.len;
    assert_non_null(buf_extend(&b, bound));
    b.len = n + LZ4F_compressFrame(b.data + n, bound, block, len, NULL);
    return b;
}

static void metadata_has_ranges(void **state)
{
    static const struct {
        size_t at;
        uint64_t value;
        const char *says;
    } bad[] = {
        {0, 0, "version at byte 0 is 0"},
        {0, 6, "version at byte 0 is 6"},
        {0, 0x1ffff, "version at byte 0 is 65535"},
        {8, 0, "block size at byte 8 is 0"},
        {8, 2048, "block size at byte 8 is 2048"},
        {8, 12288, "block size at byte 8 is 12288"},
        {8, 4 * MIB, "block size at byte 8 is 4194304"},
        {8, UINT64_C(1) << 63, "block size at byte 8"},
        {16, 16 * TIB, "image size at byte 16"},
        {16, UINT64_MAX, "image size at byte 16"},
    };
    uint8_t bytes[sizeof(golden_header_v3)];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        memcpy(bytes, golden_header_v3, sizeof(bytes));
        store_le(bytes + bad[i].at, bad[i].value, 8);
        assert_refused(bytes, sizeof(bytes), bad[i].says);
    }
    memcpy(bytes, golden_header_v3, sizeof(bytes));
    memset(bytes + 32, 0, 16);
    assert_refused(bytes, sizeof(bytes), "build id at byte 32 is nil");
    assert_refused(bytes, 0, "0 bytes");
    assert_refused(bytes, HEADER_MAX_BYTES + 1, "no valid one is above");
}

/* The upper bits of the version field are not the format's; they are kept. */
static void version_has_upper_bits(void **state)
{
    uint8_t bytes[sizeof(golden_header_v3)];
    struct header *h CLEANUP_HEADER = NULL;
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    memcpy(bytes, golden_header_v3, sizeof(bytes));
    bytes[5] = 0x12;
    h = accepted(bytes, sizeof(bytes));
    assert_int_equal(header_format(h), 3);
    assert_int_equal(header_encode(h, &b, NULL), 0);
    assert_memory_equal(b.data, bytes, sizeof(bytes));
}

/* One field of one mapping of the golden image replaced, in V3 and in V4. */
static void mappings_must_fit_together(void **state)
{
    static const struct {
        unsigned mapping, at;
        uint64_t value;
        const char *says;
    } bad[] = {
        {0, 0, 4096, "mapping 0 at byte"},
        {0, 0, 4096, "offset 4096 leaves a gap"},
        {1, 0, 0, "offset 0 overlaps"},
        {2, 0, 9 * PAGE_BYTES, "leaves a gap"},
        {2, 0, 8 * PAGE_BYTES - 1, "overlaps"},
        {3, 8, 0, "length 0 is not a number of 4 KiB pages"},
        {3, 8, 4095, "length 4095 is not"},
        {3, 8, 8192, "overlaps: the one before it ends at"},
        {5, 8, 21 * PAGE_BYTES, "overlaps"},
        {6, 8, 9 * PAGE_BYTES, "reaches beyond the image's last block"},
        {6, 8, UINT64_MAX & ~UINT64_C(4095), "reaches beyond the image's last block"},
        {6, 8, 7 * PAGE_BYTES, "mappings: they end at 159744 of an image of 163840 bytes"},
        {5, 32, 100 * PAGE_BYTES + 512, "storage offset 410112 is not a multiple of 4096"},
        {5, 32, 16 * TIB - 20 * PAGE_BYTES, "the data would end past 16 TiB"},
        {5, 32, UINT64_MAX & ~UINT64_C(4095), "the data would end past 16 TiB"},
    };
    uint8_t v3[sizeof(golden_header_v3)], v4[sizeof(golden_header_block_v4)];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        struct buf b CLEANUP_BUF = {0};

        memcpy(v3, golden_header_v3, sizeof(v3));
        store_le(v3 + HEADER_META_BYTES + 40 * bad[i].mapping + bad[i].at, bad[i].value, 8);
        assert_refused(v3, sizeof(v3), bad[i].says);
        memcpy(v4, golden_header_block_v4, sizeof(v4));
        store_le(v4 + HEADER_META_BYTES + AT_MAPPING(bad[i].mapping) + bad[i].at, bad[i].value, 8);
        b = frame(v4, v4 + HEADER_META_BYTES, BLOCK_LEN, BLOCK_LEN);
        assert_refused(b.data, b.len, bad[i].says);
    }
}

static void v3_names_the_byte(void **state)
{
    uint8_t bytes[sizeof(golden_header_v3) + 40];

    (void)state;
    memcpy(bytes, golden_header_v3, sizeof(golden_header_v3));
    memset(bytes + sizeof(golden_header_v3), 0, 40);
    bytes[HEADER_META_BYTES + 40 + 8] ^= 1;
    assert_refused(bytes, sizeof(golden_header_v3), "mapping 1 at byte 104 of the file: length");
    bytes[HEADER_META_BYTES + 40 + 8] ^= 1;
    assert_refused(bytes, sizeof(golden_header_v3) - 1, "mapping 6 at byte 304: the file ends");
    assert_refused(bytes, sizeof(golden_header_v3) - 40, "byte 304 of the file): the header is in");
    assert_refused(bytes, HEADER_META_BYTES, "mappings: they end at 0");
    store_le(bytes + sizeof(golden_header_v3), 40 * PAGE_BYTES, 8);
    assert_refused(bytes, sizeof(bytes), "offset 163840 is behind the image's end");
}

/* An image may end within its last block, which is then mapped as a whole. */
static void last_block_may_overhang(void **state)
{
    uint8_t bytes[HEADER_META_BYTES + 40] = {3};
    struct header *h CLEANUP_HEADER = NULL;

    (void)state;
    store_le(bytes + 8, 2 * MIB, 8);
    store_le(bytes + 16, 5 * PAGE_BYTES + 1, 8);
    memset(bytes + 32, 0xee, 16);
    store_le(bytes + HEADER_META_BYTES + 8, 2 * MIB, 8);
    memset(bytes + HEADER_META_BYTES + 16, 0xee, 16);
    h = accepted(bytes, sizeof(bytes));
    assert_int_equal(map_page_count(h->map), 6);
    store_le(bytes + HEADER_META_BYTES + 8, 2 * MIB + PAGE_BYTES, 8);
    assert_refused(bytes, sizeof(bytes), "reaches beyond the image's last block");
}

static void empty_image_has_no_mappings(void **state)
{
    uint8_t bytes[HEADER_META_BYTES] = {3};
    struct header *h CLEANUP_HEADER = NULL;
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    store_le(bytes + 8, 4096, 8);
    bytes[32] = 1;
    h = accepted(bytes, sizeof(bytes));
    assert_int_equal(map_page_count(h->map), 0);
    assert_int_equal(header_encode(h, &b, NULL), 0);
    assert_int_equal(b.len, sizeof(bytes));
    h->version = 4;
    b.len = 0;
    assert_int_equal(header_encode(h, &b, NULL), 0);
    header_destroy(TAKE_PTR(h));
    h = accepted(b.data, b.len);
    assert_int_equal(map_page_count(h->map), 0);
}

static void framing_of_v4_is_checked(void **state)
{
    const uint8_t *meta = golden_header_v4;
    const uint8_t *block = golden_header_block_v4 + HEADER_META_BYTES;
    uint8_t bytes[sizeof(golden_header_v4) + 1];
    struct buf less CLEANUP_BUF = frame(meta, block, BLOCK_LEN, BLOCK_LEN - 1);
    struct buf more CLEANUP_BUF = frame(meta, block, BLOCK_LEN, BLOCK_LEN + 1);
    struct buf none CLEANUP_BUF = frame(meta, block, 0, 0);

    (void)state;
    memcpy(bytes, golden_header_v4, sizeof(golden_header_v4));
    bytes[sizeof(bytes) - 1] = 0;
    assert_refused(bytes, sizeof(bytes), "1 bytes follow its end");
    bytes[64] = 1;
    assert_refused(bytes, sizeof(golden_header_v4), "not uploaded yet");
    bytes[64] = 2;
    assert_refused(bytes, sizeof(golden_header_v4), "flags at byte 64 are 0x02");
    bytes[64] = 0;
    store_le(bytes + 65, 256 * MIB + 1, 4);
    assert_refused(bytes, sizeof(golden_header_v4), "size at byte 65 is 268435457");
    store_le(bytes + 65, 255 * (sizeof(golden_header_v4) - 69 + 1), 4);
    assert_refused(bytes, sizeof(golden_header_v4), "cannot hold the");
    assert_refused(less.data, less.len, "holds at least 464 bytes, its size field says 463");
    assert_refused(more.data, more.len, "holds 464 bytes, its size field says 465");
    assert_refused(none.data, none.len, "build count at byte 0: the uncompressed block ends");
}

/* One number of the block replaced, in V4 or V5; the frame around it is in order. */
static void blocks_are_checked(void **state)
{
    static const struct {
        uint8_t version;
        size_t at, len;
        uint64_t value;
        const char *says;
    } bad[] = {
        {4, AT_BUILD_COUNT, 4, 0xffffffff, "build count at byte 0 of the uncompressed block is 42"},
        {4, AT_BUILD_COUNT, 4, 3, "build 2 at byte"},
        {4, AT_BUILD_COUNT, 4, 1, "mapping count at byte 116"},
        {4, AT_BUILD_A, 8, UINT64_MAX, "build 1 at byte 116 of the uncompressed block: id is not"},
        {4, AT_SIZE_A, 8, UINT64_C(1) << 63, "build 0 at byte 4 of the uncompressed block: size"},
        {4, AT_SIZE_A, 8, 12 * PAGE_BYTES, "mapping 4 at byte"},
        {4, AT_SIZE_A, 8, 12 * PAGE_BYTES, "beyond the data of build a1a1a1a1-a1a1-a1a1-a1a1-a1"},
        {4, AT_CODEC_A, 4, 3, "codec at byte 60 is 3"},
        {4, AT_CODEC_A, 4, 0, "count at byte 64 is 2 though there is no codec"},
        {4, AT_CODEC_B, 4, 1, "no frame of build b2b2b2b2-b2b2-b2b2-b2b2-b2b2b2b2b2b2 holds all"},
        {4, AT_FRAME_COUNT_A, 4, (1 << 20) + 1, "count at byte 64 is 1048577, the format allows"},
        {4, AT_FRAME_COUNT_A, 4, 1 << 20, "count at byte 64 is 1048576, more than the"},
        {4, AT_FRAME_0, 8, 1, "mapping 0"},
        {4, AT_FRAME_0, 8, UINT64_C(1) << 63, "frame 0: its offsets are negative"},
        {4, AT_FRAME_0 + 8, 8, UINT64_MAX, "frame 0: its offsets are negative"},
        {4, AT_FRAME_0 + 16, 4, 0, "frame 0: sizes 0 and 5000"},
        {4, AT_FRAME_0 + 20, 4, UINT64_C(1) << 31, "frame 0: sizes 16384 and 2147483648"},
        {4, AT_FRAME_0 + 16, 4, 8192, "mapping 0"},
        {4, AT_FRAME_1, 8, 16383, "frame 1: starts at 16383 of the uncompressed data"},
        {4, AT_FRAME_1 + 8, 8, 4999, "frame 1: starts at 4999 of the stored data"},
        {4, AT_FRAME_1 + 8, 8, 4999, "frame table entry at byte 92"},
        {4, AT_MAPPING_COUNT, 4, 8, "mapping count at byte 180 of the uncompressed block is 8"},
        {4, AT_MAPPING_COUNT, 4, UINT32_MAX, "mapping count at byte 180"},
        {4, AT_MAPPING_COUNT, 4, 6, "40 bytes follow the mappings"},
        {5, AT_ID_COUNT, 4, 65536, "count of mapped builds at byte 180"},
        {5, AT_ID_COUNT, 4, 100, "count of mapped builds at byte 180"},
        {5, AT_V5_COUNT, 4, 6, "mapping count at byte 232"},
        {5, AT_V5_COUNT, 4, UINT32_MAX, "mapping count at byte 232"},
        {5, AT_V5_COUNT, 4, 4, "mapping"},
        {5, AT_OFFSETS + 1, 1, 2,
         "mapping 1 at byte 237 of the uncompressed block: offset 8192 over"},
        {5, AT_OFFSETS + 4, 1, 0x80, "mapping"},
        {5, AT_OFFSETS + 4, 1, 0x7f, "is behind the image's end"},
        {5, AT_LENGTHS, 1, 0, "length 0 is not"},
        {5, AT_LENGTHS + 4, 1, 29, "reaches beyond"},
        {5, AT_STORAGE, 1, 1, "mapping 0, offset delta at byte 236 of the uncompressed block: sto"},
        {5, AT_INDEXES, 1, 3, "build index 3: there are 3 builds"},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
        bool v4 = bad[i].version == 4;
        const uint8_t *golden = v4 ? golden_header_block_v4 : golden_header_block_v5;
        size_t len = v4 ? sizeof(golden_header_block_v4) : sizeof(golden_header_block_v5);
        struct buf b CLEANUP_BUF = {0}, block CLEANUP_BUF = {0};

        buf_put(&block, golden, len);
        store_le(block.data + HEADER_META_BYTES + bad[i].at, bad[i].value, bad[i].len);
        len -= HEADER_META_BYTES;
        b = frame(golden, block.data + HEADER_META_BYTES, len, (uint32_t)len);
        assert_refused(b.data, b.len, bad[i].says);
    }
}

static void block_truncated_at_every_length(void **state)
{
    (void)state;
    for (int version = 4; version <= 5; version++) {
        const uint8_t *golden = version == 4 ? golden_header_block_v4 : golden_header_block_v5;
        size_t full =
            version == 4 ? sizeof(golden_header_block_v4) : sizeof(golden_header_block_v5);

        for (size_t len = 0; len < full - HEADER_META_BYTES; len++) {
            struct buf b CLEANUP_BUF =
                frame(golden, golden + HEADER_META_BYTES, len, (uint32_t)len);

            assert_refused(b.data, b.len, " byte ");
        }
    }
}

static void v5_varints_end(void **state)
{
    static const uint8_t sections[][32] = {
        /* ids 0, mappings 1, and a first varint that goes on and on */
        {0,    0,    0,    0,    0,    0,    0,    0,    1,    0,    0,   0,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
        /* one whose tenth byte does not fit in 64 bits */
        {0,    0,    0,    0,    0,    0,    0,    0,    1,    0,    0, 0,
         0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0, 0},
    };

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(sections); i++) {
        struct buf b CLEANUP_BUF = frame(golden_header_v5, sections[i], 32, 32);

        assert_refused(b.data, b.len, "offset delta of mapping 0 at byte 12");
    }
}

/* Numbers of V5 that only overflow could make valid, and a build that is none. */
static void v5_numbers_do_not_wrap(void **state)
{
    /* No builds with data; one mapped build, one mapping: offset delta 2^52, which is byte 2^64. */
    uint8_t block[] = {0,    0,    0,    0,    1,    0,    0,    0,    9, 9, 9, 9, 9, 9,
                       9,    9,    9,    9,    9,    9,    9,    9,    9, 9, 1, 0, 0, 0, /**/
                       0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x80, 0x08, 1, 0, 0};
    struct buf wraps CLEANUP_BUF = frame(golden_header_v5, block, sizeof(block), sizeof(block));
    struct buf nil CLEANUP_BUF = {0};

    (void)state;
    assert_refused(wraps.data, wraps.len, "offset delta 4503599627370496 leads past 16 TiB");
    memset(block + 8, 0, 16);
    nil = frame(golden_header_v5, block, sizeof(block), sizeof(block));
    assert_refused(nil.data, nil.len, "mapped build 0 of the uncompressed block: id is nil");
}

/* More mappings than E2B would take, and all of their bytes there. */
static void v5_mappings_are_counted(void **state)
{
    uint32_t count = 256 * 1024 * 1024 / 42 + 1;
    size_t len = 12 + 4 * (size_t)count;
    uint8_t *block CLEANUP_FREE = calloc(1, len);
    struct buf b CLEANUP_BUF = {0};

    (void)state;
    assert_non_null(block);
    store_le(block + 8, count, 4);
    b = frame(golden_header_v5, block, len, (uint32_t)len);
    assert_refused(b.data, b.len, "mapping count at byte 8 of the uncompressed block is 6391321");
}

/* A V5 header without mappings is an image of zeros; one of V4 is one that lost them. */
static void image_of_zeros(void **state)
{
    static const uint8_t nothing[12];
    struct buf v5 CLEANUP_BUF = frame(golden_header_v5, nothing, 12, 12);
    struct buf v4 CLEANUP_BUF = frame(golden_header_v4, nothing, 8, 8);
    struct header *h CLEANUP_HEADER = accepted(v5.data, v5.len);

    (void)state;
    assert_int_equal(map_run_count(h->map), 1);
    assert_int_equal(map_run_at(h->map, 0).build, MAP_ZERO);
    assert_int_equal(map_page_count(h->map), 40);
    assert_refused(v4.data, v4.len, "mappings: they end at 0");
}

/* The last page of an image may be short in the object, pages before it not. */
static void short_object_holds_the_image_only(void **state)
{
    struct page_set dirty CLEANUP_PAGE_SET = {0};
    struct header *h CLEANUP_HEADER = NULL;
    struct thaw_error e = THAW_ERROR_INIT;
    struct uuid id = {{1}};

    (void)state;
    assert_int_equal(page_set_add(&dirty, 0, 2), 0);
    assert_int_equal(header_create_base(&id, PAGE_BYTES, 5000, &dirty, &h, &e), 0);
    h->builds[0].size_bytes = 5000;
    assert_int_equal(header_check(h, &e), 0);
    h->builds[0].size_bytes = 4999;
    assert_int_equal(header_check(h, &e), -EINVAL);
    assert_non_null(strstr(e.text, "mapping of image offset 0"));
}

/* One page of each of @count builds. */
static struct buf v3_of_builds(uint32_t count)
{
    struct buf b = {0};

    buf_put(&b, golden_header_v3, HEADER_META_BYTES);
    store_le(b.data + 16, count * PAGE_BYTES, 8);
    for (uint32_t i = 0; i < count; i++) {
        uint8_t id[16] = {1};

        store_le(id + 4, i, 4);
        buf_put_u64(&b, i * PAGE_BYTES);
        buf_put_u64(&b, PAGE_BYTES);
        buf_put(&b, id, sizeof(id));
        buf_put_u64(&b, 0);
    }
    return b;
}

static void builds_are_counted(void **state)
{
    struct buf many CLEANUP_BUF = v3_of_builds(65535), too_many CLEANUP_BUF = v3_of_builds(65536);
    struct header *h CLEANUP_HEADER = accepted(many.data, many.len);
    struct buf again CLEANUP_BUF = {0};

    (void)state;
    assert_int_equal(h->build_count, 65535);
    assert_int_equal(header_encode(h, &again, NULL), 0);
    assert_int_equal(again.len, many.len);
    assert_memory_equal(again.data, many.data, many.len);
    assert_refused(too_many.data, too_many.len, "build: more than 65535 different ones");
}

/* What a reader would refuse is not written: nothing is appended, and the error says what. */
static void assert_not_written(const struct header *h, const char *says)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct buf b CLEANUP_BUF = {0};

    buf_put_u8(&b, 7);
    if (header_encode(h, &b, &e) != -EINVAL || e.code != -EINVAL || !strstr(e.text, says))
        fail_msg("expected \"%s\", got %d: %s", says, e.code, e.text);
    assert_int_equal(b.len, 1);
}

static void encoder_keeps_the_rules(void **state)
{
    struct header *h CLEANUP_HEADER = accepted(golden_header_v4, sizeof(golden_header_v4));
    struct header_build *b;

    (void)state;
    h->version = 3;
    assert_not_written(h, "is compressed, which a V3 header cannot say");
    h->version = 5;
    assert_not_written(h, "version 5 is only read");
    h->version = 4;
    h->block_bytes = 100;
    assert_not_written(h, "block size");
    h->block_bytes = 4096;
    h->size_bytes += 1;
    assert_not_written(h, "the map has 40 pages");
    h->size_bytes -= 1;
    h->build_count--; /* now the map names a build that is not there */
    assert_not_written(h, "build 2 is none");
    h->build_count++;
    h->builds[2].id = h->builds[1].id;
    assert_not_written(h, "is there twice");
    memset(h->builds[2].id.b, 0, 16);
    assert_not_written(h, "build 2 is none");
    memset(h->builds[2].id.b, 0xff, 16);
    b = header_find_build(h, &h->build);
    b->size_bytes = PAGE_BYTES;
    assert_not_written(h, "beyond the data of build b2b2b2b2");
    b->size_bytes = UINT64_MAX;
    assert_not_written(h, "its size is above");
    b->size_bytes = 2 * PAGE_BYTES;
    b->frames.codec = CODEC_ZSTD; /* without a frame for what is mapped */
    assert_not_written(h, "no frame of build b2b2b2b2");
}

/* The cap on the size of a header holds on write, or what is written could never be read. */
static void encoder_keeps_the_cap(void **state)
{
    struct uuid id = {{1}};
    struct header *h CLEANUP_HEADER = NULL;
    struct page_set none CLEANUP_PAGE_SET = {0};
    struct map_builder b CLEANUP_MAP_BUILDER = {0};
    uint32_t runs = (uint32_t)(HEADER_MAX_BYTES / 40 + 1);

    (void)state;
    assert_int_equal(header_create_base(&id, PAGE_BYTES, runs * PAGE_BYTES, &none, &h, NULL), 0);
    h->builds[0].size_bytes = 3 * PAGE_BYTES;
    assert_int_equal(map_builder_reserve(&b, runs), 0);
    for (uint32_t i = 0; i < runs; i++)
        assert_int_equal(map_builder_add(&b, 1, 0, i % 2 ? 0 : 2), 0);
    map_destroy(h->map);
    h->map = NULL;
    assert_int_equal(map_builder_finish(&b, &h->map), 0);
    assert_not_written(h, "the format allows 268435456: compact the build");
    h->version = 3;
    assert_not_written(h, "compact the build, or write V4");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(metadata_has_ranges),
        cmocka_unit_test(version_has_upper_bits),
        cmocka_unit_test(mappings_must_fit_together),
        cmocka_unit_test(v3_names_the_byte),
        cmocka_unit_test(last_block_may_overhang),
        cmocka_unit_test(empty_image_has_no_mappings),
        cmocka_unit_test(framing_of_v4_is_checked),
        cmocka_unit_test(blocks_are_checked),
        cmocka_unit_test(block_truncated_at_every_length),
        cmocka_unit_test(v5_varints_end),
        cmocka_unit_test(v5_numbers_do_not_wrap),
        cmocka_unit_test(v5_mappings_are_counted),
        cmocka_unit_test(image_of_zeros),
        cmocka_unit_test(short_object_holds_the_image_only),
        cmocka_unit_test(builds_are_counted),
        cmocka_unit_test(encoder_keeps_the_rules),
        cmocka_unit_test(encoder_keeps_the_cap),
    };

    mallopt(M_PERTURB, 0); /* meson asks to fill what is allocated: 8 MiB by liblz4, every time */
    return cmocka_run_group_tests(tests, NULL, NULL);
}

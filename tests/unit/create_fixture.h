/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_CREATE_FIXTURE_H
#define THAW_TESTS_CREATE_FIXTURE_H

/*
 * Builds made of random images in a store of their own, and read back through the image layer,
 * whose lookup, fetching and verification are tested on their own; the oracle is the content
 * itself, kept in memory.
 */

#include <errno.h>
#include <sys/stat.h>

#include "build_fixture.h"
#include "image/create.h"

#define MEMORY_BYTES (8 * MIB)
#define ROOTFS_BYTES (3 * MIB + 5 * PAGE_BYTES)

static char *folder;
static struct io_engine *io;
static struct store *store;
static struct cache_set *caches;
static struct fetch *fetch;
static uint64_t seed; /* of all that is random */

static inline int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    seed = 1;
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &io, NULL), 0);
    assert_int_equal(store_open(folder, io, false, &store, NULL), 0);
    assert_int_equal(cache_set_create(&(struct cache_set_options){0}, &caches, NULL), 0);
    assert_int_equal(fetch_create(caches, &fetch, NULL), 0);
    return 0;
}

static inline int tear_down(void **state)
{
    (void)state;
    fetch_destroy(fetch);
    cache_set_destroy(caches);
    store_close(store);
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)

/* --- content --- */

static inline uint64_t below(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

static inline void fill(unsigned char *p, size_t len, unsigned kind)
{
    static const char text[] = "a page fault of a guest is a message to its server; ";

    for (size_t i = 0; i < len; i++)
        p[i] = kind == 0   ? 0
               : kind == 1 ? (unsigned char)below(256)
                           : (unsigned char)text[i % (sizeof(text) - 1)];
}

/** change() - stretches of @p become zeros, noise or text, or have one byte changed */
static inline void change(unsigned char *p, size_t len, unsigned times)
{
    while (times-- > 0) {
        size_t page = below(len / PAGE_BYTES);
        size_t pages = 1 + below(40);
        unsigned kind = (unsigned)below(4);

        pages = MIN(pages, len / PAGE_BYTES - page);
        if (kind == 3)
            p[page * PAGE_BYTES + below(PAGE_BYTES)] ^= 1;
        else
            fill(p + page * PAGE_BYTES, pages * PAGE_BYTES, kind);
    }
}

/** content_of() - of an image, from malloc */
static inline unsigned char *content_of(size_t len)
{
    unsigned char *p = calloc(1, len);

    assert_non_null(p);
    change(p, len, (unsigned)(len / (256 * KIB)));
    return p;
}

/** file_of() - a file of @content; of its pages of zeros some become holes, some are written */
static inline char *file_of(const char *name, const unsigned char *content, size_t len)
{
    static const unsigned char zeros[PAGE_BYTES];
    char *path = scratch_path(folder, name);
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    for (size_t at = 0; at < len; at += PAGE_BYTES) {
        size_t n = MIN(PAGE_BYTES, len - at);

        if (memcmp(content + at, zeros, n) != 0 || at / PAGE_BYTES % 64 < 20)
            assert_int_equal(file_write_at(fd, content + at, n, at), 0);
    }
    assert_int_equal(ftruncate(fd, (off_t)len), 0);
    close(fd);
    return path;
}

/* --- builds --- */

static inline int make(struct build_source *source, struct uuid *ret, struct thaw_error *e)
{
    int r;

    assert_int_equal(metadata_create(&source->metadata), 0);
    assert_int_equal(uuid_random(ret), 0);
    r = build_create(store, ret, source, e);
    metadata_destroy(source->metadata);
    source->metadata = NULL;
    return r;
}

static inline struct uuid make_ok(struct build_source *source)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct uuid id;

    if (make(source, &id, &e) < 0)
        fail_msg("%s", e.text);
    return id;
}

/** make_memory() - a build of a memory image only; @base may be NULL */
static inline struct uuid make_memory(const unsigned char *content, size_t len,
                                      const struct uuid *base)
{
    char *path = file_of("memory", content, len);
    struct build_source source = {.memory_path = path, .base = base};
    struct uuid id = make_ok(&source);

    free(path);
    return id;
}

/** refused() - a build fails: the error says @word, and nothing is left */
static inline void refused(struct build_source *source, int code, const char *word)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char text[UUID_TEXT_BYTES], *path;
    struct uuid id;
    struct stat st;

    assert_int_equal(make(source, &id, &e), code);
    assert_int_equal(e.code, code);
    if (!strstr(e.text, word))
        fail_msg("'%s' does not say '%s'", e.text, word);
    path = scratch_path(folder, uuid_format(&id, text));
    assert_int_equal(stat(path, &st), -1);
    free(path);
}

static inline struct manifest *manifest_of(const struct uuid *id)
{
    struct manifest *m = NULL;

    assert_int_equal(build_manifest_load(store, id, &m, NULL), 0);
    return m;
}

/** check_image() - all of an image, against @content */
static inline void check_image(const struct uuid *id, const char *name,
                               const unsigned char *content, size_t len)
{
    struct manifest *m = manifest_of(id);
    struct thaw_error e = THAW_ERROR_INIT;
    struct image *im = NULL;
    uint64_t step = 0;

    if (image_open(fetch, store, m, name, &im, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(image_bytes(im), len);
    for (uint64_t at = 0; at < len; at += step) {
        struct image_extent extent;
        const char *memory;

        assert_int_equal(image_lookup(im, (struct image_off){at}, &extent), 0);
        step = MIN(extent.len_bytes, len - at);
        if (extent.zero) {
            for (uint64_t i = at; i < at + step; i++)
                assert_int_equal(content[i], 0);
            continue;
        }
        memory = fixture_pin(im, &extent);
        if (memcmp(memory + extent.offset, content + at, step) != 0)
            fail_msg("%s differs between %llu and %llu", name, (unsigned long long)at,
                     (unsigned long long)(at + step));
        image_unpin(im, &extent);
    }
    image_close(im);
    manifest_destroy(m);
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#include "image/create.h"

#include <errno.h>
#include <poll.h>
#include <sys/stat.h>

#include "build_fixture.h"
#include "format/header.h"
#include "format/json.h"

/*
 * Builds are made of random images and read back through the image layer, whose lookup, fetching
 * and verification are tested on their own; the oracle is the content itself, kept in memory.
 */

#define MEMORY_BYTES (8 * MIB)
#define ROOTFS_BYTES (3 * MIB + 5 * PAGE_BYTES)

static char *folder;
static struct io_engine *io;
static struct store *store;
static struct cache_set *caches;
static struct fetch *fetch;
static uint64_t seed;

static int set_up(void **state)
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

static int tear_down(void **state)
{
    (void)state;
    fetch_destroy(fetch);
    cache_set_destroy(caches);
    store_close(store);
    io_engine_destroy(io);
    scratch_remove(folder);
    return 0;
}

/* --- content --- */

static uint64_t below(uint64_t n)
{
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    return (seed >> 33) % n;
}

static void fill(unsigned char *p, size_t len, unsigned kind)
{
    static const char text[] = "a page fault of a guest is a message to its server; ";

    for (size_t i = 0; i < len; i++)
        p[i] = kind == 0   ? 0
               : kind == 1 ? (unsigned char)below(256)
                           : (unsigned char)text[i % (sizeof(text) - 1)];
}

/* Changes stretches of @p: zeros, noise, text, one byte. */
static void change(unsigned char *p, size_t len, unsigned times)
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

static unsigned char *content_of(size_t len)
{
    unsigned char *p = calloc(1, len);

    assert_non_null(p);
    change(p, len, (unsigned)(len / (256 * KIB)));
    return p;
}

/* Writes @content; of its pages of zeros some become holes, some are written. */
static char *file_of(const char *name, const unsigned char *content, size_t len)
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

static int make(struct build_source *source, struct uuid *ret, struct thaw_error *e)
{
    int r;

    assert_int_equal(metadata_create(&source->metadata), 0);
    assert_int_equal(uuid_random(ret), 0);
    r = build_create(store, ret, source, e);
    metadata_destroy(source->metadata);
    source->metadata = NULL;
    return r;
}

static struct uuid make_ok(struct build_source *source)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct uuid id;

    if (make(source, &id, &e) < 0)
        fail_msg("%s", e.text);
    return id;
}

static struct uuid make_memory(const unsigned char *content, size_t len, const struct uuid *base)
{
    char *path = file_of("memory", content, len);
    struct build_source source = {.memory_path = path, .base = base};
    struct uuid id = make_ok(&source);

    free(path);
    return id;
}

static bool folder_has(const struct uuid *id, const char *name)
{
    uint64_t size;

    return store_size(store, id, name, &size) == 0;
}

/* A build that failed: the error says @word, and nothing is left. */
static void refused(struct build_source *source, int code, const char *word)
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

static struct manifest *manifest_of(const struct uuid *id)
{
    struct manifest *m = NULL;

    assert_int_equal(build_manifest_load(store, id, &m, NULL), 0);
    return m;
}

static struct header *header_of(const struct uuid *id, const char *name)
{
    struct manifest *m = manifest_of(id);
    struct header *h = NULL;

    assert_int_equal(build_header_load(store, m, name, &h, NULL), 0);
    manifest_destroy(m);
    return h;
}

/* Bytes that the build itself stores of an image. */
static uint64_t stored_bytes(const struct uuid *id, const char *name)
{
    struct manifest *m = manifest_of(id);
    uint64_t bytes = manifest_find(m, name)->size_bytes, real;

    assert_int_equal(store_size(store, id, name, &real), 0);
    assert_int_equal(real, bytes);
    manifest_destroy(m);
    return bytes;
}

static void check_image(const struct uuid *id, const char *name, const unsigned char *content,
                        size_t len)
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

/* --- tests --- */

static void generations_of_random_changes(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    size_t rootfs_bytes = ROOTFS_BYTES;
    unsigned char *rootfs = content_of(rootfs_bytes + 9 * 64 * KIB);
    struct uuid ids[9];

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(ids); i++) {
        struct build_source source = {.base = i > 0 ? &ids[i - 1] : NULL,
                                      .header_version = i % 3 == 2 ? HEADER_V3 : 0};
        char *memory_path, *rootfs_path;
        struct header *h;

        if (i > 0) {
            change(memory, MEMORY_BYTES, 12);
            /* The disk grows and shrinks; what it shrinks by comes back as something else. */
            rootfs_bytes = ROOTFS_BYTES + below(9) * 64 * KIB;
            change(rootfs, ROOTFS_BYTES + 9 * 64 * KIB, 12);
        }
        source.memory_path = memory_path = file_of("memory", memory, MEMORY_BYTES);
        source.rootfs_path = rootfs_path = file_of("rootfs", rootfs, rootfs_bytes);
        ids[i] = make_ok(&source);
        check_image(&ids[i], IMAGE_MEMORY, memory, MEMORY_BYTES);
        check_image(&ids[i], IMAGE_ROOTFS, rootfs, rootfs_bytes);
        h = header_of(&ids[i], IMAGE_MEMORY);
        assert_int_equal(header_format(h), i % 3 == 2 ? HEADER_V3 : HEADER_V4);
        assert_int_equal(h->generation, i);
        assert_int_equal(uuid_compare(&h->base, &ids[0]), 0);
        assert_true(i == 0 || stored_bytes(&ids[i], IMAGE_MEMORY) <= 12 * 40 * PAGE_BYTES);
        header_destroy(h);
        free(memory_path);
        free(rootfs_path);
    }
    free(memory);
    free(rootfs);
}

static void huge_blocks(void **state)
{
    size_t len = 12 * MIB;
    unsigned char *memory = calloc(1, len);
    char *path;
    struct build_source source = {.block_bytes = 2 * MIB};
    struct uuid base, child;
    struct header *h;

    (void)state;
    memory[3 * MIB] = 1;
    fill(memory + 8 * MIB, 2 * MIB, 1);
    source.memory_path = path = file_of("memory", memory, len);
    base = make_ok(&source);
    assert_int_equal(stored_bytes(&base, IMAGE_MEMORY), 4 * MIB);
    check_image(&base, IMAGE_MEMORY, memory, len);
    free(path);

    memory[3 * MIB] = 0;                         /* block 1 becomes zeros */
    memory[10 * MIB + 12345] = 7;                /* block 5 was zeros */
    memory[8 * MIB + 2 * MIB - 1] ^= UINT8_C(1); /* block 4, its last byte */
    child = make_memory(memory, len, &base);
    assert_int_equal(stored_bytes(&child, IMAGE_MEMORY), 4 * MIB);
    check_image(&child, IMAGE_MEMORY, memory, len);
    h = header_of(&child, IMAGE_MEMORY);
    assert_int_equal(h->block_bytes, 2 * MIB);
    header_destroy(h);

    path = file_of("memory", memory, len);
    source = (struct build_source){.memory_path = path, .base = &base, .block_bytes = 4096};
    refused(&source, -EINVAL, "2097152");
    source = (struct build_source){.memory_path = path, .block_bytes = 8192};
    refused(&source, -EINVAL, "8192");
    free(path);
    path = file_of("memory", memory, 3 * MIB);
    source = (struct build_source){.memory_path = path, .block_bytes = 2 * MIB};
    refused(&source, -EINVAL, "2097152");
    free(path);
    free(memory);
}

static void one_changed_byte_stores_one_block(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    struct uuid base, same, one;
    struct manifest *m;

    (void)state;
    fill(memory + 5 * MIB, MIB, 1);
    base = make_memory(memory, MEMORY_BYTES, NULL);
    same = make_memory(memory, MEMORY_BYTES, &base);
    assert_int_equal(stored_bytes(&same, IMAGE_MEMORY), 0);
    check_image(&same, IMAGE_MEMORY, memory, MEMORY_BYTES);
    memory[5 * MIB + 777] ^= UINT8_C(0x80);
    one = make_memory(memory, MEMORY_BYTES, &same);
    assert_int_equal(stored_bytes(&one, IMAGE_MEMORY), PAGE_BYTES);
    check_image(&one, IMAGE_MEMORY, memory, MEMORY_BYTES);
    m = manifest_of(&one);
    assert_true(m->has_parent);
    assert_int_equal(uuid_compare(&m->parent, &same), 0);
    manifest_destroy(m);

    /* All zeros over data: nothing is stored, and nothing of the base is mapped any more. */
    memset(memory, 0, MEMORY_BYTES);
    one = make_memory(memory, MEMORY_BYTES, &one);
    assert_int_equal(stored_bytes(&one, IMAGE_MEMORY), 0);
    check_image(&one, IMAGE_MEMORY, memory, MEMORY_BYTES);
    free(memory);
}

/* A base of runs of one page of two builds in turn: much to read for each stretch of the image. */
static void a_base_in_splinters(void **state)
{
    unsigned char *memory = malloc(MEMORY_BYTES);
    struct uuid id;

    (void)state;
    fill(memory, MEMORY_BYTES, 1);
    id = make_memory(memory, MEMORY_BYTES, NULL);
    for (unsigned layer = 1; layer < 4; layer++) {
        for (size_t page = layer; page < MEMORY_BYTES / PAGE_BYTES; page += 4)
            memory[page * PAGE_BYTES + layer]++;
        id = make_memory(memory, MEMORY_BYTES, &id);
        assert_int_equal(stored_bytes(&id, IMAGE_MEMORY), MEMORY_BYTES / 4);
    }
    check_image(&id, IMAGE_MEMORY, memory, MEMORY_BYTES);
    memory[MEMORY_BYTES - 1]++;
    id = make_memory(memory, MEMORY_BYTES, &id);
    assert_int_equal(stored_bytes(&id, IMAGE_MEMORY), PAGE_BYTES);
    check_image(&id, IMAGE_MEMORY, memory, MEMORY_BYTES);
    free(memory);
}

static void images_that_cannot_be(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    char *path = file_of("memory", memory, MEMORY_BYTES);
    struct uuid base = make_memory(memory, MEMORY_BYTES, NULL), nobody;
    struct build_source source = {.snapfile_path = path};
    static const size_t sizes[] = {0, 1, 4095, 4097};

    (void)state;
    refused(&source, -EINVAL, "memory image or a disk image");
    source = (struct build_source){.memory_path = "/nowhere/memory"};
    refused(&source, -ENOENT, "/nowhere/memory");
    source = (struct build_source){.memory_path = folder};
    refused(&source, -EINVAL, "neither a file nor a block device");
    source = (struct build_source){.memory_path = path, .snapfile_path = "/nowhere/state"};
    refused(&source, -ENOENT, "/nowhere/state");
    source = (struct build_source){.memory_path = path, .header_version = HEADER_V5};
    refused(&source, -EINVAL, "V5");
    assert_int_equal(uuid_random(&nobody), 0);
    source = (struct build_source){.memory_path = path, .base = &nobody};
    refused(&source, -ENOENT, "the base");
    free(path);
    for (size_t i = 0; i < ARRAY_SIZE(sizes); i++) {
        path = file_of("odd", memory, sizes[i]);
        source = (struct build_source){.memory_path = path};
        refused(&source, -EINVAL, "positive multiple of 4096");
        source = (struct build_source){.rootfs_path = path};
        refused(&source, -EINVAL, "positive multiple of 4096");
        free(path);
    }
    path = file_of("short", memory, MEMORY_BYTES / 2);
    source = (struct build_source){.memory_path = path, .base = &base};
    refused(&source, -EINVAL, "cannot be resized");
    free(path);
    free(memory);
}

static void flip(const struct uuid *id, const char *name, uint64_t offset)
{
    struct build_fixture f = {.folder = folder, .id = *id};

    build_fixture_flip(&f, name, offset);
}

static void a_damaged_base_is_noticed(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    struct build_source source = {0};
    char *path, text[UUID_TEXT_BYTES];
    struct uuid base;

    (void)state;
    fill(memory + MIB, 2 * MIB, 1);
    base = make_memory(memory, MEMORY_BYTES, NULL);
    path = file_of("memory", memory, MEMORY_BYTES);
    source = (struct build_source){.memory_path = path, .base = &base};
    flip(&base, "memfile", 3 * GRANULE_BYTES + 1);
    refused(&source, -EBADMSG, "granule 3 of object memfile of build");
    flip(&base, "memfile", 3 * GRANULE_BYTES + 1);
    flip(&base, "memfile.sums", 100);
    refused(&source, -EBADMSG, "memfile.sums");
    flip(&base, "memfile.sums", 100);
    flip(&base, "memfile.header", 70);
    refused(&source, -EBADMSG, uuid_format(&base, text));
    flip(&base, "memfile.header", 70);
    make_ok(&source);
    {
        struct build_fixture f = {.folder = folder, .id = base};
        char *object = build_fixture_object(&f, "memfile");

        assert_int_equal(truncate(object, 2 * GRANULE_BYTES), 0);
        refused(&source, -EBADMSG, "the base is damaged");
        assert_int_equal(unlink(object), 0);
        refused(&source, -ENOENT, "memfile");
        free(object);
    }
    free(path);
    free(memory);
}

/* Is told of progress, and cuts or writes to the image at the first word of it. */
struct saboteur {
    const char *path;
    bool cut;
    bool done;
    uint64_t last_bytes, total_bytes;
};

static void sabotage(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct saboteur *s = arg;
    int fd;

    assert_true(done_bytes >= s->last_bytes);
    s->last_bytes = done_bytes;
    s->total_bytes = total_bytes;
    if (s->done || !s->path)
        return;
    s->done = true;
    fd = open(s->path, O_WRONLY);
    if (s->cut)
        assert_int_equal(ftruncate(fd, 64 * KIB), 0);
    else
        assert_int_equal(file_write_at(fd, "x", 1, 0), 0);
    close(fd);
}

static void an_image_that_changes_under_way(void **state)
{
    size_t len = 64 * MIB;
    unsigned char *memory = malloc(len);

    (void)state;
    fill(memory, len, 2);
    for (int cut = 0; cut < 2; cut++) {
        char *path = file_of("memory", memory, len);
        struct saboteur s = {.path = path, .cut = cut};
        struct pack_progress progress = {.report = sabotage, .arg = &s};
        struct build_source source = {.memory_path = path, .progress = &progress};

        refused(&source, -ESTALE, cut ? "became shorter" : "was written to");
        free(path);
    }
    free(memory);
}

static void progress_covers_all_images(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    struct saboteur s = {0};
    struct pack_progress progress = {.report = sabotage, .arg = &s};
    struct build_source source = {.progress = &progress};
    char *path;

    (void)state;
    fill(memory + MEMORY_BYTES - PAGE_BYTES, PAGE_BYTES, 1);
    source.memory_path = source.rootfs_path = path = file_of("memory", memory, MEMORY_BYTES);
    make_ok(&source);
    assert_int_equal(s.total_bytes, 2 * MEMORY_BYTES);
    assert_int_equal(s.last_bytes, 2 * MEMORY_BYTES);
    free(path);
    free(memory);
}

/* What is in the way of a build is not touched, above all not removed. */
static void somebody_elses_objects_stay(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    char *path = file_of("memory", memory, MEMORY_BYTES);
    struct build_source source = {.memory_path = path};
    struct thaw_error e = THAW_ERROR_INIT;
    struct uuid id = make_memory(memory, MEMORY_BYTES, NULL);

    (void)state;
    assert_int_equal(metadata_create(&source.metadata), 0);
    assert_int_equal(build_create(store, &id, &source, &e), -EEXIST);
    check_image(&id, IMAGE_MEMORY, memory, MEMORY_BYTES);
    assert_int_equal(store_object_delete(store, &id, MANIFEST_NAME, &e), 0);
    assert_int_equal(build_create(store, &id, &source, &e), -EEXIST);
    assert_true(folder_has(&id, "memfile"));
    metadata_destroy(source.metadata);
    free(path);
    free(memory);
}

static json_t *metadata_json(const struct uuid *id)
{
    struct buf text CLEANUP_BUF = {0};
    json_t *root = NULL;

    assert_int_equal(store_get(store, id, METADATA_NAME, METADATA_MAX_BYTES, &text, NULL), 0);
    assert_int_equal(json_parse(text.data, text.len, METADATA_NAME, &root, NULL), 0);
    return root;
}

static void the_keys_of_e2b_are_handed_down(void **state)
{
    static const char inherited[] =
        "{\"version\":2,\"template\":{\"build_id\":\"x\",\"kernel_version\":\"6.1\","
        "\"firecracker_version\":\"1.10\"},\"context\":{\"user\":\"root\"},\"fs_quiesced\":true,"
        "\"filesystem_only\":true,\"thaw\":{\"vmm\":{\"kind\":\"qemu\",\"args\":[\"-m\"]}},"
        "\"prefetch\":{\"memory\":{\"indices\":[1],\"block_size\":4096},\"disk\":1}}";
    unsigned char *memory = content_of(MEMORY_BYTES);
    char *path = file_of("memory", memory, MEMORY_BYTES);
    struct build_source source = {.memory_path = path};
    struct uuid base, child;
    char text[UUID_TEXT_BYTES];
    json_t *root, *template;

    (void)state;
    base = make_ok(&source);
    root = metadata_json(&base);
    template = json_object_get(root, "template");
    assert_string_equal(json_string_value(json_object_get(template, "build_id")),
                        uuid_format(&base, text));
    json_decref(root);

    {
        struct build_fixture f = {.folder = folder, .id = base};
        char *object = build_fixture_object(&f, METADATA_NAME);
        char *manifest = build_fixture_object(&f, MANIFEST_NAME);
        struct manifest *m = manifest_of(&base);
        struct manifest_object o;
        struct buf encoded CLEANUP_BUF = {0};
        struct manifest changed = *m;
        int fd = open(object, O_WRONLY | O_TRUNC);

        assert_int_equal(file_write_at(fd, inherited, sizeof(inherited) - 1, 0), 0);
        close(fd);
        /* Under another build's name, to learn what the manifest must say of it. */
        assert_int_equal(uuid_random(&child), 0);
        assert_int_equal(
            pack_bytes(store, &child, METADATA_NAME, inherited, sizeof(inherited) - 1, &o, NULL),
            0);
        for (size_t i = 0; i < changed.object_count; i++) {
            if (strcmp(changed.objects[i].name, METADATA_NAME) == 0)
                changed.objects[i] = o;
        }
        assert_int_equal(manifest_encode(&changed, &encoded, NULL), 0);
        fd = open(manifest, O_WRONLY | O_TRUNC);
        assert_int_equal(file_write_at(fd, encoded.data, encoded.len, 0), 0);
        close(fd);
        manifest_destroy(m);
        free(object);
        free(manifest);
    }
    source.base = &base;
    source.inherit_vmm = true;
    child = make_ok(&source);
    root = metadata_json(&child);
    template = json_object_get(root, "template");
    assert_string_equal(json_string_value(json_object_get(template, "build_id")),
                        uuid_format(&child, text));
    assert_string_equal(json_string_value(json_object_get(template, "kernel_version")), "6.1");
    assert_string_equal(json_string_value(json_object_get(template, "firecracker_version")),
                        "1.10");
    assert_non_null(json_object_get(root, "context"));
    assert_null(json_object_get(root, "prefetch"));
    assert_null(json_object_get(root, "fs_quiesced"));
    assert_null(json_object_get(root, "filesystem_only"));
    assert_string_equal(json_string_value(json_object_get(
                            json_object_get(json_object_get(root, "thaw"), "vmm"), "kind")),
                        "qemu");
    json_decref(root);
    free(path);
    free(memory);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(generations_of_random_changes),
        TEST(huge_blocks),
        TEST(one_changed_byte_stores_one_block),
        TEST(a_base_in_splinters),
        TEST(images_that_cannot_be),
        TEST(a_damaged_base_is_noticed),
        TEST(an_image_that_changes_under_way),
        TEST(progress_covers_all_images),
        TEST(somebody_elses_objects_stay),
        TEST(the_keys_of_e2b_are_handed_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

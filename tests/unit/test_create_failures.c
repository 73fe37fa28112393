/* SPDX-License-Identifier: Apache-2.0 */

/* Builds that are not made: why, and that nothing is left of them nor in anybody's way touched. */
#include "create_fixture.h"

#include "format/header.h"

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
};

static void sabotage(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct saboteur *s = arg;
    int fd;

    (void)done_bytes;
    (void)total_bytes;
    if (s->done)
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

static bool folder_has(const struct uuid *id, const char *name)
{
    uint64_t size;

    return store_size(store, id, name, &size) == 0;
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

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(images_that_cannot_be),
        TEST(a_damaged_base_is_noticed),
        TEST(an_image_that_changes_under_way),
        TEST(somebody_elses_objects_stay),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

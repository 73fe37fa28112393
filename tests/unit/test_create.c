/* SPDX-License-Identifier: Apache-2.0 */

/* Builds that are made: what they store, and that they are what they were made of. */
#include "create_fixture.h"

#include "format/header.h"
#include "format/json.h"

/* --- what builds are made of, and what they store of it --- */

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

/* --- progress --- */

struct seen {
    uint64_t last_bytes, total_bytes;
};

static void see(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    struct seen *s = arg;

    assert_true(done_bytes >= s->last_bytes);
    s->last_bytes = done_bytes;
    s->total_bytes = total_bytes;
}

static void progress_covers_all_images(void **state)
{
    unsigned char *memory = content_of(MEMORY_BYTES);
    struct seen s = {0};
    struct pack_progress progress = {.report = see, .arg = &s};
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

/* --- metadata --- */

static json_t *metadata_json(const struct uuid *id)
{
    struct buf text CLEANUP_BUF = {0};
    json_t *root = NULL;

    assert_int_equal(store_get(store, id, METADATA_NAME, METADATA_MAX_BYTES, &text, NULL), 0);
    assert_int_equal(json_parse(text.data, text.len, METADATA_NAME, &root, NULL), 0);
    return root;
}

static void overwrite(const struct uuid *id, const char *name, const void *content, size_t len)
{
    struct build_fixture f = {.folder = folder, .id = *id};
    char *path = build_fixture_object(&f, name);
    int fd = open(path, O_WRONLY | O_TRUNC);

    assert_int_equal(file_write_at(fd, content, len, 0), 0);
    close(fd);
    free(path);
}

/* As if the build had been made with these. */
static void replace_metadata(const struct uuid *id, const char *json)
{
    struct manifest *m = manifest_of(id);
    struct manifest changed = *m;
    struct buf encoded CLEANUP_BUF = {0};
    struct manifest_object o;
    struct uuid other;

    /* Under another build's name, to learn what the manifest must say of it. */
    assert_int_equal(uuid_random(&other), 0);
    assert_int_equal(pack_bytes(store, &other, METADATA_NAME, json, strlen(json), &o, NULL), 0);
    for (size_t i = 0; i < changed.object_count; i++) {
        if (strcmp(changed.objects[i].name, METADATA_NAME) == 0)
            changed.objects[i] = o;
    }
    assert_int_equal(manifest_encode(&changed, &encoded, NULL), 0);
    overwrite(id, METADATA_NAME, json, strlen(json));
    overwrite(id, MANIFEST_NAME, encoded.data, encoded.len);
    manifest_destroy(m);
}

/* A text of "template", which is E2B's. */
static const char *template_value(json_t *root, const char *key)
{
    return json_string_value(json_object_get(json_object_get(root, "template"), key));
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
    json_t *root, *vmm;

    (void)state;
    base = make_ok(&source);
    root = metadata_json(&base);
    assert_string_equal(template_value(root, "build_id"), uuid_format(&base, text));
    json_decref(root);

    replace_metadata(&base, inherited);
    source.base = &base;
    source.inherit_vmm = true;
    child = make_ok(&source);
    root = metadata_json(&child);
    assert_string_equal(template_value(root, "build_id"), uuid_format(&child, text));
    assert_string_equal(template_value(root, "kernel_version"), "6.1");
    assert_string_equal(template_value(root, "firecracker_version"), "1.10");
    assert_non_null(json_object_get(root, "context"));
    assert_null(json_object_get(root, "prefetch"));
    assert_null(json_object_get(root, "fs_quiesced"));
    assert_null(json_object_get(root, "filesystem_only"));
    vmm = json_object_get(json_object_get(root, "thaw"), "vmm");
    assert_string_equal(json_string_value(json_object_get(vmm, "kind")), "qemu");
    json_decref(root);
    free(path);
    free(memory);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(generations_of_random_changes),     TEST(huge_blocks),
        TEST(one_changed_byte_stores_one_block), TEST(a_base_in_splinters),
        TEST(progress_covers_all_images),        TEST(the_keys_of_e2b_are_handed_down),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

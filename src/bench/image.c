/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/image.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "base/uuid.h"
#include "format/header.h"
#include "format/manifest.h"
#include "format/metadata.h"
#include "image/image.h"
#include "store/store.h"
#include "thaw/create.h"

#define LAYERS_MAX 16u

static unsigned char *random_memory(uint64_t bytes)
{
    uint64_t seed = 0x9e3779b97f4a7c15u;
    void *map = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (map == MAP_FAILED)
        return NULL;
    for (uint64_t *w = map; w < (uint64_t *)map + bytes / 8; w++) {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        *w = seed;
    }
    return map;
}

/* A build of pages @first, @first + @stride, ... of @image. */
static int build_of_pages(const struct bench_image *image, const char *store, uint64_t first,
                          uint64_t stride, char ret_id[37], struct thaw_error *e)
{
    struct thaw_create_options o = {.opts_size = sizeof(o), .store = store};
    char path[256];
    uint64_t to = 0;
    int r = 0, fd CLEANUP_FD = -1;

    snprintf(path, sizeof(path), "%s.memory", store);
    fd = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    if (fd < 0)
        return err_errno(e, -errno, "writing %s", path);
    if (stride == 1)
        r = file_write_at(fd, image->bytes, image->size_bytes, 0);
    for (uint64_t at = first; stride > 1 && r == 0 && at < image->size_bytes / PAGE_BYTES;
         at += stride, to += PAGE_BYTES)
        r = file_write_at(fd, image->bytes + at * PAGE_BYTES, PAGE_BYTES, to);
    o.memory_path = path;
    r = r < 0 ? err_errno(e, r, "writing %s", path) : thaw_create(&o, ret_id, e);
    unlink(path);
    return r;
}

static int put(struct store *s, struct manifest *m, const char *name, const struct buf *bytes,
               struct thaw_error *e)
{
    struct manifest_object o = {.size_bytes = bytes->len, .uncompressed_bytes = bytes->len};

    snprintf(o.name, sizeof(o.name), "%s", name);
    if (EVP_Digest(bytes->data, bytes->len, o.sha256, NULL, EVP_sha256(), NULL) != 1 ||
        manifest_add(m, &o) < 0)
        return err_set(e, -ENOMEM, "describing %s", name);
    return store_put(s, &m->build, name, bytes->data, bytes->len, e);
}

/* A header whose map takes page i from build i % @layers, and nothing else. */
static int write_patchwork(struct store *s, const struct bench_image *image, unsigned layers,
                           const struct uuid *ids, const struct uuid *self, struct thaw_error *e)
{
    struct map_builder builder CLEANUP_MAP_BUILDER = {0};
    struct header_build builds[LAYERS_MAX] = {0};
    struct map *map CLEANUP_MAP = NULL;
    struct metadata *metadata CLEANUP_METADATA = NULL;
    struct buf header CLEANUP_BUF = {0}, meta CLEANUP_BUF = {0}, text CLEANUP_BUF = {0};
    struct manifest m = {.build = *self};
    struct header h = {
        .version = HEADER_V4,
        .block_bytes = PAGE_BYTES,
        .size_bytes = image->size_bytes,
        .build = *self,
        .base = ids[0],
        .builds = builds,
        .build_count = layers,
    };
    int r = metadata_create(&metadata);

    for (unsigned i = 0; i < layers; i++) {
        builds[i].id = ids[i];
        builds[i].known = true;
    }
    for (uint64_t k = 0; r == 0 && k < image->size_bytes / PAGE_BYTES; k++)
        r = map_builder_add(&builder, 1, (uint16_t)(k % layers), (uint32_t)(k / layers));
    if (r == 0)
        r = map_builder_finish(&builder, &map);
    if (r < 0)
        return err_errno(e, r, "building a map");
    h.map = map;
    r = header_encode(&h, &header, e);
    if (r == 0)
        r = metadata_encode(metadata, &meta, e);
    if (r == 0)
        r = put(s, &m, METADATA_NAME, &meta, e);
    if (r == 0)
        r = put(s, &m, IMAGE_MEMORY ".header", &header, e);
    if (r == 0)
        r = manifest_encode(&m, &text, e);
    if (r == 0)
        r = store_put(s, self, MANIFEST_NAME, text.data, text.len, e);
    free(m.objects);
    return r;
}

static int build_patchwork(struct bench_image *image, const char *store_path, unsigned layers,
                           struct thaw_error *e)
{
    struct store *store CLEANUP_STORE = NULL;
    struct uuid ids[LAYERS_MAX], self;
    int r = uuid_random(&self);

    for (unsigned i = 0; i < layers && r == 0; i++) {
        char id[37];

        r = build_of_pages(image, store_path, i, layers, id, e);
        if (r == 0)
            r = uuid_parse(id, &ids[i]);
    }
    if (r == 0)
        r = store_open(store_path, NULL, false, &store, e);
    if (r == 0)
        r = write_patchwork(store, image, layers, ids, &self, e);
    if (r == 0)
        uuid_format(&self, image->build);
    return r;
}

int bench_image_create(const char *store, uint64_t size_bytes, unsigned layers,
                       struct bench_image *ret, struct thaw_error *e)
{
    struct bench_image image = {.size_bytes = size_bytes, .layers = layers, .store = store};
    unsigned char *bytes = random_memory(size_bytes);
    int r;

    if (!bytes)
        return err_set(e, -ENOMEM, "no memory for an image");
    image.bytes = bytes;
    if (layers == 0)
        r = build_of_pages(&image, store, 0, 1, image.build, e);
    else
        r = build_patchwork(&image, store, layers, e);
    if (r < 0) {
        munmap(bytes, size_bytes);
        return r;
    }
    *ret = image;
    return 0;
}

void bench_image_finish(struct bench_image *image)
{
    munmap((void *)(uintptr_t)image->bytes, image->size_bytes);
}

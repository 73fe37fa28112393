/* SPDX-License-Identifier: Apache-2.0 */
#include "image/create.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "format/header.h"
#include "format/metadata.h"
#include "image/base.h"
#include "image/build.h"
#include "image/create_metadata.h"
#include "image/source.h"
#include "store/store.h"

/* One of the two images. All of it is set before anything is written, but for the header. */
struct new_image {
    const char *name;     /* IMAGE_...; NULL: the build has no such image */
    struct source source; /* owned */
    struct base *base;    /* owned; NULL: none */
    uint64_t block_bytes;
    struct header *header; /* owned */
};

struct creation {
    struct store *store;
    const struct uuid *id;
    const struct build_source *from;
    unsigned header_version;
    struct manifest *base;      /* owned; NULL: none */
    struct new_image images[2]; /* memory, rootfs */
    struct buf snapfile;        /* owned */
    struct manifest manifest;
    uint64_t done_bytes; /* of the images before the one that is packed */
    uint64_t total_bytes;
};

static int note(struct creation *c, const struct manifest_object *object, struct thaw_error *e)
{
    int r = manifest_add(&c->manifest, object);

    return r < 0 ? err_errno(e, r, "noting %s in the manifest", object->name) : 0;
}

static int put(struct creation *c, const char *name, const struct buf *bytes, struct thaw_error *e)
{
    struct manifest_object object;
    int r = pack_bytes(c->store, c->id, name, bytes->data, bytes->len, &object, e);

    return r < 0 ? r : note(c, &object, e);
}

/* Preparing: everything that can be refused before the first object is. */

static int make_header(const struct creation *c, const struct new_image *im,
                       const struct page_set *dirty, const struct page_set *empty,
                       struct header **ret, struct thaw_error *e)
{
    struct header *h CLEANUP_HEADER = NULL;
    int r;

    if (im->base)
        r = header_create_child(base_header(im->base), c->id, im->source.size_bytes, dirty, empty,
                                &h, e);
    else
        r = header_create_base(c->id, im->block_bytes, im->source.size_bytes, dirty, &h, e);
    if (r < 0)
        return r;
    h->version = c->header_version;
    *ret = TAKE_PTR(h);
    return 0;
}

/* The header of an image that is all as in the base: whatever it breaks, the real one would. */
static int rehearse_header(const struct creation *c, const struct new_image *im,
                           struct thaw_error *e)
{
    static const struct page_set none;
    struct header *h CLEANUP_HEADER = NULL;
    struct buf bytes CLEANUP_BUF = {0};
    int r = make_header(c, im, &none, &none, &h, e);

    return r < 0 ? r : header_encode(h, &bytes, e);
}

static int open_base(struct creation *c, struct new_image *im, struct thaw_error *e)
{
    char name[OBJECT_NAME_BYTES], id[UUID_TEXT_BYTES];
    int r;

    if (!c->base || !manifest_find(c->base, build_header_name(im->name, name)))
        return 0;
    r = base_open(c->store, c->base, im->name, &im->base, e);
    if (r < 0)
        err_wrap(e, "the base, %s", uuid_format(&c->base->build, id));
    return r;
}

static int check_size(const struct new_image *im, struct thaw_error *e)
{
    unsigned long long size = im->source.size_bytes, rest = size % im->block_bytes;
    unsigned long long block = im->block_bytes;

    if (size == 0 || rest != 0)
        return err_set(e, -EINVAL,
                       "%s has %llu bytes, which is not a positive multiple of %llu, the size of a "
                       "block%s%s",
                       im->source.path, size, block, size > 0 ? ": pad it with truncate -s %" : "",
                       size == 0             ? ""
                       : block == PAGE_BYTES ? "4096"
                                             : "2M");
    return 0;
}

/* @open_one, when the caller has opened it, or else what is at @path. */
static int take_source(struct source *open_one, const char *path, struct source *ret,
                       struct thaw_error *e)
{
    if (!open_one)
        return source_open(path, ret, e);
    *ret = *open_one;
    *open_one = (struct source){0};
    return 0;
}

static int prepare_memory(struct creation *c, struct new_image *im, struct thaw_error *e)
{
    uint64_t wanted = c->from->block_bytes;
    const struct header *h;
    int r;

    im->name = IMAGE_MEMORY;
    r = take_source(c->from->memory, c->from->memory_path, &im->source, e);
    if (r == 0)
        r = open_base(c, im, e);
    if (r < 0)
        return r;
    h = im->base ? base_header(im->base) : NULL;
    im->block_bytes = h ? h->block_bytes : wanted ? wanted : PAGE_BYTES;
    if (wanted && wanted != im->block_bytes)
        return err_set(e, -EINVAL,
                       "the base has memory in blocks of %llu bytes, not %llu: a layer cannot "
                       "change that",
                       (unsigned long long)im->block_bytes, (unsigned long long)wanted);
    r = check_size(im, e);
    if (r < 0)
        return r;
    if (h && h->size_bytes != im->source.size_bytes)
        return err_set(e, -EINVAL,
                       "%s has %llu bytes, the memory of the base has %llu: it cannot be resized",
                       im->source.path, (unsigned long long)im->source.size_bytes,
                       (unsigned long long)h->size_bytes);
    c->from->metadata->memory_bytes = im->source.size_bytes;
    c->from->metadata->page_bytes = im->block_bytes;
    return rehearse_header(c, im, e);
}

static int prepare_rootfs(struct creation *c, struct new_image *im, struct thaw_error *e)
{
    const struct header *h;
    int r;

    im->name = IMAGE_ROOTFS;
    im->block_bytes = PAGE_BYTES;
    r = take_source(c->from->rootfs, c->from->rootfs_path, &im->source, e);
    if (r == 0)
        r = check_size(im, e);
    if (r == 0)
        r = open_base(c, im, e);
    if (r < 0)
        return r;
    h = im->base ? base_header(im->base) : NULL;
    if (h && (h->block_bytes != PAGE_BYTES || h->size_bytes % PAGE_BYTES != 0))
        return err_set(e, -ENOTSUP,
                       "the disk of the base has %llu bytes in blocks of %llu; layers are made "
                       "over whole blocks of 4096 only",
                       (unsigned long long)h->size_bytes, (unsigned long long)h->block_bytes);
    return rehearse_header(c, im, e);
}

static int prepare_snapfile(struct creation *c, struct thaw_error *e)
{
    const char *path = c->from->snapfile_path;
    int r = file_load(AT_FDCWD, path, SNAPFILE_MAX_BYTES, &c->snapfile);

    if (r == -EFBIG)
        return err_set(e, r, "%s is larger than the %llu bytes that a VMM's state may have", path,
                       (unsigned long long)SNAPFILE_MAX_BYTES);
    return r < 0 ? err_errno(e, r, "reading %s", path) : 0;
}

static int prepare(struct creation *c, struct thaw_error *e)
{
    const struct build_source *from = c->from;
    bool has_memory = from->memory_path || from->memory;
    bool has_rootfs = from->rootfs_path || from->rootfs;
    struct buf text CLEANUP_BUF = {0};
    int r = 0;

    if (!has_memory && !has_rootfs)
        return err_set(e, -EINVAL, "a build needs a memory image or a disk image");
    if (from->block_bytes && from->block_bytes != PAGE_BYTES && from->block_bytes != 2 * MIB)
        return err_set(e, -EINVAL, "memory has blocks of 4096 or 2097152 bytes, not %llu",
                       (unsigned long long)from->block_bytes);
    if (c->header_version != HEADER_V3 && c->header_version != HEADER_V4)
        return err_set(e, -EINVAL, "headers are written as V3 or V4, not V%u", c->header_version);
    if (from->base) {
        r = build_manifest_load(c->store, from->base, &c->base, e);
        if (r < 0) {
            err_wrap(e, "the base");
            return r;
        }
        c->manifest.has_parent = true;
        c->manifest.parent = *from->base;
    }
    if (has_memory)
        r = prepare_memory(c, &c->images[0], e);
    if (r == 0 && has_rootfs)
        r = prepare_rootfs(c, &c->images[1], e);
    if (r == 0 && from->snapfile_path)
        r = prepare_snapfile(c, e);
    if (r == 0)
        r = create_metadata(c->store, c->id, c->base, from->inherit_vmm, from->metadata, e);
    if (r == 0)
        r = metadata_encode(from->metadata, &text, e);
    c->total_bytes = c->images[0].source.size_bytes + c->images[1].source.size_bytes;
    return r;
}

/* Writing. */

static void report(void *arg, uint64_t done_bytes, uint64_t total_bytes)
{
    const struct creation *c = arg;

    (void)total_bytes; /* of the one image */
    c->from->progress->report(c->from->progress->arg, c->done_bytes + done_bytes, c->total_bytes);
}

static int write_image(struct creation *c, struct new_image *im, struct thaw_error *e)
{
    struct pack_progress progress = {.report = report, .arg = c};
    struct pack_input input = {
        .store = c->store,
        .build = c->id,
        .name = im->name,
        .source = &im->source,
        .block_bytes = im->block_bytes,
        .base = im->base,
        .progress = c->from->progress ? &progress : NULL,
    };
    struct pack_result packed CLEANUP_PACK_RESULT = {0};
    int r = pack_image(&input, &packed, e);

    if (r < 0) {
        err_wrap(e, "storing %s", im->source.path);
        return r;
    }
    c->done_bytes += im->source.size_bytes;
    r = note(c, &packed.data, e);
    if (r == 0)
        r = note(c, &packed.sums, e);
    if (r == 0)
        r = make_header(c, im, &packed.dirty, &packed.empty, &im->header, e);
    if (r == 0)
        memcpy(header_find_build(im->header, c->id)->sha256, packed.data.sha256,
               sizeof(packed.data.sha256));
    return r;
}

static int write_header(struct creation *c, const struct new_image *im, struct thaw_error *e)
{
    struct buf bytes CLEANUP_BUF = {0};
    char name[OBJECT_NAME_BYTES];
    int r = header_encode(im->header, &bytes, e);

    return r < 0 ? r : put(c, build_header_name(im->name, name), &bytes, e);
}

static int write_metadata(struct creation *c, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r = metadata_encode(c->from->metadata, &text, e);

    return r < 0 ? r : put(c, METADATA_NAME, &text, e);
}

static int write_manifest(struct creation *c, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r;

    c->manifest.build = *c->id;
    c->manifest.created_s = time(NULL);
    r = manifest_encode(&c->manifest, &text, e);
    if (r == 0)
        r = store_put(c->store, c->id, MANIFEST_NAME, text.data, text.len, e);
    return r;
}

static int write_all(struct creation *c, struct thaw_error *e)
{
    int r = 0;

    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(c->images); i++) {
        if (c->images[i].name)
            r = write_image(c, &c->images[i], e);
    }
    if (r == 0 && c->from->snapfile_path)
        r = put(c, SNAPFILE_NAME, &c->snapfile, e);
    else if (r == 0 && c->from->snapfile)
        r = put(c, SNAPFILE_NAME, c->from->snapfile, e);
    if (r == 0)
        r = write_metadata(c, e);
    for (size_t i = 0; r == 0 && i < ARRAY_SIZE(c->images); i++) {
        if (c->images[i].name)
            r = write_header(c, &c->images[i], e);
    }
    return r == 0 ? write_manifest(c, e) : r;
}

/* What was written of a build that failed goes again; @e keeps why it failed. */
static void discard(const struct creation *c, struct thaw_error *e)
{
    struct thaw_error why = THAW_ERROR_INIT, first = *e;
    char id[UUID_TEXT_BYTES];
    int r = store_build_discard(c->store, c->id, &why);

    if (r < 0 && r != -ENOENT)
        err_set(e, first.code, "%s; what was written of build %s is left: %s", first.text,
                uuid_format(c->id, id), why.text);
}

static void creation_finish(struct creation *c)
{
    for (size_t i = 0; i < ARRAY_SIZE(c->images); i++) {
        base_close(c->images[i].base);
        source_close(&c->images[i].source);
        header_destroy(c->images[i].header);
    }
    manifest_destroy(c->base);
    buf_finish(&c->snapfile);
    free(c->manifest.objects);
}

int build_create(struct store *store, const struct uuid *id, const struct build_source *source,
                 struct thaw_error *e)
{
    struct creation c = {
        .store = store,
        .id = id,
        .from = source,
        .header_version = source->header_version ? source->header_version : HEADER_V4,
    };
    struct thaw_error failure = THAW_ERROR_INIT;
    int r = prepare(&c, &failure);

    if (r == 0) {
        r = write_all(&c, &failure);
        /* -EEXIST: the objects that are there may be somebody else's build. */
        if (r < 0 && r != -EEXIST)
            discard(&c, &failure);
    }
    creation_finish(&c);
    if (source->memory) /* it may not have come to them */
        source_close(source->memory);
    if (source->rootfs)
        source_close(source->rootfs);
    if (r < 0 && e)
        *e = failure;
    return r;
}

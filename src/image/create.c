/* SPDX-License-Identifier: Apache-2.0 */
#include "image/create.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "format/header.h"
#include "format/metadata.h"
#include "image/image.h"
#include "store/store.h"

struct creation {
    struct store *store;
    const struct uuid *id;
    const struct build_source *source;
    struct manifest manifest;
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

/* Files and block devices have a size that can be sought. */
static int open_image(const char *path, int *ret_fd, uint64_t *ret_bytes, struct thaw_error *e)
{
    int fd CLEANUP_FD = open(path, O_RDONLY | O_CLOEXEC);
    struct stat st;
    off_t size;

    if (fd < 0)
        return err_errno(e, -errno, "opening %s", path);
    if (fstat(fd, &st) < 0)
        return err_errno(e, -errno, "opening %s", path);
    size = S_ISREG(st.st_mode) || S_ISBLK(st.st_mode) ? lseek(fd, 0, SEEK_END) : -1;
    if (size < 0)
        return err_set(e, -EINVAL, "%s is neither a file nor a block device", path);
    if (size == 0 || (uint64_t)size % PAGE_BYTES != 0)
        return err_set(e, -EINVAL, "%s has %lld bytes; guest memory is a positive multiple of 4096",
                       path, (long long)size);
    *ret_bytes = (uint64_t)size;
    *ret_fd = TAKE_FD(fd);
    return 0;
}

static int write_memory(struct creation *c, struct header **ret, struct thaw_error *e)
{
    const char *path = c->source->memory_path;
    struct page_set dirty CLEANUP_PAGE_SET = {0};
    struct manifest_object data, sums;
    int fd CLEANUP_FD = -1;
    uint64_t size_bytes = 0;
    int r = open_image(path, &fd, &size_bytes, e);

    if (r < 0)
        return r;
    r = pack_image(c->store, c->id, IMAGE_MEMORY, fd, size_bytes, c->source->progress, &dirty,
                   &data, &sums, e);
    if (r < 0)
        return err_wrap(e, "storing %s", path);
    r = note(c, &data, e);
    if (r == 0)
        r = note(c, &sums, e);
    if (r == 0)
        r = header_create_base(c->id, PAGE_BYTES, size_bytes, &dirty, ret, e);
    if (r < 0)
        return r;
    memcpy(header_find_build(*ret, c->id)->sha256, data.sha256, sizeof(data.sha256));
    c->source->metadata->memory_bytes = size_bytes;
    c->source->metadata->page_bytes = PAGE_BYTES;
    return 0;
}

static int write_snapfile(struct creation *c, struct thaw_error *e)
{
    const char *path = c->source->snapfile_path;
    struct buf bytes CLEANUP_BUF = {0};
    int r;

    if (!path)
        return 0;
    r = file_load(AT_FDCWD, path, SNAPFILE_MAX_BYTES, &bytes);
    if (r < 0)
        return err_errno(e, r, "reading %s", path);
    return put(c, SNAPFILE_NAME, &bytes, e);
}

static int write_metadata(struct creation *c, struct thaw_error *e)
{
    struct buf text CLEANUP_BUF = {0};
    int r = metadata_encode(c->source->metadata, &text, e);

    return r < 0 ? r : put(c, METADATA_NAME, &text, e);
}

static int write_header(struct creation *c, const struct header *h, struct thaw_error *e)
{
    struct buf bytes CLEANUP_BUF = {0};
    int r = header_encode(h, &bytes, e);

    return r < 0 ? r : put(c, IMAGE_MEMORY ".header", &bytes, e);
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

int build_create(struct store *store, const struct uuid *id, const struct build_source *source,
                 struct thaw_error *e)
{
    struct creation c = {.store = store, .id = id, .source = source};
    struct header *header CLEANUP_HEADER = NULL;
    int r = write_memory(&c, &header, e);

    if (r == 0)
        r = write_snapfile(&c, e);
    if (r == 0)
        r = write_metadata(&c, e);
    if (r == 0)
        r = write_header(&c, header, e);
    if (r == 0)
        r = write_manifest(&c, e);
    free(c.manifest.objects);
    return r;
}

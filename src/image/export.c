/* SPDX-License-Identifier: Apache-2.0 */
#include "image/export.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/thread.h"
#include "format/metadata.h"
#include "format/sums.h"
#include "image/create.h"
#include "image/export_file.h"
#include "image/export_plan.h"
#include "image/granules.h"
#include "image/image.h"
#include "image/layout.h"
#include "store/store.h"
#include "thaw/build.h"

/* What is open of one object that an image needs. */
struct export_object {
    struct store_object *data; /* owned; NULL: the map does not refer to it */
    uint64_t *sums;            /* owned; NULL: it has none */
};

struct export_image {
    const char *name;
    struct layout *layout; /* owned */
    struct export_plan plan;
    struct export_object *objects; /* owned; one per build of the header */
    struct export_file *file;      /* borrowed */
};

enum { EXPORT_IMAGES = 2, EXPORT_FILES = THAW_EXPORT_FILES_MAX };

struct export
{
    struct store *store;
    struct manifest *manifest; /* owned */
    int dir_fd;                /* owned */
    bool dir_made;
    struct export_image images[EXPORT_IMAGES];
    size_t image_count;
    struct export_file files[EXPORT_FILES];
    size_t file_count;
    const struct scan_progress *progress;
    uint64_t total_bytes;

    _Atomic(size_t) next; /* [a] relaxed: the group to read next, counted over all images */
    _Atomic(bool) failed; /* [a] relaxed: nobody begins anything more */
    pthread_mutex_t mu;
    uint64_t done_bytes;       /* [m] mu */
    uint64_t unverified_bytes; /* [m] mu */
    struct thaw_error error;   /* [m] mu: the first failure; code 0 without */
};

static void image_finish(struct export_image *image)
{
    for (size_t i = 0; image->objects && i < image->layout->header->build_count; i++) {
        store_object_close(image->objects[i].data);
        free(image->objects[i].sums);
    }
    free(image->objects);
    export_plan_finish(&image->plan);
    layout_destroy(image->layout);
}

static void export_finish(struct export *x, const char *dir, bool keep)
{
    for (size_t i = 0; i < x->file_count; i++)
        export_file_finish(&x->files[i], keep);
    for (size_t i = 0; i < x->image_count; i++)
        image_finish(&x->images[i]);
    if (x->dir_made && !keep)
        rmdir(dir);
    close_fd(&x->dir_fd);
    manifest_destroy(x->manifest);
    pthread_mutex_destroy(&x->mu);
}

/* --- before anything is written --- */

static int open_objects(struct export *x, struct export_image *image, struct thaw_error *e)
{
    const struct layout *l = image->layout;

    image->objects = calloc(l->header->build_count + 1, sizeof(*image->objects));
    if (!image->objects)
        return err_set(e, -ENOMEM, "no memory for the objects of %s", l->name);
    for (size_t i = 0; i < l->header->build_count; i++) {
        const struct layout_object *o = &l->objects[i];
        const struct uuid *build = &l->header->builds[i].id;
        int r;

        if (!o->used)
            continue;
        r = store_object_open(x->store, build, o->data.name, &image->objects[i].data);
        if (r < 0)
            return err_errno(e, r, "opening %s", o->data.name);
        if (o->sums.name[0] != '\0')
            r = granule_sums_load(x->store, build, &o->sums, o->data.uncompressed_bytes,
                                  &image->objects[i].sums, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int open_image(struct export *x, const char *name, struct thaw_error *e)
{
    struct export_image *image = &x->images[x->image_count];
    char header[OBJECT_NAME_BYTES];
    int r;

    if (!manifest_find(x->manifest, build_header_name(name, header)))
        return 0;
    x->image_count++;
    image->name = name;
    r = layout_load(x->store, x->manifest, name, &image->layout, e);
    if (r == 0)
        r = layout_check_readable(image->layout, e);
    if (r == 0)
        r = open_objects(x, image, e);
    if (r == 0)
        r = export_plan_init(&image->plan, image->layout, e);
    x->total_bytes += image->plan.read_bytes;
    return r;
}

static int open_dir(struct export *x, const char *dir, struct thaw_error *e)
{
    static const char *const names[] = {IMAGE_MEMORY, IMAGE_ROOTFS, SNAPFILE_NAME, METADATA_NAME};

    x->dir_made = mkdir(dir, 0777) == 0;
    if (!x->dir_made && errno != EEXIST)
        return err_errno(e, -errno, "making folder %s", dir);
    x->dir_fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (x->dir_fd < 0)
        return err_errno(e, -errno, "opening folder %s", dir);
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        if (faccessat(x->dir_fd, names[i], F_OK, AT_SYMLINK_NOFOLLOW) == 0)
            return err_set(e, -EEXIST,
                           "%s/%s is there already, and nothing is ever overwritten: choose an "
                           "empty folder",
                           dir, names[i]);
    }
    return 0;
}

static int begin_file(struct export *x, const char *name, uint64_t size_bytes, struct thaw_error *e)
{
    struct export_file *f = &x->files[x->file_count++];

    f->fd = -1;
    return export_file_begin(f, x->dir_fd, name, size_bytes, e);
}

static int copy_small(struct export *x, const char *name, size_t max_bytes, struct thaw_error *e)
{
    struct buf bytes CLEANUP_BUF = {0};
    int r;

    if (!manifest_find(x->manifest, name))
        return 0;
    r = build_object_load(x->store, x->manifest, name, max_bytes, &bytes, e);
    if (r == 0)
        r = begin_file(x, name, bytes.len, e);
    if (r < 0)
        return r;
    r = file_write_at(x->files[x->file_count - 1].fd, bytes.data, bytes.len, 0);
    if (r < 0)
        return err_errno(e, r, "writing %s", name);
    x->files[x->file_count - 1].written_bytes = bytes.len;
    return 0;
}

/* --- the crew --- */

static void note_failure(struct export *x, const struct thaw_error *e)
{
    LOCK_SCOPE(&x->mu);

    if (x->error.code == 0)
        x->error = *e;
    atomic_store_explicit(&x->failed, true, memory_order_relaxed);
}

static bool next_group(void *arg, struct scan_range *ret)
{
    struct export *x = arg;
    size_t n = atomic_fetch_add_explicit(&x->next, 1, memory_order_relaxed);

    if (atomic_load_explicit(&x->failed, memory_order_relaxed))
        return false;
    for (size_t i = 0; i < x->image_count; i++) {
        const struct export_image *image = &x->images[i];

        if (n < image->plan.group_count) {
            const struct export_group *g = &image->plan.groups[n];

            ret->object = image->objects[image->plan.pieces[g->first_piece].build].data;
            ret->offset = (struct c_off){g->offset};
            ret->len_bytes = g->len_bytes;
            ret->context = g;
            return true;
        }
        n -= image->plan.group_count;
    }
    return false;
}

static const struct export_image *image_of(const struct export *x, const struct export_group *g)
{
    const struct export_image *image = x->images;

    while (g < image->plan.groups || g >= image->plan.groups + image->plan.group_count)
        image++;
    return image;
}

/* Only the granules that the pieces need: damage elsewhere is no concern of this image. */
static int verify(const struct export_image *image, const struct export_group *g, const char *bytes,
                  uint32_t *ret_granule)
{
    const struct export_piece *pieces = &image->plan.pieces[g->first_piece];
    const uint64_t *sums = image->objects[pieces->build].sums;
    uint64_t next = 0; /* the first granule that is not verified yet */

    for (uint32_t i = 0; sums && i < g->piece_count; i++) {
        uint64_t from = pieces[i].storage * PAGE_BYTES / GRANULE_BYTES;
        uint64_t last =
            ((uint64_t)pieces[i].storage + pieces[i].pages - 1) * PAGE_BYTES / GRANULE_BYTES;

        for (next = MAX(next, from); next <= last; next++) {
            uint64_t at = next * GRANULE_BYTES - g->offset;

            if (sums_of(bytes + at, MIN(GRANULE_BYTES, g->len_bytes - at)) != sums[next]) {
                *ret_granule = (uint32_t)next;
                return -EBADMSG;
            }
        }
    }
    return 0;
}

static int check_group(const struct export_image *image, const struct export_group *g,
                       const char *bytes, int64_t result, struct thaw_error *e)
{
    uint16_t build = image->plan.pieces[g->first_piece].build;
    const struct manifest_object *o = &image->layout->objects[build].data;
    uint32_t granule = 0;
    char id[UUID_TEXT_BYTES];

    uuid_format(&image->layout->header->builds[build].id, id);
    if (result < 0)
        return err_errno(e, (int)result, "build %s: reading %s at byte %llu", id, o->name,
                         (unsigned long long)g->offset);
    if ((uint64_t)result < g->len_bytes)
        return err_set(e, -EBADMSG, "build %s: %s ends at byte %llu, it had %llu", id, o->name,
                       (unsigned long long)g->offset + (unsigned long long)result,
                       (unsigned long long)o->uncompressed_bytes);
    if (verify(image, g, bytes, &granule) < 0)
        return err_set(e, -EBADMSG,
                       "build %s: %s is damaged: granule %u, at byte %llu, does not match its sum",
                       id, o->name, granule, (unsigned long long)(granule * GRANULE_BYTES));
    return 0;
}

static int write_group(const struct export_image *image, const struct export_group *g,
                       const char *bytes, struct thaw_error *e)
{
    for (uint32_t i = 0; i < g->piece_count; i++) {
        const struct export_piece *piece = &image->plan.pieces[g->first_piece + i];
        int r = export_file_write(image->file, bytes + piece->storage * PAGE_BYTES - g->offset,
                                  piece->image * PAGE_BYTES, piece->pages * PAGE_BYTES);

        if (r < 0)
            return err_errno(e, r, "writing %s", image->file->name);
    }
    return 0;
}

static void tell_progress(struct export *x, const struct export_image *image,
                          const struct export_group *g)
{
    LOCK_SCOPE(&x->mu);

    x->done_bytes += g->len_bytes;
    if (!image->objects[image->plan.pieces[g->first_piece].build].sums)
        x->unverified_bytes += g->len_bytes;
    if (x->progress->report)
        x->progress->report(x->progress->arg, x->done_bytes, x->total_bytes);
}

static int take_group(void *arg, const struct scan_range *range, void *bytes, int64_t result)
{
    struct export *x = arg;
    const struct export_group *g = range->context;
    const struct export_image *image = image_of(x, g);
    struct thaw_error e = THAW_ERROR_INIT;
    int r = check_group(image, g, bytes, result, &e);

    /* An object may end within a page; the rest of that page of the image is zeros. */
    if (r == 0 && g->len_bytes % PAGE_BYTES != 0)
        memset((char *)bytes + g->len_bytes, 0, PAGE_BYTES - g->len_bytes % PAGE_BYTES);
    if (r == 0)
        r = write_group(image, g, bytes, &e);
    if (r < 0)
        note_failure(x, &e);
    else
        tell_progress(x, image, g);
    return r;
}

static void work(void *arg)
{
    struct export *x = arg;
    int r = scan_run(&(struct scan_source){.next = next_group, .take = take_group, .arg = x});
    struct thaw_error e = THAW_ERROR_INIT;

    if (r < 0) {
        err_errno(&e, r, "reading the build"); /* does not replace what take_group() has noted */
        note_failure(x, &e);
    }
}

/* --- from end to end --- */

static int write_files(struct export *x, struct thaw_error *e)
{
    int r = 0;

    for (size_t i = 0; i < x->image_count && r == 0; i++) {
        struct export_image *image = &x->images[i];

        image->file = &x->files[x->file_count];
        r = begin_file(x, image->name, image->layout->header->size_bytes, e);
    }
    if (r == 0)
        r = copy_small(x, SNAPFILE_NAME, SNAPFILE_MAX_BYTES, e);
    if (r == 0)
        r = copy_small(x, METADATA_NAME, METADATA_MAX_BYTES, e);
    if (r < 0)
        return r;
    scan_crew(work, x);
    return x->error.code < 0 ? err_set(e, x->error.code, "%s", x->error.text) : 0;
}

static int name_files(struct export *x, const char *dir, struct thaw_error *e)
{
    int r = 0;

    for (size_t i = 0; i < x->file_count && r == 0; i++)
        r = export_file_flush(&x->files[i], e);
    for (size_t i = 0; i < x->file_count && r == 0; i++)
        r = export_file_name(&x->files[i], e);
    if (r == 0 && fsync(x->dir_fd) < 0)
        r = err_errno(e, -errno, "writing folder %s", dir);
    return r;
}

static void describe(const struct export *x, struct thaw_export_info *ret)
{
    *ret = (struct thaw_export_info){
        .file_count = x->file_count,
        .read_bytes = x->done_bytes,
        .unverified_bytes = x->unverified_bytes,
    };
    for (size_t i = 0; i < x->file_count; i++)
        ret->files[i] = (struct thaw_export_file){
            .name = x->files[i].name,
            .size_bytes = x->files[i].size_bytes,
            .written_bytes = x->files[i].written_bytes,
        };
}

int build_export(struct store *store, const struct uuid *id, const char *dir,
                 const struct scan_progress *progress, struct thaw_export_info *ret,
                 struct thaw_error *e)
{
    struct export x = {.store = store, .dir_fd = -1, .progress = progress};
    int r;

    pthread_mutex_init(&x.mu, NULL);
    r = build_manifest_load(store, id, &x.manifest, e);
    if (r == 0)
        r = open_image(&x, IMAGE_MEMORY, e);
    if (r == 0)
        r = open_image(&x, IMAGE_ROOTFS, e);
    if (r == 0)
        r = open_dir(&x, dir, e);
    if (r == 0)
        r = write_files(&x, e);
    if (r == 0)
        r = name_files(&x, dir, e);
    if (r == 0)
        describe(&x, ret);
    export_finish(&x, dir, r == 0);
    return r;
}

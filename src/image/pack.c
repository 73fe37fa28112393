/* SPDX-License-Identifier: Apache-2.0 */
#include "image/pack.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/units.h"
#include "format/sums.h"
#include "store/store.h"

#define PACK_BUFFER_BYTES (4 * MIB) /* read and written at a time; whole granules */

struct packer {
    struct store_writer *data; /* owned */
    EVP_MD_CTX *digest;        /* owned: of everything appended so far */
    char *in;                  /* owned: PACK_BUFFER_BYTES of the image */
    char *out;                 /* owned: pages waiting to be appended */
    size_t out_bytes;
    uint64_t stored_bytes;
    struct buf sums; /* owned: one u64 a granule, host order */
    struct page_set *dirty;
};

bool page_is_zero(const void *page)
{
    const uint64_t *w = page;

    /* Most pages that are not zero show it early; the rest of the test is one vectorised pass. */
    if (w[0] | w[1] | w[PAGE_BYTES / 16])
        return false;
    for (size_t i = 0; i < PAGE_BYTES / 8; i += 64) {
        uint64_t any = 0;

        for (size_t k = 0; k < 64; k++)
            any |= w[i + k];
        if (any)
            return false;
    }
    return true;
}

/* Everything in @out goes out; all but the last call have whole granules. */
static int flush_out(struct packer *p, struct thaw_error *e)
{
    int r;

    for (size_t at = 0; at < p->out_bytes; at += GRANULE_BYTES) {
        uint64_t sum = sums_of(p->out + at, MIN(GRANULE_BYTES, p->out_bytes - at));

        buf_put(&p->sums, &sum, sizeof(sum));
    }
    if (p->sums.failed || EVP_DigestUpdate(p->digest, p->out, p->out_bytes) != 1)
        return err_set(e, -ENOMEM, "no memory for the sums");
    p->stored_bytes += p->out_bytes;
    r = store_writer_append(p->data, p->out, p->out_bytes, e);
    p->out_bytes = 0;
    return r;
}

static int pack_pages(struct packer *p, uint64_t offset, size_t len, struct thaw_error *e)
{
    for (size_t at = 0; at < len; at += PAGE_BYTES) {
        int r;

        if (page_is_zero(p->in + at))
            continue;
        r = page_set_add(p->dirty, (uint32_t)((offset + at) / PAGE_BYTES), 1);
        if (r < 0)
            return err_errno(e, r, "noting a page");
        memcpy(p->out + p->out_bytes, p->in + at, PAGE_BYTES);
        p->out_bytes += PAGE_BYTES;
        if (p->out_bytes == PACK_BUFFER_BYTES) {
            r = flush_out(p, e);
            if (r < 0)
                return r;
        }
    }
    return 0;
}

/* The next stretch of data at or after *@at: its start in *@at, its end returned. 0: no more. */
static uint64_t next_data(int fd, uint64_t *at, uint64_t size_bytes)
{
    off_t start = lseek(fd, (off_t)*at, SEEK_DATA), end;

    if (start < 0 && errno == ENXIO)
        return 0;
    if (start < 0)
        return size_bytes; /* no holes to be told about: all is data */
    end = lseek(fd, start, SEEK_HOLE);
    *at = round_down((uint64_t)start, PAGE_BYTES);
    return end < 0 ? size_bytes : MIN(round_up((uint64_t)end, PAGE_BYTES), size_bytes);
}

static int pack_file(struct packer *p, int fd, uint64_t size_bytes,
                     const struct pack_progress *progress, struct thaw_error *e)
{
    uint64_t at = 0;

    while (at < size_bytes) {
        uint64_t end = next_data(fd, &at, size_bytes);

        if (end == 0 || at >= size_bytes)
            break;
        while (at < end) {
            size_t len = MIN(PACK_BUFFER_BYTES, end - at);
            ssize_t n = file_read_at(fd, p->in, len, at);
            int r;

            if (n != (ssize_t)len)
                return n < 0
                           ? err_errno(e, (int)n, "reading it at byte %llu", (unsigned long long)at)
                           : err_set(e, -ESTALE, "it became shorter while it was read");
            r = pack_pages(p, at, len, e);
            if (r < 0)
                return r;
            at += len;
            if (progress)
                progress->report(progress->arg, at, size_bytes);
        }
    }
    return flush_out(p, e);
}

static void object_describe(struct manifest_object *o, const char *name, uint64_t bytes,
                            const uint8_t *sha256)
{
    *o = (struct manifest_object){
        .size_bytes = bytes,
        .uncompressed_bytes = bytes,
        .codec = CODEC_NONE,
    };
    snprintf(o->name, sizeof(o->name), "%s", name);
    memcpy(o->sha256, sha256, sizeof(o->sha256));
}

int pack_bytes(struct store *store, const struct uuid *build, const char *name, const void *bytes,
               size_t len_bytes, struct manifest_object *ret, struct thaw_error *e)
{
    uint8_t sha256[MANIFEST_SHA256_BYTES];
    int r;

    if (EVP_Digest(bytes, len_bytes, sha256, NULL, EVP_sha256(), NULL) != 1)
        return err_set(e, -ENOMEM, "cannot compute the SHA-256 of %s", name);
    r = store_put(store, build, name, bytes, len_bytes, e);
    if (r == 0)
        object_describe(ret, name, len_bytes, sha256);
    return r;
}

static int write_sums(struct packer *p, struct store *store, const struct uuid *build,
                      const char *name, struct manifest_object *ret, struct thaw_error *e)
{
    uint64_t pages = sums_page_count(p->stored_bytes);
    uint64_t count = sums_granule_count(p->stored_bytes);
    struct buf out CLEANUP_BUF = {0};
    char *page = buf_extend(&out, pages * SUMS_PAGE_BYTES);

    if (!page)
        return err_set(e, -ENOMEM, "no memory for the sums");
    for (uint64_t k = 0; k < pages; k++) {
        uint64_t first = k * SUMS_PER_PAGE;

        sums_page_encode((uint32_t)k, (const uint64_t *)(const void *)p->sums.data + first,
                         MIN(SUMS_PER_PAGE, count - first), page + k * SUMS_PAGE_BYTES);
    }
    return pack_bytes(store, build, name, out.data, out.len, ret, e);
}

static int packer_init(struct packer *p, struct store *store, const struct uuid *build,
                       const char *name, struct thaw_error *e)
{
    p->in = aligned_alloc(PAGE_BYTES, PACK_BUFFER_BYTES);
    p->out = aligned_alloc(PAGE_BYTES, PACK_BUFFER_BYTES);
    p->digest = EVP_MD_CTX_new();
    if (!p->in || !p->out || !p->digest || EVP_DigestInit_ex(p->digest, EVP_sha256(), NULL) != 1)
        return err_set(e, -ENOMEM, "no memory to pack %s", name);
    return store_writer_open(store, build, name, &p->data, e);
}

static void packer_finish(struct packer *p)
{
    store_writer_close(p->data);
    EVP_MD_CTX_free(p->digest);
    free(p->in);
    free(p->out);
    buf_finish(&p->sums);
}

int pack_image(struct store *store, const struct uuid *build, const char *name, int fd,
               uint64_t size_bytes, const struct pack_progress *progress,
               struct page_set *ret_dirty, struct manifest_object *ret_data,
               struct manifest_object *ret_sums, struct thaw_error *e)
{
    struct packer p = {.dirty = ret_dirty};
    uint8_t sha256[MANIFEST_SHA256_BYTES];
    char sums_name[OBJECT_NAME_BYTES];
    int r = packer_init(&p, store, build, name, e);

    snprintf(sums_name, sizeof(sums_name), "%s.sums", name);
    if (r == 0)
        r = pack_file(&p, fd, size_bytes, progress, e);
    if (r == 0 && EVP_DigestFinal_ex(p.digest, sha256, NULL) != 1)
        r = err_set(e, -ENOMEM, "cannot compute the SHA-256 of %s", name);
    if (r == 0)
        r = store_writer_commit(p.data, e);
    if (r == 0)
        r = write_sums(&p, store, build, sums_name, ret_sums, e);
    if (r == 0) {
        object_describe(ret_data, name, p.stored_bytes, sha256);
        memcpy(ret_data->sums, sums_name, sizeof(sums_name));
    }
    packer_finish(&p);
    return r;
}

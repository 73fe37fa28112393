/* SPDX-License-Identifier: Apache-2.0 */
#include "image/pack.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"
#include "format/header.h"
#include "image/base.h"
#include "image/sink.h"
#include "image/source.h"
#include "store/store.h"

/*
 * Theory of operation
 *
 *     the caller         workers               the caller           hasher and writer
 *     finds data   -->   read the image,  -->  notes the sets, -->  SHA-256 | store
 *     (holes are         look for zeros,       copies dirty         (sink.c)
 *     skipped)           compare with base     blocks in order
 *
 * The data of the image is cut into batches, at multiples of BATCH_BYTES. They wait in a ring: the
 * caller assigns batch n to ring[n % size] in the order of the image, any worker takes the next one
 * that nobody has, and the caller packs them in order again, waiting for the oldest:
 *
 *     packed <= taken <= assigned <= packed + ring_size
 *
 * A batch belongs to the caller until it is assigned, then to the worker that takes it, and to the
 * caller again when it is done. Memory is bounded by the ring and by the sink's buffers, whatever
 * the size of the image; whoever is ahead sleeps. What is between two batches is a hole.
 *
 * A failure of a worker ends the work of all; the first one is reported. The object that was begun
 * is given up with the sink, and never exists.
 */

#define BATCH_BYTES     BASE_COMPARE_MAX_BYTES /* compared at once; the largest block */
#define BATCH_BLOCKS    (BATCH_BYTES / PAGE_BYTES)
#define PIECE_BYTES     (256 * KIB)
#define WORKERS_MAX     8
#define READAHEAD_BYTES (16 * MIB) /* asked of the kernel ahead of the batch that is assigned */

/* More ranges than this cannot be mapped by a header that readers take: a mapping has 40 bytes. */
#define RANGES_MAX (HEADER_BLOCK_MAX_BYTES / 40)

struct batch {
    uint64_t offset; /* of the image */
    size_t len_bytes;
    char *data; /* owned: BATCH_BYTES */
    enum block_fate fates[BATCH_BLOCKS];
    bool done; /* [m] pack.mu */
};

struct packing {
    const struct pack_input *in;
    struct pack_result *result; /* caller only */
    struct sink *sink;          /* owned; caller only */
    struct batch *ring;         /* owned: ring_size */
    size_t ring_size;
    uint64_t found_to;  /* caller only: end of the last batch that was assigned */
    uint64_t packed_to; /* caller only: end of the last batch that was packed */
    pthread_t workers[WORKERS_MAX];
    size_t worker_count;

    pthread_mutex_t mu;
    pthread_cond_t more;       /* assigned has grown, or it is over */
    pthread_cond_t done;       /* a batch is done, or failed is set */
    uint64_t assigned;         /* [m] mu; the caller writes */
    uint64_t taken;            /* [m] mu */
    uint64_t packed;           /* caller only */
    bool over;                 /* [m] mu: workers are to end */
    bool failed;               /* [m] mu */
    struct thaw_error failure; /* [m] mu: the first one, once failed */
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

static bool block_is_zero(const char *block, uint64_t block_bytes)
{
    for (uint64_t at = 0; at < block_bytes; at += PAGE_BYTES) {
        if (!page_is_zero(block + at))
            return false;
    }
    return true;
}

/* Workers. */

/* Reads in pieces that are looked at while they are in the core's cache. */
static int examine(const struct pack_input *in, struct batch *b, struct base_reader *reader,
                   struct thaw_error *e)
{
    enum block_fate data_fate = in->base ? BLOCK_SAME : BLOCK_DIRTY;
    size_t piece_bytes = MAX(PIECE_BYTES, in->block_bytes);

    for (size_t piece = 0; piece < b->len_bytes; piece += piece_bytes) {
        size_t end = MIN(piece + piece_bytes, b->len_bytes);
        int r = source_read(in->source, b->data + piece, end - piece, b->offset + piece, e);

        if (r < 0)
            return r;
        for (size_t at = piece; at < end; at += in->block_bytes)
            b->fates[at / in->block_bytes] =
                block_is_zero(b->data + at, in->block_bytes) ? BLOCK_ZERO : data_fate;
    }
    if (!in->base)
        return 0;
    return base_compare(reader, b->offset, b->data, b->len_bytes, in->block_bytes, b->fates, e);
}

static void fail(struct packing *p, const struct thaw_error *e)
{
    LOCK_SCOPE(&p->mu);

    if (!p->failed)
        p->failure = *e;
    p->failed = p->over = true;
    pthread_cond_broadcast(&p->more);
    pthread_cond_signal(&p->done);
}

static struct batch *take_batch(struct packing *p)
{
    LOCK_SCOPE(&p->mu);

    while (!p->over && p->taken == p->assigned)
        pthread_cond_wait(&p->more, &p->mu);
    return p->over ? NULL : &p->ring[p->taken++ % p->ring_size];
}

static void finish_batch(struct packing *p, struct batch *b)
{
    LOCK_SCOPE(&p->mu);

    b->done = true;
    pthread_cond_signal(&p->done);
}

static void *work(void *arg)
{
    struct packing *p = arg;
    struct thaw_error e = THAW_ERROR_INIT;
    struct base_reader *reader = NULL;
    struct batch *b;
    int r = p->in->base ? base_reader_create(p->in->base, &reader, &e) : 0;

    while (r == 0 && (b = take_batch(p))) {
        r = examine(p->in, b, reader, &e);
        if (r == 0)
            finish_batch(p, b);
    }
    if (r < 0)
        fail(p, &e);
    base_reader_destroy(reader);
    return NULL;
}

/* The caller. */

/* The next batch of data; false at the end. */
static bool find_batch(struct packing *p, struct batch *b)
{
    uint64_t start, end;

    if (!source_next_data(p->in->source, p->found_to, &start, &end))
        return false;
    b->offset = MAX(p->found_to, round_down(start, p->in->block_bytes));
    end = MIN(round_up(end, p->in->block_bytes), p->in->source->size_bytes);
    end = MIN(end, round_down(b->offset, BATCH_BYTES) + BATCH_BYTES);
    b->len_bytes = end - b->offset;
    p->found_to = end;
    return true;
}

/* Fills the ring; false when all data of the image is assigned. */
static bool assign_batches(struct packing *p)
{
    while (p->assigned - p->packed < p->ring_size) {
        struct batch *b = &p->ring[p->assigned % p->ring_size];

        if (!find_batch(p, b))
            return false;
        source_will_read(p->in->source, p->found_to + READAHEAD_BYTES - BATCH_BYTES, BATCH_BYTES);
        mutex_lock(&p->mu);
        b->done = false;
        p->assigned++;
        pthread_cond_signal(&p->more);
        mutex_unlock(&p->mu);
    }
    return true;
}

static int wait_for_batch(struct packing *p, const struct batch *b, struct thaw_error *e)
{
    LOCK_SCOPE(&p->mu);

    while (!p->failed && !b->done)
        pthread_cond_wait(&p->done, &p->mu);
    if (p->failed && e)
        *e = p->failure;
    return p->failed ? p->failure.code : 0;
}

static int add_range(struct page_set *set, uint64_t offset, uint64_t len_bytes,
                     struct thaw_error *e)
{
    int r = page_set_add(set, (uint32_t)(offset / PAGE_BYTES), (uint32_t)(len_bytes / PAGE_BYTES));

    if (r < 0)
        return err_errno(e, r, "noting a block");
    if (set->count > RANGES_MAX)
        return err_set(e, -EFBIG,
                       "it is too fragmented: more than %llu changed ranges do not fit into a "
                       "header; use a larger block size, or make a build without a base",
                       (unsigned long long)RANGES_MAX);
    return 0;
}

/* What of these zeros was not zeros before. */
static int add_zeros(struct packing *p, uint64_t offset, uint64_t len_bytes, struct thaw_error *e)
{
    uint64_t end = offset + len_bytes, n;

    for (; p->in->base && offset < end; offset += n) {
        bool was_zero = base_extent_is_zero(p->in->base, offset, &n);
        int r;

        n = MIN(n, end - offset);
        r = was_zero ? 0 : add_range(&p->result->empty, offset, n, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int pack_blocks(struct packing *p, const struct batch *b, size_t at, size_t len_bytes,
                       enum block_fate fate, struct thaw_error *e)
{
    int r;

    if (fate == BLOCK_ZERO)
        return add_zeros(p, b->offset + at, len_bytes, e);
    if (fate == BLOCK_SAME)
        return 0;
    r = add_range(&p->result->dirty, b->offset + at, len_bytes, e);
    return r < 0 ? r : sink_put(p->sink, b->data + at, len_bytes, e);
}

/* The hole before the batch, then its blocks, as many of one fate as there are at a time. */
static int pack_batch(struct packing *p, const struct batch *b, struct thaw_error *e)
{
    uint64_t block_bytes = p->in->block_bytes;
    int r = add_zeros(p, p->packed_to, b->offset - p->packed_to, e);
    size_t at = 0;

    while (r == 0 && at < b->len_bytes) {
        enum block_fate fate = b->fates[at / block_bytes];
        size_t end = at + block_bytes;

        while (end < b->len_bytes && b->fates[end / block_bytes] == fate)
            end += block_bytes;
        r = pack_blocks(p, b, at, end - at, fate, e);
        at = end;
    }
    p->packed_to = b->offset + b->len_bytes;
    return r;
}

static int pack_all(struct packing *p, struct thaw_error *e)
{
    const struct pack_progress *progress = p->in->progress;
    uint64_t size_bytes = p->in->source->size_bytes;

    while (assign_batches(p) || p->packed < p->assigned) {
        struct batch *b = &p->ring[p->packed % p->ring_size];
        int r = wait_for_batch(p, b, e);

        if (r == 0)
            r = pack_batch(p, b, e);
        if (r < 0)
            return r;
        p->packed++;
        if (progress)
            progress->report(progress->arg, p->packed_to, size_bytes);
    }
    return add_zeros(p, p->packed_to, size_bytes - p->packed_to, e);
}

/* Workers wait for the disk about as long as they compute. */
static size_t count_workers(uint64_t size_bytes)
{
    long cores = sysconf(_SC_NPROCESSORS_ONLN);
    uint64_t batches = div_round_up(size_bytes, BATCH_BYTES);

    return MIN(batches, MIN(WORKERS_MAX, 2 * (uint64_t)MAX(cores, 1)));
}

static int start(struct packing *p, struct thaw_error *e)
{
    size_t workers = count_workers(p->in->source->size_bytes);

    p->ring_size = 2 * workers;
    p->ring = calloc(p->ring_size, sizeof(*p->ring));
    if (!p->ring)
        return err_set(e, -ENOMEM, "no memory to pack %s", p->in->name);
    for (size_t i = 0; i < p->ring_size; i++) {
        p->ring[i].data = aligned_alloc(PAGE_BYTES, BATCH_BYTES);
        if (!p->ring[i].data)
            return err_set(e, -ENOMEM, "no memory to pack %s", p->in->name);
    }
    for (; p->worker_count < workers; p->worker_count++) {
        int r = thread_start(&p->workers[p->worker_count], "thaw-pack", work, p);

        if (r < 0)
            return err_errno(e, r, "starting a thread");
    }
    source_will_read(p->in->source, 0, READAHEAD_BYTES);
    return sink_create(p->in->store, p->in->build, p->in->name, &p->sink, e);
}

static void stop_workers(struct packing *p)
{
    mutex_lock(&p->mu);
    p->over = true;
    pthread_cond_broadcast(&p->more);
    mutex_unlock(&p->mu);
    for (size_t i = 0; i < p->worker_count; i++)
        thread_join(p->workers[i]);
}

int pack_image(const struct pack_input *in, struct pack_result *ret, struct thaw_error *e)
{
    struct packing p = {.in = in, .result = ret};
    int r;

    pthread_mutex_init(&p.mu, NULL);
    pthread_cond_init(&p.more, NULL);
    pthread_cond_init(&p.done, NULL);
    r = start(&p, e);
    if (r == 0)
        r = pack_all(&p, e);
    stop_workers(&p);
    if (r == 0)
        r = source_check_unchanged(in->source, e);
    if (r == 0)
        r = sink_finish(p.sink, &ret->data, &ret->sums, e);
    sink_destroy(p.sink);
    for (size_t i = 0; p.ring && i < p.ring_size; i++)
        free(p.ring[i].data);
    free(p.ring);
    pthread_cond_destroy(&p.done);
    pthread_cond_destroy(&p.more);
    pthread_mutex_destroy(&p.mu);
    return r;
}

void pack_result_finish(struct pack_result *r)
{
    page_set_finish(&r->dirty);
    page_set_finish(&r->empty);
}

int pack_bytes(struct store *store, const struct uuid *build, const char *name, const void *bytes,
               size_t len_bytes, struct manifest_object *ret, struct thaw_error *e)
{
    struct manifest_object object = {
        .size_bytes = len_bytes, .uncompressed_bytes = len_bytes, .codec = CODEC_NONE};
    int r;

    snprintf(object.name, sizeof(object.name), "%s", name);
    if (EVP_Digest(bytes, len_bytes, object.sha256, NULL, EVP_sha256(), NULL) != 1)
        return err_set(e, -ENOMEM, "cannot compute the SHA-256 of %s", name);
    r = store_put(store, build, name, bytes, len_bytes, e);
    if (r == 0)
        *ret = object;
    return r;
}

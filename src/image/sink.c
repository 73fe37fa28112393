/* SPDX-License-Identifier: Apache-2.0 */
#include "image/sink.h"

#include <errno.h>
#include <openssl/evp.h>
#include <stdio.h>
#include <string.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/thread.h"
#include "base/units.h"
#include "format/manifest.h"
#include "format/sums.h"
#include "image/pack.h"
#include "store/store.h"

/*
 * Buffer i of the object is ring[i % SINK_BUFFERS]. Three counters say where everybody is:
 *
 *     hashed, written <= filled <= MIN(hashed, written) + SINK_BUFFERS
 *
 * Only the creator advances filled, only the hasher hashed, only the writer written. Whoever fails
 * first leaves its error; then all stop.
 */

#define SINK_BUFFER_BYTES (2 * MIB) /* what one write carries; whole granules */
#define SINK_BUFFERS      4

struct sink_buffer {
    char *data; /* owned */
    size_t len_bytes;
};

struct sink {
    struct store *store;         /* borrowed */
    struct store_writer *writer; /* owned; writing thread only, until it has ended */
    EVP_MD_CTX *digest;          /* owned; hashing thread only, until it has ended */
    struct uuid build;
    char name[OBJECT_NAME_BYTES];
    struct sink_buffer ring[SINK_BUFFERS];
    size_t current_bytes; /* creator only: in ring[filled], which is not handed over yet */
    uint64_t put_bytes;   /* creator only: handed over */
    struct buf sums;      /* owned, creator only: one u64 a granule, host order */
    pthread_t hashing, writing;
    bool hashing_started, writing_started;

    pthread_mutex_t mu;
    pthread_cond_t more;       /* filled has grown, or it is over */
    pthread_cond_t room;       /* hashed or written has grown, or it is over */
    uint64_t filled;           /* [m] mu */
    uint64_t hashed;           /* [m] mu */
    uint64_t written;          /* [m] mu */
    bool ended;                /* [m] mu: filled does not grow any more */
    bool failed;               /* [m] mu */
    struct thaw_error failure; /* [m] mu: the first one, once failed */
};

static void fail(struct sink *s, const struct thaw_error *e)
{
    LOCK_SCOPE(&s->mu);

    if (!s->failed)
        s->failure = *e;
    s->failed = true;
    pthread_cond_broadcast(&s->more);
    pthread_cond_broadcast(&s->room);
}

/* The next buffer of a thread that has done @*done; NULL when there will be none. */
static const struct sink_buffer *next_buffer(struct sink *s, const uint64_t *done)
{
    LOCK_SCOPE(&s->mu);

    while (!s->failed && !s->ended && *done == s->filled)
        pthread_cond_wait(&s->more, &s->mu);
    if (s->failed || *done == s->filled)
        return NULL;
    return &s->ring[*done % SINK_BUFFERS];
}

static void finish_buffer(struct sink *s, uint64_t *done)
{
    LOCK_SCOPE(&s->mu);

    (*done)++;
    pthread_cond_signal(&s->room);
}

static void *hash_buffers(void *arg)
{
    struct sink *s = arg;
    const struct sink_buffer *b;

    while ((b = next_buffer(s, &s->hashed))) {
        if (EVP_DigestUpdate(s->digest, b->data, b->len_bytes) != 1) {
            struct thaw_error e = THAW_ERROR_INIT;

            err_set(&e, -ENOMEM, "cannot compute the SHA-256 of %s", s->name);
            fail(s, &e);
            break;
        }
        finish_buffer(s, &s->hashed);
    }
    return NULL;
}

static void *write_buffers(void *arg)
{
    struct sink *s = arg;
    const struct sink_buffer *b;

    while ((b = next_buffer(s, &s->written))) {
        struct thaw_error e = THAW_ERROR_INIT;

        if (store_writer_append(s->writer, b->data, b->len_bytes, &e) < 0) {
            fail(s, &e);
            break;
        }
        finish_buffer(s, &s->written);
    }
    return NULL;
}

static int start_threads(struct sink *s, struct thaw_error *e)
{
    int r = thread_start(&s->hashing, "thaw-hash", hash_buffers, s);

    s->hashing_started = r == 0;
    if (r == 0) {
        r = thread_start(&s->writing, "thaw-write", write_buffers, s);
        s->writing_started = r == 0;
    }
    return r < 0 ? err_errno(e, r, "starting a thread") : 0;
}

/* The threads finish what they have, unless something failed, and are gone. */
static void end_threads(struct sink *s)
{
    mutex_lock(&s->mu);
    s->ended = true;
    pthread_cond_broadcast(&s->more);
    mutex_unlock(&s->mu);
    if (s->hashing_started)
        thread_join(s->hashing);
    if (s->writing_started)
        thread_join(s->writing);
    s->hashing_started = s->writing_started = false;
}

int sink_create(struct store *store, const struct uuid *build, const char *name, struct sink **ret,
                struct thaw_error *e)
{
    struct sink *s CLEANUP_SINK = calloc(1, sizeof(*s));
    bool complete;
    int r;

    if (!s)
        return err_set(e, -ENOMEM, "no memory to pack %s", name);
    pthread_mutex_init(&s->mu, NULL);
    pthread_cond_init(&s->more, NULL);
    pthread_cond_init(&s->room, NULL);
    s->store = store;
    s->build = *build;
    snprintf(s->name, sizeof(s->name), "%s", name);
    s->digest = EVP_MD_CTX_new();
    complete = s->digest && EVP_DigestInit_ex(s->digest, EVP_sha256(), NULL) == 1;
    for (size_t i = 0; i < SINK_BUFFERS; i++) {
        s->ring[i].data = aligned_alloc(PAGE_BYTES, SINK_BUFFER_BYTES);
        complete = complete && s->ring[i].data;
    }
    if (!complete)
        return err_set(e, -ENOMEM, "no memory to pack %s", name);
    r = store_writer_open(store, build, name, &s->writer, e);
    if (r == 0)
        r = start_threads(s, e);
    if (r == 0)
        *ret = TAKE_PTR(s);
    return r;
}

void sink_destroy(struct sink *s)
{
    struct thaw_error given_up = {.code = -ECANCELED, .text = "given up"};

    if (!s)
        return;
    fail(s, &given_up);
    end_threads(s);
    store_writer_close(s->writer);
    EVP_MD_CTX_free(s->digest);
    for (size_t i = 0; i < SINK_BUFFERS; i++)
        free(s->ring[i].data);
    buf_finish(&s->sums);
    pthread_cond_destroy(&s->room);
    pthread_cond_destroy(&s->more);
    pthread_mutex_destroy(&s->mu);
    free(s);
}

static int failure_locked(const struct sink *s, struct thaw_error *e)
{
    if (s->failed && e)
        *e = s->failure;
    return s->failed ? s->failure.code : 0;
}

/* Makes ring[filled] free to be written to. */
static int wait_for_room(struct sink *s, struct thaw_error *e)
{
    LOCK_SCOPE(&s->mu);

    while (!s->failed && s->filled - MIN(s->hashed, s->written) == SINK_BUFFERS)
        pthread_cond_wait(&s->room, &s->mu);
    return failure_locked(s, e);
}

/* The sums are taken here: the bytes have just been copied, and are in this core's cache. */
static int hand_over(struct sink *s, struct thaw_error *e)
{
    struct sink_buffer *b = &s->ring[s->filled % SINK_BUFFERS];

    for (size_t at = 0; at < s->current_bytes; at += GRANULE_BYTES) {
        uint64_t sum = sums_of(b->data + at, MIN(GRANULE_BYTES, s->current_bytes - at));

        buf_put(&s->sums, &sum, sizeof(sum));
    }
    if (s->sums.failed)
        return err_set(e, -ENOMEM, "no memory for the sums of %s", s->name);
    b->len_bytes = s->current_bytes;
    s->put_bytes += s->current_bytes;
    s->current_bytes = 0;
    mutex_lock(&s->mu);
    s->filled++;
    pthread_cond_broadcast(&s->more);
    mutex_unlock(&s->mu);
    return 0;
}

int sink_put(struct sink *s, const void *bytes, size_t len_bytes, struct thaw_error *e)
{
    const char *from = bytes;

    while (len_bytes > 0) {
        size_t len = MIN(len_bytes, SINK_BUFFER_BYTES - s->current_bytes);
        int r = s->current_bytes == 0 ? wait_for_room(s, e) : 0;

        if (r < 0)
            return r;
        memcpy(s->ring[s->filled % SINK_BUFFERS].data + s->current_bytes, from, len);
        s->current_bytes += len;
        from += len;
        len_bytes -= len;
        if (s->current_bytes == SINK_BUFFER_BYTES)
            r = hand_over(s, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int write_sums(struct sink *s, const char *name, struct manifest_object *ret,
                      struct thaw_error *e)
{
    uint64_t pages = sums_page_count(s->put_bytes);
    uint64_t count = sums_granule_count(s->put_bytes);
    const uint64_t *sums = (const uint64_t *)(const void *)s->sums.data;
    struct buf out CLEANUP_BUF = {0};
    char *page = buf_extend(&out, pages * SUMS_PAGE_BYTES);

    if (!page)
        return err_set(e, -ENOMEM, "no memory for the sums");
    for (uint64_t k = 0; k < pages; k++) {
        uint64_t first = k * SUMS_PER_PAGE;

        sums_page_encode((uint32_t)k, sums + first, MIN(SUMS_PER_PAGE, count - first),
                         page + k * SUMS_PAGE_BYTES);
    }
    return pack_bytes(s->store, &s->build, name, out.data, out.len, ret, e);
}

int sink_finish(struct sink *s, struct manifest_object *ret_data, struct manifest_object *ret_sums,
                struct thaw_error *e)
{
    struct manifest_object data = {.codec = CODEC_NONE};
    int r = s->current_bytes > 0 ? hand_over(s, e) : 0;

    if (r < 0)
        return r;
    end_threads(s);
    r = failure_locked(s, e); /* no thread is left to change it */
    if (r < 0)
        return r;
    if (EVP_DigestFinal_ex(s->digest, data.sha256, NULL) != 1)
        return err_set(e, -ENOMEM, "cannot compute the SHA-256 of %s", s->name);
    r = store_writer_commit(s->writer, e);
    if (r < 0)
        return r;
    data.size_bytes = data.uncompressed_bytes = s->put_bytes;
    memcpy(data.name, s->name, sizeof(data.name));
    snprintf(data.sums, sizeof(data.sums), "%.*s.sums", OBJECT_NAME_BYTES - 6, s->name);
    r = write_sums(s, data.sums, ret_sums, e);
    if (r == 0)
        *ret_data = data;
    return r;
}

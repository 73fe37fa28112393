/* SPDX-License-Identifier: Apache-2.0 */

/* All I/O engines must do the same: every test here runs on each. */
#include "kernel/io.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/error.h"
#include "base/file.h"
#include "base/thread.h"
#include "base/units.h"
#include "scratch.h"

#define FILE_BYTES (3 * MIB + 1234)
#define READS      400u

struct fixture {
    enum io_kind kind;
    struct io_engine *io;
    struct io_engine *behind; /* of a direct engine */
    char *folder;
    int dir;
    unsigned char *content;
};

/* Collects results; done() runs on engine threads. */
struct collector {
    pthread_mutex_t mu;
    pthread_cond_t changed;
    unsigned done;
    _Atomic(unsigned) direct; /* of these, on the thread of a direct engine */
};

struct read {
    struct io_request io;
    struct collector *to;
    ssize_t result;
    void *buf;
    struct iovec pieces[2];
    bool direct;            /* done() was called on the thread of a direct engine */
    unsigned direct_before; /* how many of these were, soon after this one was submitted */
};

static void collect(struct io_request *io, ssize_t result)
{
    struct read *r = container_of(io, struct read, io);

    char thread[16];

    r->result = result;
    pthread_getname_np(pthread_self(), thread, sizeof(thread));
    r->direct = strcmp(thread, "thaw-aio") == 0;
    r->to->direct += r->direct;
    mutex_lock(&r->to->mu);
    r->to->done++;
    pthread_cond_signal(&r->to->changed);
    mutex_unlock(&r->to->mu);
}

static void wait_for(struct collector *c, unsigned count)
{
    mutex_lock(&c->mu);
    while (c->done < count)
        pthread_cond_wait(&c->changed, &c->mu);
    mutex_unlock(&c->mu);
}

#define COLLECTOR_INIT                                                                             \
    {                                                                                              \
        PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, 0, 0                                  \
    }

static int create_engine(struct fixture *f, struct thaw_error *e)
{
    if (f->kind != IO_KIND_DIRECT)
        return io_engine_create(f->kind, &f->io, e);
    assert_int_equal(io_engine_create(IO_KIND_AUTO, &f->behind, e), 0);
    return io_direct_create(f->behind, &f->io);
}

static int set_up(void **state)
{
    struct fixture *f = *state;
    struct thaw_error e = THAW_ERROR_INIT;
    int fd, r;

    r = create_engine(f, &e);
    if (r < 0 && f->kind != IO_KIND_POOL) {
        print_message("%s\n", e.text);
        f->io = NULL;
        return 0;
    }
    assert_int_equal(r, 0);
    assert_int_equal(io_engine_kind(f->io), f->kind);
    f->folder = scratch_make();
    f->dir = open(f->folder, O_RDONLY | O_DIRECTORY);
    f->content = malloc(FILE_BYTES);
    for (size_t i = 0; i < FILE_BYTES; i++)
        f->content[i] = (unsigned char)(i * 2654435761u >> 13);
    fd = openat(f->dir, "file", O_WRONLY | O_CREAT, 0600);
    assert_int_equal(file_write_at(fd, f->content, FILE_BYTES, 0), 0);
    close(fd);
    return 0;
}

static int tear_down(void **state)
{
    struct fixture *f = *state;

    if (!f->io)
        return 0;
    io_engine_destroy(f->io);
    io_engine_destroy(f->behind);
    close(f->dir);
    free(f->content);
    scratch_remove(f->folder);
    return 0;
}

static struct fixture *fixture(void **state)
{
    struct fixture *f = *state;

    if (!f->io)
        skip();
    return f;
}

static void submit_read(struct fixture *f, struct read *r, int fd, uint64_t offset, size_t len)
{
    r->buf = aligned_alloc(PAGE_BYTES, round_up(len, PAGE_BYTES));
    r->io = (struct io_request){
        .op = IO_READ,
        .priority = offset / PAGE_BYTES % 3 ? IO_DEMAND : IO_BACKGROUND,
        .fd = fd,
        .buf = r->buf,
        .len_bytes = len,
        .offset = offset,
        .done = collect,
    };
    io_submit(f->io, &r->io);
}

static void many_reads_return_the_right_bytes(void **state)
{
    struct fixture *f = fixture(state);
    struct collector c = COLLECTOR_INIT;
    struct read *reads = calloc(READS, sizeof(*reads));
    int fd = openat(f->dir, "file", O_RDONLY);

    /* More than the ring holds, and more background ones than may be under way. */
    for (unsigned i = 0; i < READS; i++) {
        reads[i].to = &c;
        submit_read(f, &reads[i], fd, i * 7919 % (FILE_BYTES - 70000), 1 + i * 173 % 70000);
    }
    wait_for(&c, READS);
    for (unsigned i = 0; i < READS; i++) {
        assert_int_equal(reads[i].result, (ssize_t)reads[i].io.len_bytes);
        assert_memory_equal(reads[i].buf, f->content + reads[i].io.offset, reads[i].io.len_bytes);
        free(reads[i].buf);
    }
    free(reads);
    close(fd);
}

/* In two pieces, the second one before the first. */
static void submit_pieces(struct fixture *f, struct read *r, int fd, uint64_t offset)
{
    char *buf = r->buf = aligned_alloc(PAGE_BYTES, 64 * KIB);

    r->pieces[0] = (struct iovec){buf + 48 * KIB, 16 * KIB};
    r->pieces[1] = (struct iovec){buf, 48 * KIB};
    r->io = (struct io_request){
        .op = IO_READ,
        .fd = fd,
        .iov = r->pieces,
        .iov_count = 2,
        .len_bytes = 64 * KIB,
        .offset = offset,
        .done = collect,
    };
    io_submit(f->io, &r->io);
}

static void check_pieces(const struct fixture *f, const struct read *r)
{
    const char *buf = r->buf;

    assert_int_equal(r->result, 64 * KIB);
    assert_memory_equal(buf + 48 * KIB, f->content + r->io.offset, 16 * KIB);
    assert_memory_equal(buf, f->content + r->io.offset + 16 * KIB, 48 * KIB);
}

/* That of its own folder, past the page cache, with nothing of it left there; or -1. */
static int open_direct(const struct fixture *f)
{
    int fd = openat(f->dir, "file", O_RDONLY | O_DIRECT);

    if (fd < 0)
        return -1; /* a file system without O_DIRECT */
    assert_int_equal(fsync(fd), 0);
    assert_int_equal(posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED), 0);
    return fd;
}

/*
 * More than may be with the kernel at a time, and all of it submitted before the engine is told to
 * end, which it does when they are done.
 */
static void reads_past_the_page_cache_in_pieces(void **state)
{
    struct fixture *f = fixture(state);
    struct collector c = COLLECTOR_INIT;
    struct read *reads = calloc(READS, sizeof(*reads));
    int fd = open_direct(f);
    unsigned direct = 0;

    if (fd < 0)
        skip();
    for (unsigned i = 0; i < READS; i++) {
        reads[i].to = &c;
        submit_pieces(f, &reads[i], fd, i * 13 % 40 * 64 * KIB);
    }
    io_engine_destroy(f->io);
    io_engine_destroy(f->behind);
    assert_int_equal(c.done, READS);
    for (unsigned i = 0; i < READS; i++) {
        check_pieces(f, &reads[i]);
        direct += reads[i].direct;
        free(reads[i].buf);
    }
    if (f->kind == IO_KIND_DIRECT)
        assert_true(direct > 0);
    else
        assert_int_equal(direct, 0);
    free(reads);
    close(fd);
    assert_int_equal(create_engine(f, NULL), 0);
}

/*
 * Who submits one more than the disk's queue has room for sleeps in that. How many are there is the
 * number of those begun, up to each, less those that were over when it was; and that is not more
 * than a moment later.
 */
static void few_direct_reads_are_with_the_kernel(void **state)
{
    struct fixture *f = fixture(state);
    struct collector c = COLLECTOR_INIT;
    struct read *reads = calloc(READS, sizeof(*reads));
    int fd = open_direct(f);
    unsigned begun = 0;

    if (fd < 0)
        skip();
    for (unsigned i = 0; i < READS; i++) {
        reads[i].to = &c;
        submit_pieces(f, &reads[i], fd, i * 13 % 40 * 64 * KIB);
        reads[i].direct_before = c.direct;
    }
    wait_for(&c, READS);
    for (unsigned i = 0; i < READS; i++) {
        begun += reads[i].direct;
        assert_true((int)(begun - reads[i].direct_before) <= (int)IO_DIRECT_DEPTH);
        free(reads[i].buf);
    }
    free(reads);
    close(fd);
}

static void reads_end_with_the_file(void **state)
{
    struct fixture *f = fixture(state);
    int flags[] = {O_RDONLY, O_RDONLY | O_DIRECT};

    for (size_t i = 0; i < ARRAY_SIZE(flags); i++) {
        struct collector c = COLLECTOR_INIT;
        struct read r[2] = {{.to = &c}, {.to = &c}};
        int fd = openat(f->dir, "file", flags[i]);

        if (fd < 0)
            continue; /* a file system without O_DIRECT */
        submit_read(f, &r[0], fd, 3 * MIB - PAGE_BYTES, 64 * KIB);
        submit_read(f, &r[1], fd, 8 * MIB, 64 * KIB);
        wait_for(&c, 2);
        assert_int_equal(r[0].result, 1234 + PAGE_BYTES);
        assert_memory_equal(r[0].buf, f->content + 3 * MIB - PAGE_BYTES, 1234 + PAGE_BYTES);
        assert_int_equal(r[1].result, 0);
        free(r[0].buf);
        free(r[1].buf);
        close(fd);
    }
}

static void errors_are_results(void **state)
{
    struct fixture *f = fixture(state);
    struct collector c = COLLECTOR_INIT;
    struct read bad = {.to = &c};
    struct read missing = {.to = &c};

    submit_read(f, &bad, -1, 0, 4096);
    missing.io = (struct io_request){
        .op = IO_OPEN, .fd = f->dir, .path = "absent", .flags = O_RDONLY, .done = collect};
    io_submit(f->io, &missing.io);
    wait_for(&c, 2);
    assert_int_equal(bad.result, -EBADF);
    assert_int_equal(missing.result, -ENOENT);
    free(bad.buf);
}

static void opens_are_requests_too(void **state)
{
    struct fixture *f = fixture(state);
    struct collector c = COLLECTOR_INIT;
    struct read opened = {.to = &c}, r = {.to = &c};

    opened.io = (struct io_request){
        .op = IO_OPEN, .fd = f->dir, .path = "file", .flags = O_RDONLY, .done = collect};
    io_submit(f->io, &opened.io);
    wait_for(&c, 1);
    assert_true(opened.result >= 0);
    assert_int_equal(fcntl((int)opened.result, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    submit_read(f, &r, (int)opened.result, 4096, 100);
    wait_for(&c, 2);
    assert_memory_equal(r.buf, f->content + 4096, 100);
    free(r.buf);
    close((int)opened.result);
}

/* Each completion submits the next read from within done(), until the chain ends. */
struct chain {
    struct io_request io;
    struct fixture *f;
    struct collector *to;
    unsigned left;
    char buf[512];
};

static void next_link(struct io_request *io, ssize_t result)
{
    struct chain *ch = container_of(io, struct chain, io);

    assert_int_equal(result, 512);
    if (--ch->left > 0) {
        io_submit(ch->f->io, io);
        return;
    }
    mutex_lock(&ch->to->mu);
    ch->to->done++;
    pthread_cond_signal(&ch->to->changed);
    mutex_unlock(&ch->to->mu);
}

static void destroy_finishes_what_was_submitted(void **state)
{
    struct fixture *f = fixture(state);
    struct collector c = COLLECTOR_INIT;
    struct chain *chain = calloc(1, sizeof(*chain));
    int fd = openat(f->dir, "file", O_RDONLY);

    *chain = (struct chain){.f = f, .to = &c, .left = 500};
    chain->io = (struct io_request){
        .op = IO_READ, .fd = fd, .buf = chain->buf, .len_bytes = 512, .done = next_link};
    io_submit(f->io, &chain->io);
    io_engine_destroy(f->io);
    assert_int_equal(c.done, 1);
    assert_int_equal(chain->left, 0);
    free(chain);
    close(fd);
    assert_int_equal(io_engine_create(f->kind, &f->io, NULL), 0);
}

#define ON(kind_state, test)                                                                       \
    {                                                                                              \
#test " on " #kind_state, test, set_up, tear_down, &kind_state                             \
    }

int main(void)
{
    static struct fixture uring = {.kind = IO_KIND_URING}, pool = {.kind = IO_KIND_POOL};
    static struct fixture direct = {.kind = IO_KIND_DIRECT};
    const struct CMUnitTest tests[] = {
        ON(uring, many_reads_return_the_right_bytes),
        ON(pool, many_reads_return_the_right_bytes),
        ON(direct, many_reads_return_the_right_bytes),
        ON(uring, reads_past_the_page_cache_in_pieces),
        ON(pool, reads_past_the_page_cache_in_pieces),
        ON(direct, reads_past_the_page_cache_in_pieces),
        ON(direct, few_direct_reads_are_with_the_kernel),
        ON(uring, reads_end_with_the_file),
        ON(pool, reads_end_with_the_file),
        ON(direct, reads_end_with_the_file),
        ON(uring, errors_are_results),
        ON(pool, errors_are_results),
        ON(direct, errors_are_results),
        ON(uring, opens_are_requests_too),
        ON(pool, opens_are_requests_too),
        ON(direct, opens_are_requests_too),
        ON(uring, destroy_finishes_what_was_submitted),
        ON(pool, destroy_finishes_what_was_submitted),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Writes by aio: what is written is there, also where there is no aio, and errors are told. */
#include "scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>

#include "base/units.h"
#include "kernel/aio.h"

#define PIECE (16 * KIB)

static char *folder;
static int fd;
static char *pieces;

static int set_up(void **state)
{
    char *path;

    (void)state;
    folder = scratch_make();
    path = scratch_path(folder, "file");
    fd = open(path, O_RDWR | O_CREAT | O_DIRECT | O_CLOEXEC, 0600);
    free(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, 8 * PIECE), 0);
    pieces = aligned_alloc(PAGE_BYTES, 3 * PIECE);
    for (unsigned i = 0; i < 3; i++)
        memset(pieces + i * PIECE, 'a' + (int)i, PIECE);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    free(pieces);
    close(fd);
    scratch_remove(folder);
    return 0;
}

/* Not in the order of memory, so that it is seen that each piece has its place. */
static void write_and_look(struct aio_writer *a)
{
    struct iovec iov[] = {{pieces + 2 * PIECE, PIECE}, {pieces, PIECE}};
    char *buf = aligned_alloc(PAGE_BYTES, 2 * PIECE);

    assert_int_equal(aio_pwritev(a, fd, iov, 2, 4 * PIECE), 2 * PIECE);
    assert_int_equal(pread(fd, buf, 2 * PIECE, 4 * PIECE), 2 * PIECE);
    assert_memory_equal(buf, pieces + 2 * PIECE, PIECE);
    assert_memory_equal(buf + PIECE, pieces, PIECE);
    assert_int_equal(pread(fd, buf, PIECE, 3 * PIECE), PIECE);
    assert_int_equal(buf[0], 0);
    free(buf);
}

static void what_is_written_is_there(void **state)
{
    struct aio_writer a = {0};

    (void)state;
    write_and_look(&a);
    assert_true(a.context != 0);
    write_and_look(&a);
    aio_writer_finish(&a);
    assert_true(a.context == 0);
    write_and_look(&a);
    aio_writer_finish(&a);
}

static void it_does_without_aio(void **state)
{
    struct aio_writer a = {.asked = true};

    (void)state;
    write_and_look(&a);
    assert_true(a.context == 0);
    aio_writer_finish(&a);
}

static void errors_are_told(void **state)
{
    struct iovec iov = {pieces, PIECE}, odd = {pieces + 1, PIECE};
    struct aio_writer a = {0}, none = {.asked = true};
    char *path = scratch_path(folder, "file");
    int reader = open(path, O_RDONLY | O_DIRECT | O_CLOEXEC);

    (void)state;
    free(path);
    for (unsigned i = 0; i < 2; i++) {
        struct aio_writer *w = i ? &none : &a;

        assert_int_equal(aio_pwritev(w, -1, &iov, 1, 0), -EBADF);
        assert_int_equal(aio_pwritev(w, reader, &iov, 1, 0), -EBADF);
        assert_int_equal(aio_pwritev(w, fd, &odd, 1, 0), -EINVAL);
        assert_int_equal(aio_pwritev(w, fd, &iov, 1, 0), PIECE);
        aio_writer_finish(w);
    }
    close(reader);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(what_is_written_is_there),
        TEST(it_does_without_aio),
        TEST(errors_are_told),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

/* SPDX-License-Identifier: Apache-2.0 */
/* Memory of another process as a source: a child that maps it as QEMU does, and waits. */
#include "vmm/guest_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/units.h"
#include "image/source.h"
#include "unit.h"

#define MEMORY_BYTES (773 * PAGE_BYTES) /* a size that nothing else maps */
#define HOLE_AT      (100 * PAGE_BYTES) /* to the end, but for the last page */

struct child {
    pid_t pid;
    void *memory; /* there */
};

[[gnu::noreturn]] static void child_main(int report, size_t count)
{
    void *memory = NULL;

    prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (size_t i = 0; i < count; i++) {
        int fd = memfd_create("guest", MFD_CLOEXEC);

        if (ftruncate(fd, MEMORY_BYTES) < 0)
            _exit(1);
        memory = mmap(NULL, MEMORY_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        if (memory == MAP_FAILED)
            _exit(1);
        memset(memory, 'a', HOLE_AT);
        memset((char *)memory + MEMORY_BYTES - PAGE_BYTES, 'z', PAGE_BYTES);
    }
    if (write(report, &memory, sizeof(memory)) != sizeof(memory))
        _exit(1);
    for (;;)
        pause();
}

/* A child that has @count such mappings. */
static struct child start_child(size_t count)
{
    struct child c;
    int fds[2];

    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    c.pid = fork();
    assert_true(c.pid >= 0);
    if (c.pid == 0)
        child_main(fds[1], count);
    assert_int_equal(read(fds[0], &c.memory, sizeof(c.memory)), sizeof(c.memory));
    close(fds[0]);
    close(fds[1]);
    return c;
}

static void end_child(const struct child *c)
{
    kill(c->pid, SIGKILL);
    assert_int_equal(waitpid(c->pid, NULL, 0), c->pid);
}

static void assert_reads(const struct source *s, uint64_t offset, char expected)
{
    char page[PAGE_BYTES], wanted[PAGE_BYTES];
    struct thaw_error e = THAW_ERROR_INIT;

    memset(wanted, expected, sizeof(wanted));
    assert_int_equal(source_read(s, page, sizeof(page), offset, &e), 0);
    assert_memory_equal(page, wanted, sizeof(page));
}

static void assert_whole(const struct source *s)
{
    assert_int_equal(s->size_bytes, MEMORY_BYTES);
    assert_reads(s, 0, 'a');
    assert_reads(s, HOLE_AT - PAGE_BYTES, 'a');
    assert_reads(s, HOLE_AT, 0);
    assert_reads(s, MEMORY_BYTES - PAGE_BYTES, 'z');
}

static void holes_are_passed_over(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct child c = start_child(1);
    struct guest_mapping m;
    struct source s;
    uint64_t start, end;

    (void)state;
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES, &m, &e), 0);
    assert_int_equal(m.start, (uintptr_t)c.memory);
    assert_false(m.served);
    assert_int_equal(guest_memory_open(c.pid, &m, &s, &e), 0);
    assert_whole(&s);
    assert_true(source_next_data(&s, 0, &start, &end));
    assert_true(start == 0 && end == HOLE_AT);
    assert_true(source_next_data(&s, HOLE_AT, &start, &end));
    assert_true(start == MEMORY_BYTES - PAGE_BYTES && end == MEMORY_BYTES);
    assert_false(source_next_data(&s, MEMORY_BYTES, &start, &end));
    source_close(&s);
    end_child(&c);
}

/* What is missing is not zeros but somebody's to bring: nothing may be passed over. */
static void served_memory_is_read_through_the_process(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct child c = start_child(1);
    struct guest_mapping m;
    struct source s;
    uint64_t start, end;
    char page[PAGE_BYTES];

    (void)state;
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES, &m, &e), 0);
    m.served = true;
    assert_int_equal(guest_memory_open(c.pid, &m, &s, &e), 0);
    assert_whole(&s);
    assert_true(source_next_data(&s, PAGE_BYTES, &start, &end));
    assert_true(start == PAGE_BYTES && end == MEMORY_BYTES);
    end_child(&c);
    assert_int_equal(source_read(&s, page, sizeof(page), 0, &e), -ESRCH);
    assert_non_null(strstr(e.text, "QEMU ended"));
    source_close(&s);
}

/* As for a page that its server has poisoned. */
static void a_page_that_cannot_be_read_is_told(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct child c = start_child(1);
    struct guest_mapping m;
    struct source s;
    char pages[4 * PAGE_BYTES];

    (void)state;
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES, &m, &e), 0);
    m.served = true;
    m.start = m.end - PAGE_BYTES; /* behind which there is nothing of it */
    m.end = m.start + MEMORY_BYTES;
    assert_int_equal(guest_memory_open(c.pid, &m, &s, &e), 0);
    assert_int_equal(source_read(&s, pages, sizeof(pages), 256 * MIB, &e), -EFAULT);
    assert_non_null(strstr(e.text, "has no such page"));
    source_close(&s);
    end_child(&c);
}

static void it_must_be_the_only_one(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct child c = start_child(2);
    struct guest_mapping m;

    (void)state;
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES, &m, &e), -ENOENT);
    assert_non_null(strstr(e.text, "has 2 shared mappings"));
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES + PAGE_BYTES, &m, &e), -ENOENT);
    end_child(&c);
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES, &m, &e), -ENOENT);
}

static void a_cancelled_read_reads_nothing(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    struct child c = start_child(1);
    struct guest_mapping m;
    struct source s;
    char page[PAGE_BYTES];
    int fds[2];

    (void)state;
    assert_int_equal(pipe2(fds, O_CLOEXEC), 0);
    assert_int_equal(guest_mapping_find(c.pid, MEMORY_BYTES, &m, &e), 0);
    assert_int_equal(guest_memory_open(c.pid, &m, &s, &e), 0);
    s.cancel_fd = fds[0];
    assert_int_equal(source_read(&s, page, sizeof(page), 0, &e), 0);
    close(fds[1]);
    assert_int_equal(source_read(&s, page, sizeof(page), 0, &e), -ECANCELED);
    close(fds[0]);
    source_close(&s);
    end_child(&c);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(holes_are_passed_over),
        cmocka_unit_test(served_memory_is_read_through_the_process),
        cmocka_unit_test(a_page_that_cannot_be_read_is_told),
        cmocka_unit_test(it_must_be_the_only_one),
        cmocka_unit_test(a_cancelled_read_reads_nothing),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}

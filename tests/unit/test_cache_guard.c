/* SPDX-License-Identifier: Apache-2.0 */
#include "test_cache.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <linux/userfaultfd.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include "base/error.h"
#include "format/page_set.h"
#include "kernel/uffd.h"
#include "scratch.h"

#define HOLE (3 * PAGE_BYTES) /* where the tests punch */

/* A stand-in for guest memory: pages of our own that only UFFDIO_COPY fills. */
struct guest {
    int uffd;
    char *memory;
};

#define GUEST_BYTES (16 * PAGE_BYTES)

static void guest_init(struct guest *g)
{
    struct uffdio_api api = {.api = UFFD_API};

    g->uffd = (int)syscall(SYS_userfaultfd, O_CLOEXEC | UFFD_USER_MODE_ONLY);
    assert_true(g->uffd >= 0);
    assert_int_equal(ioctl(g->uffd, UFFDIO_API, &api), 0);
    g->memory = mmap(NULL, GUEST_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_ptr_not_equal(g->memory, MAP_FAILED);
    assert_int_equal(uffd_guard_add(g->uffd, g->memory, GUEST_BYTES), 0);
}

static void guest_finish(struct guest *g)
{
    munmap(g->memory, GUEST_BYTES);
    close(g->uffd);
}

static int install(const struct guest *g, uint64_t at, const void *bytes)
{
    uint64_t done;

    return uffd_kernel.copy(g->uffd, (struct host_addr){(uintptr_t)g->memory + at}, bytes,
                            PAGE_BYTES, &done);
}

/* Somebody gives a page of a cache back behind its back. */
static int punch(const char *name)
{
    char path[64];
    int fd;

    snprintf(path, sizeof(path), "/proc/self/fd/%d", find_cache_fd(name));
    fd = open(path, O_RDWR | O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, HOLE, (off_t)PAGE_BYTES), 0);
    return fd;
}

static void a_hole_is_an_error_and_not_zeros(void **state)
{
    char bytes[16];
    struct cache *c;
    struct guest g;
    const char *pinned;
    int64_t left = (int64_t)(2 * GRANULE_BYTES - PAGE_BYTES);
    int fd, pipe_fds[2];

    (void)state;
    guest_init(&g);
    c = new_cache("guarded", 2 * GRANULE_BYTES);
    assert_true(cache_guarded(c));
    fill_granule(c, 0, 'a');
    fill_granule(c, 1, 'b');
    pinned = cache_pin(c, 0);
    assert_int_equal(install(&g, 0, pinned), 0);
    assert_int_equal(g.memory[PAGE_BYTES - 1], 'a');

    fd = punch("guarded");
    assert_int_equal(cache_allocated_bytes(c), left);
    assert_int_equal(install(&g, HOLE, pinned + HOLE), -EFAULT);
    assert_int_equal(install(&g, HOLE, pinned + HOLE), -EFAULT);
    assert_int_equal(cache_read(c, HOLE, bytes, 16), -EFAULT);
    assert_int_equal(cache_read(c, HOLE - 8, bytes, 16), -EFAULT);
    assert_int_equal(pipe(pipe_fds), 0);
    assert_int_equal(write(pipe_fds[1], pinned + HOLE, 16), -1);
    assert_int_equal(errno, EFAULT);
    close(pipe_fds[0]);
    close(pipe_fds[1]);
    assert_int_equal(cache_allocated_bytes(c), left);
    assert_int_equal(install(&g, PAGE_BYTES, pinned + PAGE_BYTES), 0); /* its neighbours are fine */
    assert_int_equal(cache_read(c, HOLE - 16, bytes, 16), 16);
    assert_int_equal(bytes[15], 'a');
    cache_unpin(c, 0);

    /* What would have happened without: the kernel makes a page of zeros and calls it a success. */
    pinned = mmap(NULL, GRANULE_BYTES, PROT_READ, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(pinned, MAP_FAILED);
    assert_int_equal(install(&g, HOLE, pinned + HOLE), 0);
    assert_int_equal(g.memory[HOLE], 0);
    assert_int_equal(cache_allocated_bytes(c), left + (int64_t)PAGE_BYTES);
    munmap((void *)(uintptr_t)pinned, GRANULE_BYTES);
    close(fd);
    cache_destroy(c);
    guest_finish(&g);
}

static void an_export_does_not_invent_zeros(void **state)
{
    struct page_set dirty = {0}, empty = {0};
    char *folder = scratch_make(), block[4 * PAGE_BYTES];
    int dir_fd = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct thaw_error e = THAW_ERROR_INIT;
    struct cache *c;

    (void)state;
    memset(block, 'a', sizeof(block));
    c = new_overlay("guarded", 2 * GRANULE_BYTES);
    assert_int_equal(cache_write(c, 0, block, sizeof(block)), 0);
    close(punch("guarded"));
    assert_int_equal(cache_read(c, 0, block, PAGE_BYTES), PAGE_BYTES);
    assert_int_equal(cache_read(c, HOLE, block, PAGE_BYTES), -EFAULT);
    assert_int_equal(cache_export(c, dir_fd, "diff", &dirty, &empty, &e), -EFAULT);
    assert_non_null(strstr(e.text, "block 0 of diff"));
    assert_int_equal(rmdir(folder), 0); /* nothing was left in it */
    assert_int_equal(cache_write(c, HOLE, block, PAGE_BYTES), 0);
    assert_int_equal(cache_read(c, HOLE, block, PAGE_BYTES), PAGE_BYTES);
    cache_destroy(c);
    close(dir_fd);
    free(folder);
}

/* The mapping through which an overlay of @name, with @bytes, is written. */
static void *find_writable(const char *name, size_t bytes)
{
    FILE *f = fopen("/proc/self/maps", "re");
    char line[400];
    void *found = NULL;

    assert_non_null(f);
    while (fgets(line, sizeof(line), f)) {
        unsigned long start, end;

        if (strstr(line, name) && sscanf(line, "%lx-%lx rw-s", &start, &end) == 2 &&
            strstr(line, "rw-s") && end - start == bytes) {
            assert_null(found);
            found = (void *)start;
        }
    }
    fclose(f);
    return found;
}

/* Whoever writes over a page that is lost gets another one, or an error; never a SIGBUS. */
static void writing_over_a_hole_is_no_sigbus(void **state)
{
    struct rlimit old, none = {.rlim_cur = 0};
    char block[4 * PAGE_BYTES], byte;
    int guard = uffd_guard_open();
    struct cache *c;
    void *writable;

    (void)state;
    memset(block, 'a', sizeof(block));
    c = new_overlay("holed", GRANULE_BYTES);
    assert_int_equal(cache_write(c, 0, block, sizeof(block)), 0);
    writable = find_writable("holed", GRANULE_BYTES);
    assert_non_null(writable);
    assert_int_equal(uffd_guard_add(guard, writable, GRANULE_BYTES), 0); /* no page by a store */
    close(punch("holed"));

    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    none.rlim_max = old.rlim_max;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &none), 0);
    memset(block, 'b', sizeof(block));
    assert_int_equal(cache_write(c, HOLE, block, PAGE_BYTES), -EFBIG);
    assert_int_equal(cache_write(c, 0, block, sizeof(block)), -EFBIG);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(cache_read(c, HOLE, &byte, 1), -EFAULT);
    assert_int_equal(cache_present(c, 0, sizeof(block)), 1);

    assert_int_equal(cache_write(c, 0, block, sizeof(block)), 0);
    memset(block, 0, sizeof(block));
    assert_int_equal(cache_read(c, 0, block, sizeof(block)), sizeof(block));
    for (size_t i = 0; i < sizeof(block); i++)
        assert_int_equal(block[i], 'b');
    cache_destroy(c);
    close(guard);
}

static void one_guard_serves_all_caches(void **state)
{
    struct cache *a, *b;
    int fd;

    (void)state;
    assert_int_equal(find_fds("[userfaultfd]", &fd), 0);
    a = new_cache("a", GRANULE_BYTES);
    b = new_cache("b", GRANULE_BYTES);
    assert_int_equal(find_fds("[userfaultfd]", &fd), 1);
    assert_int_equal(fcntl(fd, F_GETFD) & FD_CLOEXEC, FD_CLOEXEC);
    cache_destroy(a);
    assert_int_equal(find_fds("[userfaultfd]", &fd), 1);
    assert_int_equal(cache_close(b), 0);
    assert_int_equal(find_fds("[userfaultfd]", &fd), 0);
    cache_destroy(b);
}

/* --- where a sandbox forbids what we need --- */

/* From here on this process gets EPERM for system call @nr, and for making userfaultfds by ioctl.
 */
static void forbid(uint32_t nr)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, nr, 3, 0),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, USERFAULTFD_IOC_NEW, 0, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    struct sock_fprog program = {.len = ARRAY_SIZE(code), .filter = code};

    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
        prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
        _exit(2);
}

/* In a child: 0 if a cache works there and is guarded or not as @guarded says. */
static int works_without(uint32_t nr, bool guarded)
{
    char byte = 0;
    struct cache *c;
    void *memory;
    const char *pinned;

    forbid(nr);
    if (cache_create(caches, &(struct cache_options){&build, "x", GRANULE_BYTES}, &c, NULL) < 0)
        return 3;
    if (cache_guarded(c) != guarded)
        return 4;
    if (reserve(c, 0, &memory) < 0)
        return 5;
    memset(memory, 'x', GRANULE_BYTES);
    cache_publish(c, 0);
    pinned = cache_pin(c, 0);
    if (!pinned || pinned[100] != 'x')
        return 6;
    cache_unpin(c, 0);
    if (cache_read(c, 100, &byte, 1) != 1 || byte != 'x')
        return 7;
    cache_destroy(c);
    return 0;
}

static void check_without(uint32_t nr, bool guarded)
{
    pid_t child = fork();
    int status;

    assert_true(child >= 0);
    if (child == 0)
        _exit(works_without(nr, guarded));
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

static void it_works_where_calls_are_forbidden(void **state)
{
    (void)state;
    check_without(SYS_userfaultfd, false);
    check_without(SYS_process_vm_readv, true);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_hole_is_an_error_and_not_zeros),
        cmocka_unit_test(an_export_does_not_invent_zeros),
        cmocka_unit_test(writing_over_a_hole_is_no_sigbus),
        cmocka_unit_test(one_guard_serves_all_caches),
        cmocka_unit_test(it_works_where_calls_are_forbidden),
    };
    int fd = uffd_guard_open();

    if (fd < 0) {
        printf("skipped: no userfaultfd for guards here: %s\n", strerror(-fd));
        return 77;
    }
    close(fd);
    backing = CACHE_BACKING_MEMFD; /* userfaultfd knows no files of a disk */
    return cmocka_run_group_tests(tests, caches_set_up, caches_tear_down);
}

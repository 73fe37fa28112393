/* SPDX-License-Identifier: Apache-2.0 */

/*
 * Without an argument: what holds for any process. With "device", as root: threads really sleep in
 * the throttle, on a device that is made for it, and every source that is permitted counts the same
 * pauses; all of them at once, in this one process.
 */
#include "observe/throttle.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/thread.h"
#include "base/units.h"
#include "bench/capped_device.h"
#include "scratch.h"
#include "unit.h"

static struct throttle *start(const char *source, uint64_t interval_ns)
{
    struct throttle_options o = {.source = source, .interval_ns = interval_ns};
    struct thaw_error e = THAW_ERROR_INIT;
    struct throttle *t = NULL;

    if (throttle_start(&o, &t, &e) < 0)
        fail_msg("%s", e.text);
    return t;
}

static void test_options(void **state)
{
    struct throttle_options o = {.interval_ns = THROTTLE_MIN_NS - 1};
    struct thaw_error e = THAW_ERROR_INIT;
    struct throttle *t = NULL;

    (void)state;
    assert_int_equal(throttle_start(&o, &t, &e), -EINVAL);
    o = (struct throttle_options){.source = "guess"};
    assert_int_equal(throttle_start(&o, &t, &e), -EINVAL);
    assert_non_null(strstr(e.text, "\"guess\""));
    assert_int_equal(throttle_probe("guess", &e), -EINVAL);
    assert_null(t);
    throttle_stop(NULL);
}

/* The last one works everywhere; the order is part of the promise. */
static void test_sources(void **state)
{
    static const char *const names[] = {"bpf", "perf", "delayacct", "wchan"};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    for (size_t i = 0; i < ARRAY_SIZE(names); i++) {
        e = (struct thaw_error)THAW_ERROR_INIT;
        assert_string_equal(throttle_source_name(i), names[i]);
        if (throttle_probe(names[i], &e) < 0)
            print_message("%s\n", e.text);
    }
    assert_null(throttle_source_name(ARRAY_SIZE(names)));
    assert_int_equal(throttle_probe("wchan", &e), 0);
}

struct looks {
    int fd; /* an eventfd that counts */
    _Atomic(unsigned) seen;
};

static void count_look(void *arg, uint64_t at_ns, unsigned threads)
{
    struct looks *l = arg;

    assert_true(at_ns > 0);
    atomic_fetch_add(&l->seen, threads);
    eventfd_write(l->fd, 1);
}

static void await_looks(const struct looks *l, unsigned n)
{
    struct pollfd p = {.fd = l->fd, .events = POLLIN};
    eventfd_t got = 0;

    for (unsigned done = 0; done < n; done += (unsigned)got) {
        assert_int_equal(poll(&p, 1, 60000), 1);
        assert_int_equal(eventfd_read(l->fd, &got), 0);
    }
}

/* A process that dirties nothing: it is looked at, and nothing is found, by any source. */
static void test_nothing(void **state)
{
    const char *name;

    (void)state;
    for (size_t i = 0; (name = throttle_source_name(i)); i++) {
        struct looks l = {.fd = eventfd(0, EFD_CLOEXEC)};
        struct throttle_options o = {
            .interval_ns = NS_PER_MS, .source = name, .sample = count_look, .sample_arg = &l};
        struct thaw_error e = THAW_ERROR_INIT;
        struct throttle_counts c;
        struct throttle *t = NULL;

        if (throttle_start(&o, &t, &e) == 0) {
            await_looks(&l, 3);
            throttle_read(t, &c, NULL, 0);
            assert_string_equal(c.source, name);
            assert_in_range(c.looks, 4, UINT64_MAX); /* with the one of the start */
            assert_int_equal(c.pauses, 0);
            assert_int_equal(c.threads_seen, 0);
            assert_int_equal(c.thread_count, 0);
            assert_int_equal(atomic_load(&l.seen), 0);
            throttle_stop(t);
        }
        close(l.fd);
    }
}

static void *end_at_once(void *arg)
{
    (void)arg;
    return NULL;
}

static unsigned entries_of(const char *folder)
{
    DIR *d = opendir(folder);
    unsigned n = 0;

    assert_non_null(d);
    while (readdir(d))
        n++;
    closedir(d);
    return n - 2; /* "." and ".." */
}

/* Threads come and go between looks, and nothing of them stays open. */
static void test_threads_that_end(void **state)
{
    unsigned before = entries_of("/proc/self/fd");
    struct throttle *t = start("wchan", 0);

    (void)state;
    for (int round = 0; round < 20; round++) {
        struct looks l = {.fd = eventfd(0, EFD_CLOEXEC)};
        struct throttle_options o = {
            .interval_ns = NS_PER_MS, .source = "wchan", .sample = count_look, .sample_arg = &l};
        struct throttle *other = NULL;
        struct thaw_error e = THAW_ERROR_INIT;
        pthread_t threads[8];

        assert_int_equal(throttle_start(&o, &other, &e), 0);
        for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
            assert_int_equal(thread_start(&threads[i], "thaw-brief", end_at_once, NULL), 0);
        await_looks(&l, 2);
        for (size_t i = 0; i < ARRAY_SIZE(threads); i++)
            thread_join(threads[i]);
        throttle_look(t);
        throttle_stop(other);
        close(l.fd);
    }
    /* A timer, an eventfd, a folder, and two files of each thread: once a listing is due again. */
    for (int i = 0; entries_of("/proc/self/fd") != before + 3 + 2 * entries_of("/proc/self/task");
         i++) {
        struct pollfd none = {.fd = -1};

        assert_true(i < 6000); /* a minute */
        assert_int_equal(poll(&none, 1, 10), 0);
        throttle_look(t);
    }
    throttle_stop(t);
}

/* Nobody's process has no privilege, and gets counts all the same. */
static void test_without_privilege(void **state)
{
    int status = 0;
    pid_t pid;

    (void)state;
    if (geteuid() != 0)
        skip();
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct throttle_options o = {0};
        struct thaw_error e = THAW_ERROR_INIT;
        struct throttle_counts c;
        struct throttle *t = NULL;

        if (setgid(65534) < 0 || setuid(65534) < 0)
            _exit(1);
        /* The kernel gives what a process of another user's program has to root. */
        if (prctl(PR_SET_DUMPABLE, 1) < 0 || throttle_start(&o, &t, &e) < 0) {
            print_message("%s\n", e.text);
            _exit(2);
        }
        throttle_read(t, &c, NULL, 0);
        _exit(c.looks >= 1 && !c.exact && throttle_probe("bpf", &e) == -EPERM ? 0 : 3);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- with a device --- */

#define WRITERS      2
#define WRITER_BYTES (160 * MIB)
#define DEVICE_BYTES (512 * MIB)
#define DEVICE_SPEED (64 * MIB)

static struct capped_device *device;
static char *scratch;

struct writer {
    pthread_t thread;
    char name[THROTTLE_NAME_BYTES];
    int number;
    _Atomic(pid_t) tid;
};

/* Stores into a mapped sparse file: what a cache in a file does. */
static void *write_pages(void *arg)
{
    struct writer *w = arg;
    char path[512];
    uint8_t *map;
    int fd;

    atomic_store(&w->tid, gettid());
    snprintf(path, sizeof(path), "%s/file-%d", capped_device_path(device), w->number);
    fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    assert_true(fd >= 0);
    assert_int_equal(unlink(path), 0);
    assert_int_equal(ftruncate(fd, (off_t)WRITER_BYTES), 0);
    map = mmap(NULL, WRITER_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_ptr_not_equal(map, MAP_FAILED);
    for (size_t at = 0; at < WRITER_BYTES; at += 4 * KIB)
        map[at] = 1;
    munmap(map, WRITER_BYTES);
    close(fd);
    return NULL;
}

struct account {
    struct throttle *throttle; /* NULL where it is not permitted */
    struct throttle_counts counts;
    struct throttle_thread rows[16];
};

static struct account accounts[4];

static const struct account *account_of(const char *source)
{
    for (size_t i = 0; i < ARRAY_SIZE(accounts); i++) {
        if (accounts[i].throttle && strcmp(accounts[i].counts.source, source) == 0)
            return &accounts[i];
    }
    return NULL;
}

static void measure(struct writer writers[WRITERS])
{
    for (size_t i = 0; i < ARRAY_SIZE(accounts); i++) {
        struct throttle_options o = {.source = throttle_source_name(i),
                                     .interval_ns = 5 * NS_PER_MS};
        struct thaw_error e = THAW_ERROR_INIT;

        accounts[i].throttle = NULL;
        if (throttle_start(&o, &accounts[i].throttle, &e) < 0)
            print_message("%s\n", e.text);
    }
    for (int i = 0; i < WRITERS; i++) {
        snprintf(writers[i].name, THROTTLE_NAME_BYTES, "test-writer/%u", (unsigned)i % 10);
        assert_int_equal(
            thread_start(&writers[i].thread, writers[i].name, write_pages, &writers[i]), 0);
    }
    for (int i = 0; i < WRITERS; i++)
        thread_join(writers[i].thread);
    /* Output may itself be throttled, so it comes when all have been read. */
    for (size_t i = 0; i < ARRAY_SIZE(accounts); i++) {
        if (accounts[i].throttle)
            throttle_read(accounts[i].throttle, &accounts[i].counts, accounts[i].rows,
                          ARRAY_SIZE(accounts[i].rows));
    }
    for (size_t i = 0; i < ARRAY_SIZE(accounts); i++) {
        const struct throttle_counts *c = &accounts[i].counts;

        if (accounts[i].throttle)
            print_message("%-9s %4llu pauses %6llu ms, %llu seen in %llu looks, %llu lost\n",
                          c->source, (unsigned long long)c->pauses,
                          (unsigned long long)(c->paused_ns / NS_PER_MS),
                          (unsigned long long)c->threads_seen, (unsigned long long)c->looks,
                          (unsigned long long)c->lost);
    }
}

/* The table has the writers, by name and number, nobody else, and adds up to the totals. */
static void check_table(const struct account *a, const struct writer writers[WRITERS])
{
    uint64_t pauses = 0, ns = 0;

    assert_in_range(a->counts.thread_count, 1, WRITERS);
    for (size_t i = 0; i < a->counts.thread_count; i++) {
        const struct throttle_thread *row = &a->rows[i];
        int at = row->tid == atomic_load(&writers[0].tid) ? 0 : 1;

        assert_int_equal(row->tid, atomic_load(&writers[at].tid));
        assert_string_equal(row->name, writers[at].name);
        pauses += row->pauses;
        ns += row->paused_ns;
    }
    assert_int_equal(pauses, a->counts.pauses);
    assert_int_equal(ns, a->counts.paused_ns);
}

static void assert_about(uint64_t value, uint64_t wanted, double low, double high)
{
    if ((double)value < low * (double)wanted || (double)value > high * (double)wanted)
        fail_msg("%llu is not %.2f to %.2f times %llu", (unsigned long long)value, low, high,
                 (unsigned long long)wanted);
}

static void test_device(void **state)
{
    struct writer writers[WRITERS] = {{.number = 0}, {.number = 1}};
    const struct account *bpf, *perf, *delay, *wchan;

    (void)state;
    measure(writers);
    bpf = account_of("bpf");
    perf = account_of("perf");
    delay = account_of("delayacct");
    wchan = account_of("wchan");

    /* Always there: the throttle was seen. */
    if (!wchan) {
        fail();
        return;
    }
    assert_in_range(wchan->counts.threads_seen, 1, UINT64_MAX);
    assert_in_range(wchan->counts.pauses, 1, UINT64_MAX);

    if (bpf) {
        assert_in_range(bpf->counts.pauses, 1, UINT64_MAX);
        check_table(bpf, writers);
        /* The thread wakes up to a tick after the pause it was given: never before. */
        assert_about(wchan->counts.paused_ns, bpf->counts.paused_ns, 0.5, 3.0);
    }
    if (bpf && perf && perf->counts.lost == 0) {
        assert_int_equal(perf->counts.pauses, bpf->counts.pauses);
        assert_int_equal(perf->counts.paused_ns, bpf->counts.paused_ns);
        check_table(perf, writers);
    }
    /* All waits for the device, and never longer than the writers lived. */
    if (bpf && delay)
        assert_about(delay->counts.paused_ns, bpf->counts.paused_ns, 0.8, 3.0);
    for (size_t i = 0; i < ARRAY_SIZE(accounts); i++)
        throttle_stop(accounts[i].throttle);
}

/* The same as nobody: what is left are the two that need nothing, and they agree. */
static void test_device_without_privilege(void **state)
{
    int status = 0;
    pid_t pid;

    (void)state;
    /* The way there, and what is there. */
    assert_int_equal(chmod(scratch, 0755), 0);
    assert_int_equal(chmod(capped_device_path(device), 01777), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct writer writers[WRITERS] = {{.number = 2}, {.number = 3}};
        const struct account *delay, *wchan;

        if (setgid(65534) < 0 || setuid(65534) < 0 || prctl(PR_SET_DUMPABLE, 1) < 0)
            _exit(1);
        measure(writers);
        delay = account_of("delayacct");
        wchan = account_of("wchan");
        if (account_of("bpf") || account_of("perf") || !delay || !wchan)
            _exit(2);
        if (delay->counts.paused_ns < wchan->counts.paused_ns / 2 ||
            delay->counts.paused_ns > wchan->counts.paused_ns * 3)
            _exit(3);
        _exit(wchan->counts.pauses > 0 ? 0 : 4);
    }
    assert_int_equal(waitpid(pid, &status, 0), pid);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 0);
}

/* --- the device itself --- */

static bool exists(const char *path)
{
    return access(path, F_OK) == 0;
}

static void assert_file_says(const char *path, const char *wanted)
{
    char text[16] = "";
    FILE *f = fopen(path, "re");

    if (!f) /* a kernel without this limit */
        return;
    assert_non_null(fgets(text, sizeof(text), f));
    fclose(f);
    text[strcspn(text, "\n")] = '\0';
    assert_string_equal(text, wanted);
}

/* Block device @dev has no limits, as the kernel made it. */
static void assert_unlimited(dev_t dev)
{
    char path[128], name[32], line[128];
    FILE *rules = fopen("/sys/fs/cgroup/blkio/blkio.throttle.write_bps_device", "re");

    snprintf(name, sizeof(name), "%u:%u", major(dev), minor(dev));
    snprintf(path, sizeof(path), "/sys/class/bdi/%s/max_ratio", name);
    assert_file_says(path, "100");
    snprintf(path, sizeof(path), "/sys/class/bdi/%s/strict_limit", name);
    assert_file_says(path, "0");
    while (rules && fgets(line, sizeof(line), rules))
        assert_false(strncmp(line, name, strlen(name)) == 0 && line[strlen(name)] == ' ');
    if (rules)
        fclose(rules);
}

static dev_t device_of(const char *path)
{
    struct stat st;

    assert_int_equal(stat(path, &st), 0);
    return st.st_dev;
}

/* Killed as no handler could notice, its maker leaves nothing behind. */
static void test_maker_killed(void **state)
{
    struct thaw_error e = THAW_ERROR_INIT;
    char path[512] = "";
    int pair[2], status;
    dev_t dev;
    pid_t pid;

    (void)state;
    assert_int_equal(pipe2(pair, O_CLOEXEC), 0);
    pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        struct capped_device_options o = {scratch, 64 * MIB, DEVICE_SPEED, 1, false};
        struct capped_device *d = NULL;

        if (capped_device_open(&o, &d, &e) < 0)
            _exit(1);
        (void)!write(pair[1], capped_device_path(d), strlen(capped_device_path(d)));
        for (;;)
            pause();
    }
    close(pair[1]);
    assert_true(read(pair[0], path, sizeof(path) - 1) > 0);
    dev = device_of(path);
    assert_int_equal(kill(pid, SIGKILL), 0);
    assert_int_equal(waitpid(pid, &status, 0), pid);
    for (int i = 0; exists(path); i++) {
        struct pollfd none = {.fd = -1};

        assert_true(i < 6000); /* a minute */
        assert_int_equal(poll(&none, 1, 10), 0);
    }
    assert_unlimited(dev);
    close(pair[0]);
}

static int make_device(void **state)
{
    struct capped_device_options o = {NULL, DEVICE_BYTES, DEVICE_SPEED, 1, true};
    struct thaw_error e = THAW_ERROR_INIT;

    (void)state;
    scratch = scratch_make();
    o.scratch = scratch;
    if (capped_device_open(&o, &device, &e) < 0) {
        rmdir(scratch);
        printf("no device that throttles can be made here: %s\n", e.text);
        exit(77);
    }
    return 0;
}

static int remove_device(void **state)
{
    dev_t dev = device_of(capped_device_path(device));

    (void)state;
    if (capped_device_close(TAKE_PTR(device)) < 0)
        return -1;
    assert_unlimited(dev);
    scratch_remove(scratch);
    return 0;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_options),           cmocka_unit_test(test_sources),
        cmocka_unit_test(test_nothing),           cmocka_unit_test(test_threads_that_end),
        cmocka_unit_test(test_without_privilege),
    };
    const struct CMUnitTest device_tests[] = {
        cmocka_unit_test(test_device),
        cmocka_unit_test(test_device_without_privilege),
        cmocka_unit_test(test_maker_killed),
    };

    if (argc > 1 && strcmp(argv[1], "device") == 0)
        return cmocka_run_group_tests(device_tests, make_device, remove_device);
    return cmocka_run_group_tests(tests, NULL, NULL);
}

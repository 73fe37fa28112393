/* SPDX-License-Identifier: Apache-2.0 */
#include "bench/throttle_run.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/thread.h"
#include "base/units.h"
#include "bench/debug_files.h"
#include "bench/footprint.h"
#include "bench/nbd_writer.h"
#include "bench/vm.h"

#define WRITE_MAX_BYTES (1 * MIB)
#define DROPPED_BYTES   (2 * MIB) /* of the disk that are written again and again */
#define LOOK_MS         100       /* between two looks at what the serving process takes */

uint64_t run_page_word(uint64_t page)
{
    uint64_t z = (page + 1) * UINT64_C(0x9e3779b97f4a7c15);

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

struct run_record *run_record_create(void)
{
    void *map = mmap(NULL, sizeof(struct run_record), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    return map == MAP_FAILED ? NULL : map;
}

void run_record_destroy(struct run_record *r)
{
    if (r)
        munmap(r, sizeof(*r));
}

/* --- the serving process --- */

struct watch {
    struct run_record *record;
    uint64_t (*served_bytes)(void *arg);
    void *arg;
};

static void take_sample(void *arg, uint64_t at_ns, unsigned threads)
{
    const struct watch *w = arg;
    struct run_record *r = w->record;

    if (r->sample_count < RUN_SAMPLES_MAX)
        r->samples[r->sample_count++] =
            (struct run_sample){at_ns, w->served_bytes(w->arg), threads};
}

int run_watch(const struct run_job *job, uint64_t (*served_bytes)(void *arg), void *arg,
              struct throttle **ret, struct thaw_error *e)
{
    static struct watch watch; /* for the life of the process */

    watch = (struct watch){job->record, served_bytes, arg};
    return throttle_start(
        &(struct throttle_options){
            .interval_ns = RUN_SAMPLE_NS,
            .sample = take_sample,
            .sample_arg = &watch,
        },
        ret, e);
}

void run_record_store(void *record, uint64_t bytes, uint64_t ns)
{
    struct run_record *r = record;
    uint32_t i = atomic_fetch_add_explicit(&r->store_count, 1, memory_order_relaxed);

    atomic_fetch_add_explicit(&r->store_bytes, bytes, memory_order_relaxed);
    if (i < RUN_LATENCIES_MAX)
        r->store_us[i] = (uint32_t)MIN(ns / NS_PER_US, UINT32_MAX);
}

/* Memory of this process, what it shares counted in parts: "Pss:" of proc(5). */
static uint64_t pss_bytes(void)
{
    FILE *f = fopen("/proc/self/smaps_rollup", "re");
    unsigned long long kib = 0;
    char line[256];

    while (f && fgets(line, sizeof(line), f) && sscanf(line, "Pss: %llu kB", &kib) != 1)
        ;
    if (f)
        fclose(f);
    return kib * KIB;
}

static uint64_t cpu_ns(void)
{
    struct timespec ts;

    return clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) < 0
               ? 0
               : (uint64_t)ts.tv_sec * NS_PER_SEC + (uint64_t)ts.tv_nsec;
}

void run_serve(const struct run_job *job, int control, struct throttle *watch)
{
    struct run_record *r = job->record;
    uint64_t begin_ns = cpu_ns();
    char byte = 'r';

    if (write(control, &byte, 1) != 1 || read(control, &byte, 1) != 1)
        return;
    r->cpu_ns = cpu_ns() - begin_ns;
    throttle_read(watch, &r->throttle, r->threads, RUN_THREADS_MAX);
    throttle_stop(watch);
    r->pss_bytes = pss_bytes();
    (void)!write(control, &byte, 1);
    while (read(control, &byte, 1) < 0 && errno == EINTR)
        ;
}

struct server {
    pid_t pid;
    int control; /* owned */
    struct footprint footprint;
};

[[gnu::noreturn]] static void serving_process(const struct run_job *job, const struct server *s,
                                              int control)
{
    int r;

    prctl(PR_SET_PDEATHSIG, SIGKILL); /* by the only thread that the parent has */
    footprint_join(&s->footprint);
    r = job->serve(job, control, &job->record->error);
    /* Everything is left to the end of the process. */
    _exit(r < 0 ? EXIT_FAILURE : EXIT_SUCCESS);
}

static int server_failed(const struct run_job *job, struct thaw_error *e)
{
    const struct thaw_error *why = &job->record->error;

    if (why->code == 0)
        return err_set(e, -ECHILD, "the process that serves has ended early");
    if (e)
        *e = *why;
    return why->code;
}

/* One byte each way: 'r' it is ready, 'd' the guest is done, and back: the record is. */
static int server_says(const struct server *s, const struct run_job *job, struct thaw_error *e)
{
    char byte;
    ssize_t n;

    do
        n = read(s->control, &byte, 1);
    while (n < 0 && errno == EINTR);
    return n == 1 ? 0 : server_failed(job, e);
}

static int server_start(struct server *s, const struct run_job *job, struct thaw_error *e)
{
    int pair[2], r;

    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return err_errno(e, -errno, "making a socket pair");
    fflush(stdout);
    footprint_init(&s->footprint, job->device, job->folder);
    s->pid = fork();
    if (s->pid == 0) {
        close(pair[0]);
        serving_process(job, s, pair[1]);
    }
    close(pair[1]);
    s->control = pair[0];
    if (s->pid < 0)
        return err_errno(e, -errno, "starting a process that serves");
    r = server_says(s, job, e);
    if (r == 0)
        footprint_idle(&s->footprint, s->pid);
    return r;
}

static void server_finish(struct server *s)
{
    close_fd(&s->control);
    while (s->pid > 0 && waitpid(s->pid, NULL, 0) < 0 && errno == EINTR)
        ;
    footprint_finish(&s->footprint);
}

/* --- the guest --- */

struct guest {
    const struct run_job *job;
    struct bench_vm vm;
    struct nbd_writer_client disk;
    int done;                  /* owned: eventfd, readable when all threads have come to an end */
    _Atomic(unsigned) running; /* [a] acq_rel: the last one sees what the others did */
    _Atomic(int) failure;      /* [a] of any thread */
    _Atomic(uint64_t) wrong_page;
};

struct toucher {
    struct guest *guest;
    uint64_t from, to; /* pages */
    uint64_t max_ns;
};

static void thread_ends(struct guest *g, int result)
{
    int none = 0;
    uint64_t one = 1;

    if (result < 0)
        atomic_compare_exchange_strong(&g->failure, &none, result);
    if (atomic_fetch_sub(&g->running, 1) == 1)
        (void)!write(g->done, &one, sizeof(one));
}

static void *touch(void *arg)
{
    struct toucher *t = arg;
    struct guest *g = t->guest;
    int r = 0;

    for (uint64_t page = t->from; page < t->to && r == 0; page++) {
        const volatile uint64_t *word =
            (const volatile uint64_t *)(const void *)(g->vm.memory + page * PAGE_BYTES);
        uint64_t begin = clock_now_ns();

        if (*word != run_page_word(page)) {
            atomic_store(&g->wrong_page, page);
            r = -EBADMSG;
        }
        t->max_ns = MAX(t->max_ns, clock_now_ns() - begin);
    }
    thread_ends(g, r);
    return NULL;
}

/* As fast as the disk takes it, in requests as guests make them. */
static int write_all(struct guest *g, const unsigned char *data)
{
    static const uint32_t sizes[] = {64 * KIB, 256 * KIB, WRITE_MAX_BYTES, 128 * KIB};
    const struct run_job *job = g->job;
    uint64_t span = job->keep ? job->disk_bytes : DROPPED_BYTES;
    uint64_t at = 0;
    int r = 0;

    for (unsigned i = 0; at < job->disk_bytes && r == 0; i++) {
        uint64_t left = MIN(job->disk_bytes - at, span - at % span);
        uint32_t len = (uint32_t)MIN(sizes[i % ARRAY_SIZE(sizes)], left);
        uint64_t begin = clock_now_ns();

        r = nbd_writer_write(&g->disk, at % span, data, len);
        job->record->write_max_ns = MAX(job->record->write_max_ns, clock_now_ns() - begin);
        at += len;
    }
    return r < 0 ? r : nbd_writer_flush(&g->disk);
}

static void *write_disk(void *arg)
{
    struct guest *g = arg;
    unsigned char *data = malloc(WRITE_MAX_BYTES);
    int r = -ENOMEM;

    if (data) {
        memset(data, 0xa5, WRITE_MAX_BYTES);
        r = write_all(g, data);
    }
    free(data);
    thread_ends(g, r);
    return NULL;
}

/* The server's death must not leave threads in page faults that nobody answers. Meanwhile we look
 * at what it takes. */
static void wait_for_guest(struct guest *g, struct server *s)
{
    struct pollfd p[] = {{.fd = g->done, .events = POLLIN}, {.fd = s->control, .events = POLLIN}};

    while (!(p[0].revents & POLLIN)) {
        int n = poll(p, ARRAY_SIZE(p), LOOK_MS);

        if (n == 0)
            footprint_look(&s->footprint);
        if (n <= 0 || !p[1].revents)
            continue;
        close_fd(&g->vm.uffd); /* pages that are not there are zeros from now on: a failure */
        nbd_writer_break(&g->disk);
        p[1].fd = -1;
    }
}

static int start_threads(struct guest *g, struct toucher *touchers, pthread_t *ids)
{
    uint64_t granules = div_round_up(g->job->memory_bytes, GRANULE_BYTES);
    uint64_t pages = g->job->memory_bytes / PAGE_BYTES;
    uint64_t share = div_round_up(granules, RUN_TOUCHERS) * (GRANULE_BYTES / PAGE_BYTES);
    unsigned started = 0;
    int r = 0;

    atomic_store(&g->running, RUN_TOUCHERS + 1);
    for (; started < RUN_TOUCHERS && r == 0; started++) {
        touchers[started] =
            (struct toucher){g, MIN(started * share, pages), MIN((started + 1) * share, pages), 0};
        r = thread_start(&ids[started], "guest-cpu", touch, &touchers[started]);
        if (r < 0)
            break;
    }
    if (r == 0) {
        r = thread_start(&ids[started], "guest-disk", write_disk, g);
        started += r == 0;
    }
    for (unsigned i = started; i < RUN_TOUCHERS + 1; i++)
        thread_ends(g, r);
    return (int)started;
}

static int guest_result(const struct guest *g, struct thaw_error *e)
{
    int r = atomic_load(&g->failure);

    if (r == -EBADMSG)
        return err_set(e, r, "the guest found wrong bytes in page %llu of its memory",
                       (unsigned long long)atomic_load(&g->wrong_page));
    return r < 0 ? err_errno(e, r, "the guest") : 0;
}

static void guest_runs(struct guest *g, struct server *s)
{
    struct run_record *record = g->job->record;
    struct toucher touchers[RUN_TOUCHERS] = {0};
    pthread_t ids[RUN_TOUCHERS + 1];
    int started;

    record->begin_ns = clock_now_ns();
    started = start_threads(g, touchers, ids);
    wait_for_guest(g, s);
    record->end_ns = clock_now_ns();
    for (int i = 0; i < started; i++)
        thread_join(ids[i]);
    for (unsigned i = 0; i < RUN_TOUCHERS; i++)
        record->touch_max_ns = MAX(record->touch_max_ns, touchers[i].max_ns);
}

/* What the server takes and the device's own accounts, while the caches are still there. */
static void ask_kernel(const struct run_job *job, struct server *s)
{
    struct run_record *record = job->record;
    struct stat st;

    record->peak_bytes = footprint_peak(&s->footprint);
    record->peak_source = footprint_source(&s->footprint);
    record->files_dirty_bytes = s->footprint.dirty_bytes;
    record->files_dirty_error = s->footprint.dirty_error;
    if (job->device && stat(job->device, &st) == 0)
        debug_files_bdi(st.st_dev, &record->dirty_bytes, &record->writeback_bytes);
}

static int guest_and_server(const struct run_job *job, struct guest *g, struct server *s,
                            struct thaw_error *e)
{
    int r = server_start(s, job, e);

    if (r == 0)
        r = bench_vm_start(&g->vm, job->memory_socket, job->memory_bytes, e);
    if (r == 0)
        r = nbd_writer_open(&g->disk, job->disk_socket, e);
    if (r < 0)
        return r;
    guest_runs(g, s);
    r = guest_result(g, e);
    if (r < 0)
        return job->record->error.code ? server_failed(job, e) : r;
    ask_kernel(job, s);
    if (write(s->control, "d", 1) != 1)
        return server_failed(job, e);
    return server_says(s, job, e);
}

int run_guest(const struct run_job *job, struct thaw_error *e)
{
    struct guest g = {
        .job = job,
        .vm = {.uffd = -1, .sock = -1},
        .disk = {.sock = -1},
        .done = eventfd(0, EFD_CLOEXEC),
    };
    struct server s = {.control = -1};
    int r;

    if (g.done < 0)
        return err_errno(e, -errno, "making an eventfd");
    memset(job->record, 0, sizeof(*job->record));
    r = guest_and_server(job, &g, &s, e);
    nbd_writer_close(&g.disk);
    bench_vm_finish(&g.vm);
    server_finish(&s);
    close_fd(&g.done);
    unlink(job->memory_socket);
    unlink(job->disk_socket);
    return r;
}

/* SPDX-License-Identifier: Apache-2.0 */

/* Fetching with a disk tier: what it has is not fetched again, and what it has wrong is. */
#include "tier_traffic.h"

#include <dirent.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/clock.h"
#include "cache/cache.h"
#include "cache/tier.h"
#include "cache/tier_counters.h"
#include "fetch_fixture.h"
#include "format/sums.h"

#define GRANULES 192u /* 12 MiB, with a budget of 8 */
#define BYTES    (GRANULES * GRANULE_BYTES - 3 * PAGE_BYTES)

static char *folder; /* of the cache */

/* One life of a process. */
struct life {
    struct cache_set *caches;
    struct fetch *fetch;
    struct fetch_object *object;
};

static int set_up_group(void **state)
{
    (void)state;
    fetch_fixture_init(BYTES);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    folder = scratch_make();
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    scratch_remove(folder);
    return 0;
}

static void open_caches(struct io_engine *io, uint64_t budget, struct cache_set **ret_caches,
                        struct fetch **ret_fetch)
{
    struct cache_set_options set = {
        .backing = CACHE_BACKING_TIERED,
        .folder = folder,
        .io = io,
        .budget_bytes = budget,
        .huge = HUGE_PAGES_OFF,
    };

    assert_int_equal(cache_set_create(&set, ret_caches, NULL), 0);
    assert_int_equal(fetch_create(*ret_caches, ret_fetch, NULL), 0);
}

static void begin_budget(struct life *l, const char *sums, uint64_t budget)
{
    open_caches(f.io, budget, &l->caches, &l->fetch);
    l->object = open_object(l->fetch, "memfile", sums);
}

static void begin(struct life *l)
{
    begin_budget(l, "memfile.sums", 2 * GRANULES * GRANULE_BYTES);
}

static void end(struct life *l)
{
    fetch_object_close(l->object);
    fetch_destroy(l->fetch);
    cache_set_destroy(l->caches);
}

/* 0, or why it could not be had. */
static int read_granule(struct life *l, uint32_t granule)
{
    int r = 0;

    while (r == 0 && !is_right(l->object, granule)) {
        r = fetch_one(l->object, granule);
        if (r == -EALREADY || r == -EAGAIN)
            r = 0;
    }
    return r;
}

static void read_all(struct life *l)
{
    for (uint32_t g = 0; g < GRANULES; g++)
        assert_int_equal(read_granule(l, g), 0);
}

static void wait_for_disk(const struct life *l)
{
    uint64_t deadline_ns = clock_now_ns() + 60 * NS_PER_SEC;

    for (uint32_t g = 0; g < GRANULES;) {
        assert_true(clock_now_ns() < deadline_ns);
        if (fetch_on_disk(l->object, g))
            g++;
        else
            sched_yield();
    }
}

/* A life that has left all of the object on the disk. */
static void fill_disk(const char *sums)
{
    struct life l;

    begin_budget(&l, sums, 2 * GRANULES * GRANULE_BYTES);
    read_all(&l);
    wait_for_disk(&l);
    assert_int_equal(fetch_counters(l.fetch).not_written, 0);
    end(&l);
}

/* The tier's file whose name ends in @suffix, from malloc. */
static char *tier_path(const char *suffix)
{
    char *dir = scratch_path(folder, "tier"), *path = NULL;
    DIR *d = opendir(dir);
    struct dirent *entry;

    assert_non_null(d);
    while ((entry = readdir(d))) {
        size_t len = strlen(entry->d_name), tail = strlen(suffix);

        if (len > tail && strcmp(entry->d_name + len - tail, suffix) == 0)
            path = scratch_path(dir, entry->d_name);
    }
    closedir(d);
    free(dir);
    assert_non_null(path);
    return path;
}

static void flip(const char *suffix, uint64_t offset)
{
    char *path = tier_path(suffix);
    int fd = open(path, O_RDWR);
    unsigned char byte;

    assert_int_equal(file_read_at(fd, &byte, 1, offset), 1);
    byte ^= 1;
    assert_int_equal(file_write_at(fd, &byte, 1, offset), 0);
    close(fd);
    free(path);
}

static void hide(const char *object, bool back)
{
    char *path = build_fixture_object(&f, object), *hidden;

    assert_true(asprintf(&hidden, "%s.hidden", path) > 0);
    assert_int_equal(back ? rename(hidden, path) : rename(path, hidden), 0);
    free(hidden);
    free(path);
}

/* --- */

static void next_life_asks_the_store_for_nothing(void **state)
{
    struct life l;

    (void)state;
    fill_disk("memfile.sums");
    hide("memfile", false);
    hide("memfile.sums", false);
    begin(&l);
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, 0);
    assert_int_equal(fetch_counters(l.fetch).disk_bytes, BYTES);
    end(&l);
    hide("memfile", true);
    hide("memfile.sums", true);
}

static void an_object_without_sums_is_kept_too(void **state)
{
    struct life l;

    (void)state;
    fill_disk(NULL);
    flip(".data", 7 * GRANULE_BYTES + 99);
    begin_budget(&l, NULL, 2 * GRANULES * GRANULE_BYTES);
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).read_bytes % GRANULE_BYTES, 0);
    assert_in_range(fetch_counters(l.fetch).read_bytes, GRANULE_BYTES, 8 * GRANULE_BYTES);
    end(&l);
}

static void what_is_evicted_comes_back_from_disk(void **state)
{
    struct life l;
    uint64_t from_store;

    (void)state;
    fill_disk("memfile.sums");
    begin_budget(&l, "memfile.sums", CACHE_BUDGET_MIN);
    for (unsigned round = 0; round < 3; round++)
        read_all(&l);
    from_store = fetch_counters(l.fetch).read_bytes;
    assert_int_equal(from_store, 0);
    assert_true(fetch_counters(l.fetch).disk_bytes > 2 * (uint64_t)BYTES);
    end(&l);
}

/* Also with a store whose pages of sums are known by then, and differ. */
static void damage_is_fetched_again(void **state)
{
    struct life l;

    (void)state;
    fill_disk("memfile.sums");
    flip(".data", 0);
    flip(".data", 100 * GRANULE_BYTES + 4097);
    flip(".data", BYTES - 1);
    begin(&l);
    read_all(&l);
    assert_true(fetch_counters(l.fetch).read_bytes > 0);
    assert_in_range(fetch_counters(l.fetch).read_bytes, 2 * GRANULE_BYTES, 24 * GRANULE_BYTES);
    assert_int_equal(fetch_counters(l.fetch).failed, 0);
    assert_in_range(tier_counters(cache_set_tier(l.caches)).damaged, 3, 24);
    wait_for_disk(&l); /* it is written again */
    end(&l);
    begin(&l);
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, 0);
    end(&l);
}

static void damage_without_a_store_is_an_error(void **state)
{
    struct life l;

    (void)state;
    fill_disk("memfile.sums");
    flip(".data", 5 * GRANULE_BYTES);
    hide("memfile", false);
    begin(&l);
    for (uint32_t g = 0; g < 5; g++)
        assert_int_equal(read_granule(&l, g), 0);
    assert_int_equal(read_granule(&l, 5), -ENOENT);
    hide("memfile", true);
    assert_int_equal(read_granule(&l, 5), 0);
    end(&l);
}

static void damaged_sums_are_none(void **state)
{
    struct life l;

    (void)state;
    fill_disk("memfile.sums");
    flip(".sums", SUMS_PAGE_BYTES + 100);
    begin(&l);
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, BYTES);
    end(&l);
}

static void a_truncated_file_is_none(void **state)
{
    char *path;
    struct life l;

    (void)state;
    fill_disk("memfile.sums");
    path = tier_path(".data");
    assert_int_equal(truncate(path, 100 * GRANULE_BYTES + 5000), 0);
    begin(&l);
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, BYTES);
    end(&l);
    free(path);
}

static void a_second_one_reads_what_the_first_writes(void **state)
{
    struct life first, second;

    (void)state;
    fill_disk("memfile.sums");
    begin(&first);
    begin(&second);
    assert_true(tier_writable(cache_set_tier(first.caches)));
    assert_false(tier_writable(cache_set_tier(second.caches)));
    assert_int_equal(tier_owner(cache_set_tier(second.caches)), getpid());
    read_all(&second);
    read_all(&first);
    assert_int_equal(fetch_counters(second.fetch).read_bytes, 0);
    assert_int_equal(fetch_counters(first.fetch).read_bytes, 0);
    end(&first);
    end(&second);
}

/* A folder made anew in the place of a store, with another build of the same name. */
static void another_store_is_not_mistaken_for_it(void **state)
{
    struct build_fixture other = f;
    struct store *store;
    char *path;
    struct fetch_object_options o = {.build = f.id, .name = "memfile", .size_bytes = BYTES};
    struct fetch_object *object;
    struct life l;

    (void)state;
    fill_disk("memfile.sums");
    other.folder = scratch_make();
    assert_int_equal(store_open(other.folder, f.io, false, &store, NULL), 0);
    begin(&l);
    o.store = store;
    assert_int_equal(fetch_object_open(l.fetch, &o, &object, NULL), 0);
    assert_false(fetch_on_disk(object, 0));
    assert_true(fetch_on_disk(l.object, 0));
    fetch_object_close(object);
    end(&l);
    store_close(store);
    path = other.folder;
    scratch_remove(path);
}

/* Closed while write-behind has not come to the end: nothing hangs, nothing is wrong later. */
static void closing_does_not_wait_for_the_disk(void **state)
{
    struct life l;

    (void)state;
    for (unsigned i = 0; i < 20; i++) {
        begin(&l);
        for (uint32_t g = 0; g < GRANULES; g += 1 + i % 3)
            assert_int_equal(read_granule(&l, g), 0);
        end(&l);
    }
}

/* --- a disk that fails --- */

/* A write of an overlay that keeps the tier's thread until it is told to go on. */
struct keeping {
    struct tier_write write;
    struct waited go_on;
};

static void keep_thread(struct tier_write *w, int result)
{
    assert_int_equal(result, 0);
    (void)waited_for(&container_of(w, struct keeping, write)->go_on);
}

static rlim_t set_file_limit(rlim_t bytes)
{
    struct rlimit l;
    rlim_t was;

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &l), 0);
    was = l.rlim_cur;
    l.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &l), 0);
    return was;
}

static void await_not_written(const struct life *l, uint64_t granules)
{
    uint64_t deadline_ns = clock_now_ns() + 60 * NS_PER_SEC;

    while (fetch_counters(l->fetch).not_written < granules) {
        assert_true(clock_now_ns() < deadline_ns);
        sched_yield();
    }
}

/* The thread gives up after some writes: what is behind them waits no more. */
static void nothing_waits_for_a_disk_that_has_failed(void **state)
{
    struct keeping k = {.go_on = WAITED_INIT};
    char *buf = buffer(RUN_BYTES);
    struct tier_file *overlay;
    struct life l;
    rlim_t was;

    (void)state;
    begin(&l);
    assert_int_equal(tier_file_create(cache_set_tier(l.caches), 1, &overlay), 0);
    fill_write(&k.write, overlay, UINT64_MAX, 1, 0, 1, buf);
    k.write.done = keep_thread;
    tier_write(cache_set_tier(l.caches), &k.write);
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).behind, GRANULES);
    assert_int_equal(fetch_counters(l.fetch).not_written, 0);
    signal(SIGXFSZ, SIG_IGN);
    was = set_file_limit(PAGE_BYTES);
    waited_over(&k.go_on, 0);
    await_not_written(&l, GRANULES);
    set_file_limit(was);
    assert_false(tier_writable(cache_set_tier(l.caches)));
    assert_int_equal(fetch_counters(l.fetch).not_written, GRANULES);
    assert_int_equal(fetch_counters(l.fetch).behind, 0);
    tier_file_close(overlay);
    end(&l);
    free(buf);
}

/* --- builds that are made anew --- */

/* A granule of the build that is in the store now, read by way of the disk tier. */
static void assert_build_has(struct build_fixture *g, unsigned char byte)
{
    struct image_extent at;
    struct cache_set *caches;
    struct fetch *fetch;
    struct image *im;
    const char *memory;

    open_caches(g->io, CACHE_BUDGET_MIN, &caches, &fetch);
    assert_int_equal(image_open(fetch, g->store, g->manifest, IMAGE_MEMORY, &im, NULL), 0);
    assert_int_equal(image_lookup(im, (struct image_off){0}, &at), 0);
    memory = fixture_pin(im, &at);
    assert_int_equal((unsigned char)memory[0], byte);
    image_unpin(im, &at);
    while (!image_on_disk(im, &at))
        sched_yield();
    image_close(im);
    fetch_destroy(fetch);
    cache_set_destroy(caches);
}

static void make_anew(struct build_fixture *g, const void *memory, size_t len)
{
    struct metadata *metadata;
    char *path = scratch_path(g->folder, "memory");
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    assert_int_equal(file_write_at(fd, memory, len, 0), 0);
    close(fd);
    assert_int_equal(store_build_delete(g->store, &g->id, NULL), 0);
    assert_int_equal(metadata_create(&metadata), 0);
    assert_int_equal(build_create(g->store, &g->id,
                                  &(struct build_source){.memory_path = path, .metadata = metadata},
                                  NULL),
                     0);
    metadata_destroy(metadata);
    manifest_destroy(g->manifest);
    assert_int_equal(build_manifest_load(g->store, &g->id, &g->manifest, NULL), 0);
    free(path);
}

/* Under the same name, in the same store, of the same size. */
static void a_build_made_anew_is_another_one(void **state)
{
    unsigned char memory[2 * GRANULE_BYTES];
    struct build_fixture g;

    (void)state;
    memset(memory, 'a', sizeof(memory));
    build_fixture_init(&g, memory, sizeof(memory));
    assert_build_has(&g, 'a');
    memset(memory, 'b', sizeof(memory));
    make_anew(&g, memory, sizeof(memory));
    assert_build_has(&g, 'b');
    build_fixture_finish(&g);
}

/* --- closed by one thread and opened by another --- */

static void *close_object(void *arg)
{
    struct life *l = arg;

    fetch_object_close(l->object);
    return NULL;
}

struct opener {
    struct life *life;
    _Atomic(pid_t) tid;
    _Atomic(bool) over;
    struct fetch_object *object;
};

static void *open_again(void *arg)
{
    struct opener *o = arg;

    o->tid = gettid();
    o->object = open_object(o->life->fetch, "memfile", NULL);
    o->over = true;
    return NULL;
}

static bool is_asleep(pid_t tid)
{
    char path[64], text[256] = "";
    int fd;

    snprintf(path, sizeof(path), "/proc/self/task/%d/stat", (int)tid);
    fd = open(path, O_RDONLY | O_CLOEXEC);
    (void)!file_read_at(fd, text, sizeof(text) - 1, 0);
    close(fd);
    return strstr(text, ") S ") != NULL;
}

/* It has what is on the disk all the same. */
static void what_is_being_closed_is_opened_again(void **state)
{
    struct life l;
    struct opener opener = {.life = &l};
    pthread_t closing, opening;

    (void)state;
    fill_disk("memfile.sums");
    begin(&l);
    assert_int_equal(read_granule(&l, 0), 0);
    assert_non_null(fetch_pin(l.object, 0)); /* the close waits for its end */
    assert_int_equal(pthread_create(&closing, NULL, close_object, &l), 0);
    while (cache_size(fetch_cache(l.object)) != -ESHUTDOWN)
        sched_yield();
    assert_int_equal(pthread_create(&opening, NULL, open_again, &opener), 0);
    while (!opener.over && !(opener.tid && is_asleep(opener.tid)))
        sched_yield();
    fetch_unpin(l.object, 0);
    pthread_join(closing, NULL);
    pthread_join(opening, NULL);
    l.object = opener.object;
    read_all(&l);
    assert_int_equal(fetch_counters(l.fetch).read_bytes, 0);
    end(&l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(next_life_asks_the_store_for_nothing, set_up, tear_down),
        cmocka_unit_test_setup_teardown(an_object_without_sums_is_kept_too, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_evicted_comes_back_from_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_is_fetched_again, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damage_without_a_store_is_an_error, set_up, tear_down),
        cmocka_unit_test_setup_teardown(damaged_sums_are_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_truncated_file_is_none, set_up, tear_down),
        cmocka_unit_test_setup_teardown(a_second_one_reads_what_the_first_writes, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(another_store_is_not_mistaken_for_it, set_up, tear_down),
        cmocka_unit_test_setup_teardown(closing_does_not_wait_for_the_disk, set_up, tear_down),
        cmocka_unit_test_setup_teardown(nothing_waits_for_a_disk_that_has_failed, set_up,
                                        tear_down),
        cmocka_unit_test_setup_teardown(a_build_made_anew_is_another_one, set_up, tear_down),
        cmocka_unit_test_setup_teardown(what_is_being_closed_is_opened_again, set_up, tear_down),
    };

    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "image/overlay.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/resource.h>

#include "format/page_set.h"
#include "layers_fixture.h"

#define PAGES 300u /* no whole number of granules */
#define BYTES (PAGES * PAGE_BYTES)

static struct layers_fixture f;
static struct image *image;
static struct overlay *overlay;

static int set_up_group(void **state)
{
    (void)state;
    layers_fixture_init(&f, BYTES, 11);
    return 0;
}

static int tear_down_group(void **state)
{
    (void)state;
    layers_fixture_finish(&f);
    return 0;
}

static int set_up(void **state)
{
    (void)state;
    image = layers_fixture_open(&f);
    assert_int_equal(overlay_create(image, &f.ids[LAYERS - 1], "rootfs", &overlay, NULL), 0);
    return 0;
}

static int tear_down(void **state)
{
    (void)state;
    overlay_destroy(overlay);
    image_close(image); /* would not return if anything were pinned */
    return 0;
}

/* Makes what the image has at @x ready. */
static void fetch(const struct overlay_extent *x)
{
    if (x->source == OVERLAY_IMAGE) {
        assert_non_null(fixture_pin(image, &x->at));
        image_unpin(image, &x->at);
    }
}

static void read_all(char *buf)
{
    for (uint64_t off = 0; off < BYTES;) {
        struct overlay_extent x;

        assert_int_equal(overlay_lookup(overlay, off, BYTES - off, &x), 0);
        assert_int_equal(x.off, off);
        assert_in_range(x.len_bytes, 1, BYTES - off);
        fetch(&x);
        assert_int_equal(overlay_copy(overlay, &x, buf + off, x.len_bytes), 0);
        off += x.len_bytes;
    }
}

static void nothing_changed_is_the_image(void **state)
{
    char *got = malloc(BYTES);

    (void)state;
    assert_int_equal(overlay_bytes(overlay), BYTES);
    assert_int_equal(overlay_allocated_bytes(overlay), 0);
    read_all(got);
    assert_memory_equal(got, f.content, BYTES);
    free(got);
}

/* Where the image has bytes and not zeros, from @off on. */
static uint64_t find_stored(uint64_t off)
{
    struct overlay_extent x;

    for (;; off += x.len_bytes) {
        assert_int_equal(overlay_lookup(overlay, off, BYTES - off, &x), 0);
        if (x.source == OVERLAY_IMAGE && x.len_bytes >= 3 * PAGE_BYTES)
            return off;
    }
}

static void changes_hide_the_image(void **state)
{
    uint64_t off = find_stored(30 * PAGE_BYTES);
    struct fetch_counters before = fetch_counters(f.fetch);
    char block[PAGE_BYTES], got[PAGE_BYTES];
    struct overlay_extent x;
    const void *memory;
    uint64_t n;

    (void)state;
    memset(block, 'w', sizeof(block));
    assert_int_equal(overlay_lookup(overlay, off, PAGE_BYTES, &x), 0);
    assert_int_equal(overlay_copy(overlay, &x, got, PAGE_BYTES), -EAGAIN);
    assert_int_equal(overlay_write(overlay, off, block, PAGE_BYTES), 0);
    assert_int_equal(overlay_zero(overlay, off + PAGE_BYTES, PAGE_BYTES), 0);

    assert_int_equal(overlay_lookup(overlay, off + 10, BYTES - off - 10, &x), 0);
    assert_int_equal(x.source, OVERLAY_CHANGED);
    assert_int_equal(x.len_bytes, PAGE_BYTES - 10);
    assert_int_equal(overlay_copy(overlay, &x, got, x.len_bytes), 0);
    assert_memory_equal(got, block, PAGE_BYTES - 10);
    assert_int_equal(overlay_memory(overlay, &x, &memory, &n), 0);
    assert_int_equal(n, PAGE_BYTES - 10);
    assert_memory_equal(memory, block, PAGE_BYTES - 10);
    assert_int_equal(overlay_allocated_bytes(overlay), PAGE_BYTES);

    assert_int_equal(overlay_lookup(overlay, off + PAGE_BYTES, BYTES - off - PAGE_BYTES, &x), 0);
    assert_int_equal(x.source, OVERLAY_ZEROS);
    assert_int_equal(x.len_bytes, PAGE_BYTES);
    assert_int_equal(overlay_memory(overlay, &x, &memory, &n), -ENODATA);
    assert_int_equal(overlay_lookup(overlay, off + 2 * PAGE_BYTES, PAGE_BYTES, &x), 0);
    assert_int_equal(x.source, OVERLAY_IMAGE);
    assert_int_equal(fetch_counters(f.fetch).flights, before.flights);
}

static void wrong_ranges_are_refused(void **state)
{
    struct overlay_extent x;
    char block[PAGE_BYTES] = "";

    (void)state;
    assert_int_equal(overlay_lookup(overlay, BYTES, 1, &x), -EINVAL);
    assert_int_equal(overlay_lookup(overlay, BYTES - 1, 2, &x), -EINVAL);
    assert_int_equal(overlay_lookup(overlay, 0, 0, &x), -EINVAL);
    assert_int_equal(overlay_write(overlay, 1, block, PAGE_BYTES), -EINVAL);
    assert_int_equal(overlay_write(overlay, 0, block, 1), -EINVAL);
    assert_int_equal(overlay_write(overlay, BYTES, block, PAGE_BYTES), -EINVAL);
    assert_int_equal(overlay_zero(overlay, 0, 10), -EINVAL);
}

static void no_room_is_said_so(void **state)
{
    struct rlimit old, small = {.rlim_cur = 2 * PAGE_BYTES};
    char block[PAGE_BYTES] = "";

    (void)state;
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &old), 0);
    small.rlim_max = old.rlim_max;
    signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    assert_int_equal(overlay_write(overlay, 2 * PAGE_BYTES, block, PAGE_BYTES), -ENOSPC);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &old), 0);
    assert_int_equal(overlay_write(overlay, 2 * PAGE_BYTES, block, PAGE_BYTES), 0);
}

/* --- random changes against an array, and their export --- */

static void change(struct test_random *rng, unsigned char *model)
{
    uint64_t page = test_random_below(rng, PAGES);
    uint64_t most = 1 + test_random_below(rng, 5);
    size_t n = MIN(most, PAGES - page) * PAGE_BYTES;
    unsigned char *at = model + page * PAGE_BYTES;

    if (test_random_below(rng, 3) == 0) {
        memset(at, 0, n);
        assert_int_equal(overlay_zero(overlay, page * PAGE_BYTES, n), 0);
    } else {
        memset(at, (int)test_random_below(rng, 256), n);
        at[test_random_below(rng, n)] ^= 1;
        assert_int_equal(overlay_write(overlay, page * PAGE_BYTES, at, n), 0);
    }
}

/* What is exported, laid over the image, is what the overlay reads as. */
static void check_export(const unsigned char *model)
{
    struct page_set dirty CLEANUP_PAGE_SET = {0}, zero CLEANUP_PAGE_SET = {0};
    struct thaw_error e = THAW_ERROR_INIT;
    struct buf diff CLEANUP_BUF = {0};
    unsigned char *laid = malloc(BYTES);
    int dir = open(f.folder, O_RDONLY | O_DIRECTORY);
    size_t packed = 0;
    int r = overlay_export(overlay, dir, "diff", &dirty, &zero, &e);

    if (r == -EINVAL) { /* a file system without O_DIRECT */
        print_message("no export here: %s\n", e.text);
    } else {
        assert_int_equal(r, 0);
        assert_int_equal(file_load(dir, "diff", BYTES, &diff), 0);
        memcpy(laid, f.content, BYTES);
        for (size_t i = 0; i < dirty.count; i++) {
            size_t n = dirty.ranges[i].pages * PAGE_BYTES;

            memcpy(laid + dirty.ranges[i].start * PAGE_BYTES, diff.data + packed, n);
            packed += n;
        }
        for (size_t i = 0; i < zero.count; i++)
            memset(laid + zero.ranges[i].start * PAGE_BYTES, 0, zero.ranges[i].pages * PAGE_BYTES);
        assert_int_equal(packed, diff.len);
        assert_memory_equal(laid, model, BYTES);
        assert_int_equal(unlinkat(dir, "diff", 0), 0);
    }
    close(dir);
    free(laid);
}

static void it_behaves_as_the_model(void **state)
{
    unsigned char *model = malloc(BYTES);
    char *got = malloc(BYTES);
    struct test_random rng = {5};

    (void)state;
    memcpy(model, f.content, BYTES);
    for (unsigned i = 0; i < 100; i++) {
        change(&rng, model);
        if (i % 10 == 0) {
            read_all(got);
            assert_memory_equal(got, model, BYTES);
        }
    }
    check_export(model);
    free(got);
    free(model);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, set_up, tear_down)
    const struct CMUnitTest tests[] = {
        TEST(nothing_changed_is_the_image), TEST(changes_hide_the_image),
        TEST(wrong_ranges_are_refused),     TEST(no_room_is_said_so),
        TEST(it_behaves_as_the_model),
    };

    return cmocka_run_group_tests(tests, set_up_group, tear_down_group);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "../lib/test_random.h"
#include "base/bytes.h"
#include "base/file.h"
#include "base/units.h"
#include "fuzz.h"

/*
 * Runs a fuzz target without libFuzzer: every file of a corpus, then mutations of them.
 *
 *   replay-NAME CORPUS-FOLDER [MUTATIONS [SEED]]
 *
 * The seed is printed first; with it, the same run can be had again. Mutation number n depends on
 * the seed and n alone.
 */

#define MAX_FILES      1000
#define MAX_FILE_BYTES MIB

struct corpus {
    struct buf files[MAX_FILES];
    size_t count;
};

static int compare_names(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name); /* not alphasort(): the same in every locale */
}

static int no_dot(const struct dirent *entry)
{
    return entry->d_name[0] != '.';
}

static int load_corpus(const char *folder, struct corpus *c)
{
    struct dirent **entries = NULL;
    int count = scandir(folder, &entries, no_dot, compare_names);
    int dir CLEANUP_FD = open(folder, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = 0;

    if (count <= 0 || count > MAX_FILES || dir < 0) {
        fprintf(stderr, "%s: no folder with 1 to %d files\n", folder, MAX_FILES);
        r = -ENOENT;
    }
    for (int i = 0; i < count; i++) {
        if (r == 0) {
            r = file_load(dir, entries[i]->d_name, MAX_FILE_BYTES, &c->files[c->count++]);
            if (r < 0)
                fprintf(stderr, "%s/%s: %s\n", folder, entries[i]->d_name, strerror(-r));
        }
        free(entries[i]);
    }
    free(entries);
    return r;
}

/* Runs the target on a copy of exactly that size, so that a sanitizer sees a read past the end. */
static void run(const uint8_t *data, size_t len)
{
    uint8_t *copy = malloc(len ? len : 1);

    if (!copy)
        abort();
    if (len > 0)
        memcpy(copy, data, len);
    LLVMFuzzerTestOneInput(copy, len);
    free(copy);
}

static void remove_range(struct buf *b, size_t at, size_t len)
{
    len = MIN(len, b->len - at);
    memmove(b->data + at, b->data + at + len, b->len - at - len);
    b->len -= len;
}

static void insert(struct buf *b, size_t at, const uint8_t *bytes, size_t len)
{
    size_t behind = b->len - at;

    if (len == 0 || b->len + len > MAX_FILE_BYTES || !buf_extend(b, len))
        return;
    memmove(b->data + at + len, b->data + at, behind);
    memcpy(b->data + at, bytes, len);
}

/* Puts a number that tends to lie at somebody's limit, of 1, 2, 4 or 8 bytes. */
static void put_number(struct test_random *t, struct buf *b, size_t at)
{
    uint64_t v = UINT64_C(1) << test_random_below(t, 64);
    size_t len = (size_t)1 << test_random_below(t, 4);

    if (test_random_below(t, 2) == 0)
        v -= 1 + test_random_below(t, 2);
    if (test_random_below(t, 4) == 0)
        v = test_random_below(t, 300);
    if (at + len <= b->len)
        store_le(b->data + at, v, len);
}

static void mutate(struct test_random *t, const struct corpus *c, struct buf *b)
{
    size_t at = (size_t)test_random_below(t, b->len + 1);
    uint64_t kind = test_random_below(t, 8);

    if (kind == 0 && at < b->len) { /* one bit */
        b->data[at] ^= (uint8_t)(1 << test_random_below(t, 8));
    } else if (kind == 1 && at < b->len) { /* one byte */
        b->data[at] = (uint8_t)test_random_next(t);
    } else if (kind == 2) {
        put_number(t, b, at);
    } else if (kind == 3) {
        remove_range(b, at, (size_t)(1 + test_random_below(t, 50)));
    } else if (kind == 4) { /* cut the end */
        b->len = at;
    } else if (kind == 5) { /* a part of it again */
        size_t from = (size_t)test_random_below(t, b->len + 1);
        size_t len = (size_t)test_random_below(t, 60);
        struct buf part CLEANUP_BUF = {0};

        buf_put(&part, b->data + from, MIN(b->len - from, len));
        insert(b, at, part.data, part.len);
    } else if (kind == 6) { /* a part of another one */
        const struct buf *other = &c->files[test_random_below(t, c->count)];
        size_t from = (size_t)test_random_below(t, other->len + 1);
        size_t len = (size_t)test_random_below(t, 200);

        insert(b, at, other->data + from, MIN(other->len - from, len));
    } else { /* a digit, a quote or a bracket, for texts */
        static const uint8_t bytes[] = "0123456789-.e\"{}[],:\\nfu";

        insert(b, at, &bytes[test_random_below(t, sizeof(bytes) - 1)], 1);
    }
}

static void run_mutation(const struct corpus *c, uint64_t seed, uint64_t number)
{
    struct test_random t = {.state = seed ^ number * UINT64_C(0xd1342543de82ef95)};
    const struct buf *file = &c->files[test_random_below(&t, c->count)];
    struct buf b CLEANUP_BUF = {0};
    uint64_t mutations = 1 + test_random_below(&t, 5);

    buf_put(&b, file->data, file->len);
    for (uint64_t i = 0; i < mutations && !b.failed; i++)
        mutate(&t, c, &b);
    run(b.data, b.len);
}

int main(int argc, char **argv)
{
    static struct corpus c;
    uint64_t mutations = argc > 2 ? strtoull(argv[2], NULL, 0) : 0;
    uint64_t seed = 0;

    if (argc < 2 || argc > 4) {
        fprintf(stderr, "usage: %s CORPUS-FOLDER [MUTATIONS [SEED]]\n", argv[0]);
        return 2;
    }
    if (argc > 3)
        seed = strtoull(argv[3], NULL, 0);
    else if (getrandom(&seed, sizeof(seed), 0) != (ssize_t)sizeof(seed))
        return 1;
    if (load_corpus(argv[1], &c) < 0)
        return 1;
    printf("%zu files, %" PRIu64 " mutations, seed %" PRIu64 "\n", c.count, mutations, seed);
    fflush(stdout);
    for (size_t i = 0; i < c.count; i++)
        run(c.files[i].data, c.files[i].len);
    run(NULL, 0);
    for (uint64_t i = 0; i < mutations; i++)
        run_mutation(&c, seed, i);
    for (size_t i = 0; i < c.count; i++)
        buf_finish(&c.files[i]);
    printf("all done\n");
    return 0;
}

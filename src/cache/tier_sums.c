/* SPDX-License-Identifier: Apache-2.0 */

/*
 * The file of sums behind a file of the disk tier. It is written after the data, page by page: who
 * finds a sum there finds the data, too. A page that is damaged stands for no sums.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdalign.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/file.h"
#include "cache/tier_internal.h"

#define LOAD_PAGES 64u /* read at a time */

static uint64_t page_offset(uint32_t page)
{
    return TIER_PAGE_BYTES + (uint64_t)page * SUMS_PAGE_BYTES;
}

static uint32_t page_count(const struct tier_file *f)
{
    return (uint32_t)sums_page_count(f->size_bytes);
}

/* --- reading --- */

int tier_sums_identify(const struct tier_file *f)
{
    alignas(PAGE_BYTES) uint8_t page[TIER_PAGE_BYTES];
    struct tier_identity id;
    ssize_t n = file_read_at(f->sums_file, page, sizeof(page), 0);
    int r;

    if (n < 0)
        return (int)n;
    if (n < (ssize_t)sizeof(page))
        return -EBADMSG;
    r = tier_page_decode(page, &id, NULL);
    if (r < 0)
        return r;
    return tier_identity_same(&id, &f->identity) ? 0 : -ESTALE;
}

static void take_page(struct tier_file *f, uint32_t page, const uint8_t *bytes)
{
    uint64_t sums[SUMS_PER_PAGE];
    uint32_t first = page * SUMS_PER_PAGE;

    if (sums_page_decode(bytes, page, sums, NULL) < 0)
        return;
    for (uint32_t i = 0; i < SUMS_PER_PAGE && first + i < f->granules; i++)
        atomic_store_explicit(&f->sums[first + i], sums[i], memory_order_relaxed);
}

static void load_pages(struct tier_file *f, uint32_t first, uint32_t end, uint8_t *buf)
{
    while (first < end) {
        uint32_t count = MIN(end - first, LOAD_PAGES);
        size_t len = (size_t)count * SUMS_PAGE_BYTES;
        ssize_t n = file_read_at(f->sums_file, buf, len, page_offset(first));

        if (n < 0)
            tier_failure(f->tier, TIER_READS, (int)n);
        for (ssize_t at = 0; at + SUMS_PAGE_BYTES <= n; at += SUMS_PAGE_BYTES)
            take_page(f, first + (uint32_t)(at / SUMS_PAGE_BYTES), buf + at);
        first += count;
    }
}

void tier_sums_load(struct tier_file *f)
{
    uint8_t *buf CLEANUP_FREE = aligned_alloc(PAGE_BYTES, (size_t)LOAD_PAGES * SUMS_PAGE_BYTES);
    off_t start, end = TIER_PAGE_BYTES, last = (off_t)page_offset(page_count(f));

    while (buf && end < last && (start = lseek(f->sums_file, end, SEEK_DATA)) >= 0) {
        end = MIN(lseek(f->sums_file, start, SEEK_HOLE), last);
        if (end <= start)
            return;
        load_pages(f, (uint32_t)(start / SUMS_PAGE_BYTES - 1),
                   (uint32_t)div_round_up((uint64_t)end, SUMS_PAGE_BYTES) - 1, buf);
    }
}

/* --- writing --- */

static int write_identity(struct tier_file *f)
{
    alignas(PAGE_BYTES) uint8_t page[TIER_PAGE_BYTES];
    int r;

    if (f->identified)
        return 0;
    tier_page_encode(&f->identity, page);
    r = file_write_at(f->sums_file, page, sizeof(page), 0);
    f->identified = r == 0;
    return r;
}

static int write_page(struct tier_file *f, uint32_t page)
{
    alignas(PAGE_BYTES) uint8_t bytes[SUMS_PAGE_BYTES];
    uint64_t sums[SUMS_PER_PAGE] = {0};
    uint32_t first = page * SUMS_PER_PAGE;
    uint32_t count = MIN(f->granules - first, SUMS_PER_PAGE);

    for (uint32_t i = 0; i < count; i++) {
        if (tier_bit(f->present, first + i))
            sums[i] = atomic_load_explicit(&f->sums[first + i], memory_order_relaxed);
    }
    sums_page_encode(page, sums, count, bytes);
    return file_write_at(f->sums_file, bytes, sizeof(bytes), page_offset(page));
}

/* A page that changes while it is written is dirty again, and is written again. */
static int write_dirty(struct tier_file *f, uint32_t page)
{
    int r;

    tier_bit_clear(f->dirty, page);
    r = write_identity(f);
    if (r == 0)
        r = write_page(f, page);
    if (r < 0)
        tier_bit_set(f->dirty, page);
    return r;
}

static int write_pages(struct tier_file *f)
{
    uint32_t pages = page_count(f);
    int r = 0;

    for (uint32_t page = 0; r == 0 && page < pages; page++) {
        if (page % 64 == 0 && atomic_load_explicit(&f->dirty[page / 64], memory_order_relaxed) == 0)
            page += 63;
        else if (tier_bit(f->dirty, page))
            r = write_dirty(f, page);
    }
    return r;
}

void tier_sums_write(struct tier_file *f)
{
    struct tier *t = f->tier;
    struct stat st;
    int r;

    if (f->overlay || !f->writable || tier_given_up(t, TIER_WRITES) < 0)
        return;
    r = write_pages(f);
    if (r < 0 && r != -ENOSPC && r != -EDQUOT)
        tier_failure(t, TIER_WRITES, r);
    if (fstat(f->sums_file, &st) < 0)
        return;
    tier_account(f, (int64_t)st.st_blocks * 512 - (int64_t)f->sums_bytes);
    f->sums_bytes = (uint64_t)st.st_blocks * 512;
}

void tier_sums_write_all(struct tier *t)
{
    t->batches = 0;
    atomic_store(&t->sums_due, false);
    for (struct tier_file *f = tier_next_busy(t, NULL); f; f = tier_next_busy(t, f))
        tier_sums_write(f);
}

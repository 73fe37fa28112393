/* SPDX-License-Identifier: Apache-2.0 */

/* Which granules of a file of the disk tier are there. */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include "cache/tier_internal.h"

/* Address space for tables of all granules; pages of it that are never written cost nothing. */
int tier_tables_make(struct tier_file *f)
{
    size_t granule_words = div_round_up(f->granules, 64);
    size_t region_words = div_round_up(granule_words, 64);
    size_t page_words = div_round_up(div_round_up(f->granules, SUMS_PER_PAGE), 64);
    size_t words = f->granules + 2 * granule_words + region_words + page_words;
    _Atomic(uint64_t) *at;

    f->tables_bytes = words * sizeof(uint64_t);
    f->tables = mmap(NULL, f->tables_bytes, PROT_READ | PROT_WRITE,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (f->tables == MAP_FAILED) {
        f->tables = NULL;
        return -ENOMEM;
    }
    f->allocated = f->tables;
    at = f->tables;
    f->present = at += granule_words;
    f->used = at += granule_words;
    f->dirty = at += region_words;
    f->sums = at + page_words;
    return 0;
}

/* --- what is in the file --- */

/* All of the granule is in the file, and its sum is known. */
static void find_granule(struct tier_file *f, uint32_t granule)
{
    if (atomic_load_explicit(&f->sums[granule], memory_order_relaxed) != 0)
        tier_bit_set(f->present, granule);
}

static void find_granules(struct tier_file *f, uint64_t start, uint64_t end)
{
    uint32_t first = (uint32_t)(start / GRANULE_BYTES);
    uint32_t after = (uint32_t)div_round_up(end, GRANULE_BYTES);

    for (uint32_t g = first; g < after; g++) {
        uint64_t bit = UINT64_C(1) << g % 64;

        if (!(f->allocated[g / 64] & bit))
            tier_account(f, (int64_t)tier_bytes_of(f, g, 1));
        f->allocated[g / 64] |= bit;
        if (start <= g * GRANULE_BYTES && end >= tier_end_of(f, g, 1))
            find_granule(f, g);
    }
}

/* What a write has not got to is a hole: the kernel says so until all of it is on the disk. */
void tier_find(struct tier_file *f)
{
    off_t start = 0, end = 0, last = (off_t)round_up(f->size_bytes, PAGE_BYTES);

    while (end < last && (start = lseek(f->data, end, SEEK_DATA)) >= 0) {
        end = lseek(f->data, start, SEEK_HOLE);
        if (end <= start)
            return;
        find_granules(f, (uint64_t)start, (uint64_t)MIN(end, last));
    }
}

/* --- what is asked and told of them --- */

bool tier_has(const struct tier_file *f, uint32_t granule)
{
    return granule < f->granules && tier_bit(f->present, granule) &&
           (f->overlay || tier_given_up(f->tier, TIER_READS) == 0);
}

bool tier_serves(const struct tier_file *f, uint32_t granule)
{
    return tier_has(f, granule) && tier_moves(f->tier);
}

static void forget_of_overlay(struct tier_file *f)
{
    struct tier *t = f->tier;

    atomic_store(&f->forgotten, true);
    if (!atomic_exchange(&t->give_back, true))
        tier_rouse(t);
}

bool tier_drop(struct tier_file *f, uint32_t granule)
{
    if (granule >= f->granules || !tier_bit_clear(f->present, granule))
        return false;
    if (f->overlay) {
        forget_of_overlay(f);
    } else if (f->writable) {
        tier_bit_set(f->dirty, granule / SUMS_PER_PAGE);
        atomic_store(&f->tier->sums_due, true);
    }
    return true;
}

void tier_forget(struct tier_file *f, uint32_t granule)
{
    if (tier_drop(f, granule) && !f->overlay)
        tier_count(&f->tier->damaged, 1);
}

uint64_t tier_file_bytes(const struct tier_file *f)
{
    return atomic_load_explicit(&f->bytes, memory_order_relaxed);
}

/* SPDX-License-Identifier: Apache-2.0 */
#include "page_oracle.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/units.h"

int page_oracle_init(struct page_oracle *ret, const struct image *image, uint64_t page_bytes,
                     uint64_t seed)
{
    struct page_oracle o = {.image = *image, .page_bytes = page_bytes, .seed = seed};

    if (image->bytes % page_bytes != 0 || image->bytes / page_bytes > UINT32_MAX)
        return -EINVAL;
    o.n_pages = (uint32_t)(image->bytes / page_bytes);
    o.states = calloc(o.n_pages, sizeof(*o.states));
    if (!o.states)
        return -ENOMEM;
    *ret = o;
    return 0;
}

void page_oracle_finish(struct page_oracle *o)
{
    free(o->states);
    o->states = NULL;
}

uint8_t page_oracle_state(const struct page_oracle *o, uint32_t page)
{
    return atomic_load_explicit(&o->states[page], memory_order_acquire);
}

bool page_oracle_flag(struct page_oracle *o, uint32_t page, uint8_t flag)
{
    return !(atomic_fetch_or_explicit(&o->states[page], flag, memory_order_relaxed) & flag);
}

static enum page_phase phase_of(uint8_t state)
{
    return (enum page_phase)(state & PAGE_PHASE_MASK);
}

static uint8_t with_phase(uint8_t state, enum page_phase phase)
{
    return (uint8_t)((state & ~PAGE_PHASE_MASK) | phase);
}

/*
 * Exchanges the state for what @next makes of it; @next returns the same value to refuse. The
 * order is sequentially consistent: the new phase is visible before the write or madvise() that
 * follows, and the old accesses are over before a phase that says so.
 */
static bool change_state(struct page_oracle *o, uint32_t page, uint8_t (*next)(uint8_t state))
{
    uint8_t now = atomic_load(&o->states[page]), wanted;

    do {
        wanted = next(now);
        if (wanted == now)
            return false;
    } while (!atomic_compare_exchange_weak(&o->states[page], &now, wanted));
    return true;
}

static uint8_t next_on_write(uint8_t state)
{
    if (state & PAGE_CLAIMED)
        return state;
    if (phase_of(state) == PAGE_IMAGE)
        return with_phase(state, PAGE_WRITING) | PAGE_CLAIMED | PAGE_MARKED;
    if (phase_of(state) == PAGE_ZERO)
        return with_phase(state, PAGE_REWRITING) | PAGE_CLAIMED;
    return state;
}

static uint8_t next_on_remove(uint8_t state)
{
    if (state & PAGE_CLAIMED)
        return state;
    switch (phase_of(state)) {
    case PAGE_IMAGE:
    case PAGE_WRITTEN:
        return with_phase(state, PAGE_REMOVING) | PAGE_CLAIMED;
    case PAGE_ZERO:
        return state | PAGE_CLAIMED;
    default:
        return state;
    }
}

static uint8_t next_on_settle(uint8_t state)
{
    static const enum page_phase next[] = {
        [PAGE_WRITING] = PAGE_WRITTEN,
        [PAGE_REMOVING] = PAGE_ZERO,
        [PAGE_ZERO] = PAGE_ZERO,
        [PAGE_REWRITING] = PAGE_REWRITTEN,
    };

    assert(state & PAGE_CLAIMED && phase_of(state) < ARRAY_SIZE(next));
    return with_phase(state, next[phase_of(state)]) & (uint8_t)~PAGE_CLAIMED;
}

static uint8_t next_on_abandon(uint8_t state)
{
    assert(state & PAGE_CLAIMED);
    state &= (uint8_t)~PAGE_CLAIMED;
    if (phase_of(state) == PAGE_WRITING)
        return with_phase(state, PAGE_IMAGE) & (uint8_t)~PAGE_MARKED;
    return with_phase(state, PAGE_ZERO);
}

bool page_oracle_claim_write(struct page_oracle *o, uint32_t page)
{
    return change_state(o, page, next_on_write);
}

bool page_oracle_claim_remove(struct page_oracle *o, uint32_t page)
{
    return change_state(o, page, next_on_remove);
}

void page_oracle_settle(struct page_oracle *o, uint32_t page)
{
    change_state(o, page, next_on_settle);
}

void page_oracle_abandon_write(struct page_oracle *o, uint32_t page)
{
    change_state(o, page, next_on_abandon);
}

/* First word of the page's mark. */
static size_t mark_of(const struct page_oracle *o, uint32_t page)
{
    uint64_t places = o->page_bytes / sizeof(uint64_t) / MARK_WORDS;

    return util_mix(o->seed ^ page) % places * MARK_WORDS;
}

/* @generation 1 is written over the image, 2 over zeros. */
static uint64_t pattern(const struct page_oracle *o, uint32_t page, size_t word,
                        unsigned generation)
{
    return util_mix(util_mix(o->seed + generation) ^ page * o->page_bytes ^ word) | 1;
}

void page_oracle_write_mark(const struct page_oracle *o, uint32_t page, char *host)
{
    uint64_t *words = (uint64_t *)(void *)host;
    size_t mark = mark_of(o, page);
    unsigned generation = phase_of(page_oracle_state(o, page)) == PAGE_WRITING ? 1 : 2;

    for (size_t i = mark; i < mark + MARK_WORDS; i++)
        __atomic_store_n(&words[i], pattern(o, page, i, generation), __ATOMIC_RELEASE);
}

void page_oracle_begin(const struct page_oracle *o, const char *host, struct page_read *read)
{
    const uint64_t *words = (const uint64_t *)(const void *)host;

    read->before = page_oracle_state(o, read->page);
    read->first_value = __atomic_load_n(&words[read->first_word], __ATOMIC_ACQUIRE);
}

void page_oracle_read(const struct page_oracle *o, const char *host, struct page_read *read)
{
    const uint64_t *words = (const uint64_t *)(const void *)host;

    for (size_t i = 0; i < o->page_bytes / sizeof(uint64_t); i++)
        read->words[i] = __atomic_load_n(&words[i], __ATOMIC_ACQUIRE);
    read->after = page_oracle_state(o, read->page);
}

/* Judgement of one read: how far the page has got, as far as the words tell. */
struct judge {
    enum page_phase p0, p1;
    bool marked;
    bool zeroed; /* a word has shown that the page was removed */
};

static bool plain_word_is_right(struct judge *j, uint64_t image, uint64_t got)
{
    if (got == 0 && image != 0 && j->p1 >= PAGE_REMOVING) {
        j->zeroed = true;
        return true;
    }
    return got == (j->zeroed ? 0 : image);
}

static bool mark_word_is_right(const struct judge *j, uint64_t image, const uint64_t patterns[2],
                               uint64_t got)
{
    if (got == image && (j->p0 <= PAGE_WRITING || (j->p0 <= PAGE_REMOVING && !j->marked)))
        return true;
    if (got == patterns[0] && j->marked && j->p1 >= PAGE_WRITING && j->p0 <= PAGE_REMOVING)
        return true;
    if (got == 0 && j->p1 >= PAGE_REMOVING && j->p0 <= PAGE_REWRITING)
        return true;
    return got == patterns[1] && j->p1 >= PAGE_REWRITING;
}

/* The likeliest value that was meant, for the message. */
static uint64_t expected_word(const struct judge *j, uint64_t image, const uint64_t *patterns)
{
    if (patterns && j->p0 == PAGE_REWRITTEN)
        return patterns[1];
    if (j->zeroed)
        return 0;
    if (patterns && j->p0 >= PAGE_WRITTEN && j->marked)
        return patterns[0];
    return image;
}

static void report_wrong(const struct page_oracle *o, const struct page_read *read, size_t word,
                         uint64_t expected, uint64_t got, struct page_wrong *ret)
{
    uint8_t want[sizeof(uint64_t)], have[sizeof(uint64_t)];
    size_t byte = 0;

    memcpy(want, &expected, sizeof(want));
    memcpy(have, &got, sizeof(have));
    while (byte < sizeof(want) - 1 && want[byte] == have[byte])
        byte++;
    *ret = (struct page_wrong){
        .page = read->page,
        .offset = read->page * o->page_bytes + word * sizeof(uint64_t) + byte,
        .expected = want[byte],
        .got = have[byte],
        .before = read->before,
        .after = read->after,
    };
}

static bool judge_word(const struct page_oracle *o, const struct page_read *read, struct judge *j,
                       size_t word, uint64_t got, struct page_wrong *ret_wrong)
{
    size_t mark = mark_of(o, read->page);
    const char *at = o->image.data + read->page * o->page_bytes + word * sizeof(uint64_t);
    uint64_t image, patterns[2];
    bool in_mark = word >= mark && word < mark + MARK_WORDS, right;

    memcpy(&image, at, sizeof(image));
    if (in_mark) {
        patterns[0] = pattern(o, read->page, word, 1);
        patterns[1] = pattern(o, read->page, word, 2);
        right = mark_word_is_right(j, image, patterns, got);
    } else {
        right = plain_word_is_right(j, image, got);
    }
    if (!right)
        report_wrong(o, read, word, expected_word(j, image, in_mark ? patterns : NULL), got,
                     ret_wrong);
    return right;
}

bool page_oracle_check(const struct page_oracle *o, const struct page_read *read,
                       struct page_wrong *ret_wrong)
{
    struct judge j = {.p0 = phase_of(read->before), .p1 = phase_of(read->after)};

    /* Only an abandoned write goes backwards, and nobody has seen anything of it. */
    if (j.p1 < j.p0)
        j.p1 = j.p0;
    j.marked = (read->before | read->after) & PAGE_MARKED;
    j.zeroed = j.p0 > PAGE_REMOVING;
    if (!judge_word(o, read, &j, read->first_word, read->first_value, ret_wrong))
        return false;
    for (size_t i = 0; i < o->page_bytes / sizeof(uint64_t); i++)
        if (!judge_word(o, read, &j, i, read->words[i], ret_wrong))
            return false;
    return true;
}

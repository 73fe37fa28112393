/* SPDX-License-Identifier: Apache-2.0 */
#include "cache/pool.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/thread.h"
#include "cache/internal.h"

#define LOOKS      128u /* used ones that are passed over for one that is not */
#define GIVE_BATCH 32u  /* slots whose memory is given back between two looks at the lock */

/* A slot's list and neighbours are its holder's while it is claimed or dirty, else under the lock.
 */
struct slot {
    struct cache *cache; /* [m] mu: borrowed, of the granule in it; it leaves before it is closed */
    uint64_t age;        /* [m] mu: no two contents have the same; 0 for none */
    uint32_t granule;    /* [m] mu */
    uint32_t holds;      /* [m] mu */
    uint32_t next, prev;
    uint32_t live; /* the holder's of a dirty one */
};

struct list {
    uint32_t first, last, count;
};

#define LIST_INIT                                                                                  \
    {                                                                                              \
        POOL_NONE, POOL_NONE, 0                                                                    \
    }

struct pool {
    int fd;             /* owned */
    char *memory;       /* owned: slot_count slots, all mapped, few of them touched at first */
    struct slot *slots; /* owned */
    uint32_t slot_count;
    pthread_mutex_t mu;  /* a leaf */
    uint32_t limit;      /* [m] mu: slots that may have memory */
    uint32_t live;       /* [m] mu: slots that have; above the limit only after it was lowered */
    uint32_t fresh;      /* [m] mu: from here on none was ever used */
    struct list free;    /* [m] mu: they have memory */
    struct list surplus; /* [m] mu: free, and their memory is to be given back */
    uint32_t giving;     /* [m] mu: how many are being given back now */
    struct list gone;    /* [m] mu: their memory was given back */
    struct list queue;   /* [m] mu: the clock */
    uint32_t claimed, held, dirty; /* [m] mu: how many there are */
    uint64_t last_age;             /* [m] mu */
    uint64_t evicted;              /* [m] mu */
};

/* --- lists --- */

static void link_between(struct pool *p, struct list *l, uint32_t s, uint32_t prev, uint32_t next)
{
    p->slots[s].prev = prev;
    p->slots[s].next = next;
    *(prev == POOL_NONE ? &l->first : &p->slots[prev].next) = s;
    *(next == POOL_NONE ? &l->last : &p->slots[next].prev) = s;
    l->count++;
}

static void push_last(struct pool *p, struct list *l, uint32_t s)
{
    link_between(p, l, s, l->last, POOL_NONE);
}

static void unlink_slot(struct pool *p, struct list *l, uint32_t s)
{
    uint32_t prev = p->slots[s].prev, next = p->slots[s].next;

    *(prev == POOL_NONE ? &l->first : &p->slots[prev].next) = next;
    *(next == POOL_NONE ? &l->last : &p->slots[next].prev) = prev;
    l->count--;
}

static uint32_t pop_first(struct pool *p, struct list *l)
{
    uint32_t s = l->first;

    if (s != POOL_NONE)
        unlink_slot(p, l, s);
    return s;
}

/* --- life --- */

static uint64_t memory_of_the_host(void)
{
    long pages = sysconf(_SC_PHYS_PAGES), page = sysconf(_SC_PAGE_SIZE);

    return pages > 0 && page > 0 ? (uint64_t)pages * (uint64_t)page : 0;
}

/* Address space, that costs nothing, for any budget that makes sense. */
static int map_memory(struct pool *p, uint64_t bytes)
{
    void *memory, *slots;

    p->slot_count = (uint32_t)MIN(bytes / GRANULE_BYTES, POOL_NONE - 1);
    bytes = p->slot_count * GRANULE_BYTES;
    p->fd = memfd_create("thaw:pool", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (p->fd < 0 || ftruncate(p->fd, (off_t)bytes) < 0 ||
        fcntl(p->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return -errno;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, p->fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    p->memory = memory;
    slots = mmap(NULL, p->slot_count * sizeof(struct slot), PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (slots == MAP_FAILED)
        return -errno;
    p->slots = slots;
    return 0;
}

static uint32_t slots_of(const struct pool *p, uint64_t budget_bytes)
{
    return (uint32_t)MIN(budget_bytes / GRANULE_BYTES, p->slot_count);
}

int pool_create(uint64_t budget_bytes, struct pool **ret)
{
    struct pool *p = calloc(1, sizeof(*p));
    int r;

    if (!p)
        return -ENOMEM;
    p->fd = -1;
    pthread_mutex_init(&p->mu, NULL);
    p->free = p->surplus = p->gone = p->queue = (struct list)LIST_INIT;
    r = map_memory(p, MAX(budget_bytes, memory_of_the_host()));
    if (r < 0) {
        pool_destroy(p);
        return r;
    }
    p->limit = slots_of(p, budget_bytes);
    *ret = p;
    return 0;
}

void pool_destroy(struct pool *p)
{
    if (!p)
        return;
    assert(p->claimed == 0 && p->held == 0 && p->dirty == 0 && p->queue.count == 0);
    if (p->slots)
        munmap(p->slots, p->slot_count * sizeof(struct slot));
    if (p->memory)
        munmap(p->memory, p->slot_count * GRANULE_BYTES);
    close_fd(&p->fd);
    pthread_mutex_destroy(&p->mu);
    free(p);
}

char *pool_memory(const struct pool *p)
{
    return p->memory;
}

uint32_t pool_next(const struct pool *p, uint32_t slot)
{
    return p->slots[slot].next;
}

void pool_link(struct pool *p, uint32_t slot, uint32_t next)
{
    p->slots[slot].next = next;
}

uint32_t *pool_live(struct pool *p, uint32_t slot)
{
    return &p->slots[slot].live;
}

/* Builds that look for mistakes: whoever reads a slot that is not his reads this. */
static void scribble(const struct pool *p, uint32_t first)
{
    if (!POOL_SCRIBBLES)
        return;
    for (uint32_t s = first; s != POOL_NONE; s = p->slots[s].next)
        memset(p->memory + s * GRANULE_BYTES, POOL_SCRIBBLE, GRANULE_BYTES);
}

/* --- how many --- */

/* Kept from overlays for what is being fetched. */
static uint32_t reserve_locked(const struct pool *p)
{
    return MAX(p->limit / 8, PASSING_PLACES);
}

/* Slots that may have memory: more than the limit only as far as they are dirty. */
static uint32_t most_locked(const struct pool *p)
{
    return MAX(p->limit, p->dirty + reserve_locked(p));
}

static bool too_many_locked(const struct pool *p)
{
    return p->live - p->surplus.count - p->giving > most_locked(p);
}

/* Frees a list, in front of the others and in its order. */
static void untake_locked(struct pool *p, uint32_t first)
{
    uint32_t last = POOL_NONE, next;

    for (; first != POOL_NONE; first = next) {
        next = p->slots[first].next;
        if (too_many_locked(p)) {
            push_last(p, &p->surplus, first);
            continue;
        }
        link_between(p, &p->free, first, last,
                     last == POOL_NONE ? p->free.first : p->slots[last].next);
        last = first;
    }
}

/* --- taking --- */

/* How to look for one that can be evicted. */
struct search {
    uint32_t chances; /* how many used ones to spare */
    uint32_t looks;   /* after which to give up */
};

/* Goes twice around, if it must: the second time whatever is not pinned will do. */
static struct search any_locked(const struct pool *p)
{
    return (struct search){LOOKS, LOOKS + p->queue.count};
}

/* Once around at most: what it has spared is not taken right away. */
static struct search cold_locked(const struct pool *p)
{
    return (struct search){LOOKS, MIN(LOOKS, p->queue.count)};
}

/* A granule's slot, out of the queue; or POOL_NONE. */
static uint32_t evict_locked(struct pool *p, struct search *search)
{
    for (; search->looks > 0 && p->queue.count > 0; search->looks--) {
        uint32_t s = pop_first(p, &p->queue);
        enum granule_eviction e =
            granule_evict(p->slots[s].cache, p->slots[s].granule, search->chances > 0);

        if (e == GRANULE_EVICTED) {
            p->slots[s].cache = NULL;
            p->slots[s].age = 0;
            p->evicted++;
            search->looks--;
            return s;
        }
        search->chances -= search->chances > 0;
        push_last(p, &p->queue, s);
    }
    return POOL_NONE;
}

static uint32_t take_one_locked(struct pool *p, struct search *search)
{
    uint32_t s = pop_first(p, &p->free);

    if (s != POOL_NONE)
        return s;
    if (p->live < p->limit && (p->gone.count > 0 || p->fresh < p->slot_count)) {
        p->live++;
        return p->gone.count > 0 ? pop_first(p, &p->gone) : p->fresh++;
    }
    return evict_locked(p, search);
}

/* How many more may be taken for @use, at most @slots. */
static uint32_t allowed_locked(const struct pool *p, uint32_t slots, enum pool_use use)
{
    uint32_t reserve = reserve_locked(p), most, taken;

    if (use == POOL_DIRTY) {
        most = p->limit - reserve;
        taken = p->dirty;
    } else {
        most = use == POOL_DEMAND ? reserve : reserve / 2;
        taken = p->claimed + p->held;
    }
    if (taken + slots <= most)
        return slots;
    return use == POOL_BACKGROUND && taken < most ? most - taken : 0;
}

/* A list of up to @slots in *@ret; returns how many. */
static uint32_t take_list_locked(struct pool *p, uint32_t slots, bool only_cold, uint32_t *ret)
{
    struct search search = cold_locked(p);
    uint32_t last = POOL_NONE, n = 0;

    *ret = POOL_NONE;
    for (; n < slots; n++) {
        uint32_t s;

        if (!only_cold)
            search = any_locked(p);
        s = take_one_locked(p, &search);
        if (s == POOL_NONE)
            break;
        p->slots[s].next = POOL_NONE;
        p->slots[s].live = 0;
        *(last == POOL_NONE ? ret : &p->slots[last].next) = s;
        last = s;
    }
    return n;
}

static int take_locked(struct pool *p, uint32_t slots, enum pool_use use, uint32_t *ret)
{
    uint32_t wanted = allowed_locked(p, slots, use), n, first;

    if (wanted == 0)
        return use == POOL_DIRTY ? -ENOSPC : -EBUSY;
    n = take_list_locked(p, wanted, use == POOL_BACKGROUND, &first);
    if (n < slots && (n == 0 || use != POOL_BACKGROUND)) {
        untake_locked(p, first);
        if (use == POOL_DIRTY)
            return -ENOSPC;
        return use == POOL_DEMAND && p->claimed + p->held > 0 ? -EBUSY : -EAGAIN;
    }
    *(use == POOL_DIRTY ? &p->dirty : &p->claimed) += n;
    *ret = first;
    return (int)n;
}

int pool_take(struct pool *p, uint32_t slots, enum pool_use use, uint32_t *ret)
{
    int r;

    mutex_lock(&p->mu);
    r = take_locked(p, slots, use, ret);
    mutex_unlock(&p->mu);
    if (r > 0)
        scribble(p, *ret);
    return r;
}

/* --- freeing --- */

/* Nobody takes these meanwhile, and none of them has memory afterwards. */
static void punch(const struct pool *p, const uint32_t *slots, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        (void)!fallocate(p->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE,
                         (off_t)(slots[i] * GRANULE_BYTES), (off_t)GRANULE_BYTES);
}

/* Gives back what is too much; after something was freed, not under the lock. */
static void give_back(struct pool *p)
{
    uint32_t batch[GIVE_BATCH];
    unsigned n;

    do {
        mutex_lock(&p->mu);
        for (n = 0; n < GIVE_BATCH && p->surplus.count > 0; n++)
            batch[n] = pop_first(p, &p->surplus);
        p->giving += n;
        mutex_unlock(&p->mu);
        punch(p, batch, n);
        mutex_lock(&p->mu);
        for (unsigned i = 0; i < n; i++)
            push_last(p, &p->gone, batch[i]);
        p->giving -= n;
        p->live -= n;
        mutex_unlock(&p->mu);
    } while (n == GIVE_BATCH);
}

static void put(struct pool *p, uint32_t first, uint32_t *count)
{
    uint32_t n = 0;
    bool surplus;

    scribble(p, first);
    for (uint32_t s = first; s != POOL_NONE; s = p->slots[s].next)
        n++;
    mutex_lock(&p->mu);
    *count -= n;
    untake_locked(p, first);
    surplus = p->surplus.count > 0;
    mutex_unlock(&p->mu);
    if (surplus)
        give_back(p);
}

void pool_put(struct pool *p, uint32_t first)
{
    put(p, first, &p->claimed);
}

void pool_put_dirty(struct pool *p, uint32_t first)
{
    put(p, first, &p->dirty);
}

void pool_resize(struct pool *p, uint64_t budget_bytes)
{
    bool more = true;

    while (more) {
        mutex_lock(&p->mu);
        p->limit = slots_of(p, budget_bytes);
        for (unsigned i = 0; i < GIVE_BATCH && more; i++) {
            struct search any = any_locked(p);
            uint32_t s = POOL_NONE;

            if (too_many_locked(p)) {
                s = pop_first(p, &p->free);
                if (s == POOL_NONE)
                    s = evict_locked(p, &any);
            }
            if (s != POOL_NONE)
                push_last(p, &p->surplus, s);
            more = s != POOL_NONE;
        }
        mutex_unlock(&p->mu);
        give_back(p);
    }
}

/* --- what is ready --- */

struct cache_hold pool_publish(struct pool *p, uint32_t slot, struct cache *c, uint32_t granule)
{
    struct slot *s = &p->slots[slot];
    LOCK_SCOPE(&p->mu);

    p->claimed--;
    p->held++;
    s->cache = c;
    s->granule = granule;
    s->holds = 1;
    s->age = ++p->last_age;
    return (struct cache_hold){slot, s->age};
}

void pool_forget(struct pool *p, uint32_t slot)
{
    struct slot *s = &p->slots[slot];

    mutex_lock(&p->mu);
    if (s->holds > 0)
        p->held--;
    else
        unlink_slot(p, &p->queue, slot);
    s->cache = NULL;
    s->age = 0;
    s->holds = 0;
    s->next = POOL_NONE;
    p->claimed++;
    mutex_unlock(&p->mu);
    pool_put(p, slot);
}

void pool_settle(struct pool *p)
{
    LOCK_SCOPE(&p->mu); /* granule_evict() is called and comes back under it */
}

struct cache_hold pool_hold_share(struct pool *p, struct cache_hold hold)
{
    struct slot *s = &p->slots[hold.place];
    LOCK_SCOPE(&p->mu);

    if (s->age == hold.age)
        s->holds++;
    return hold;
}

bool pool_hold_put(struct pool *p, struct cache_hold hold)
{
    struct slot *s = &p->slots[hold.place];
    LOCK_SCOPE(&p->mu);

    if (s->age == hold.age && --s->holds == 0) {
        p->held--;
        push_last(p, &p->queue, hold.place);
    }
    return true;
}

bool pool_awaited(struct pool *p)
{
    LOCK_SCOPE(&p->mu);

    return p->claimed + p->held > 0;
}

struct pool_counters pool_counters(struct pool *p)
{
    LOCK_SCOPE(&p->mu);

    return (struct pool_counters){
        .used_bytes = (p->claimed + p->held + p->dirty + p->queue.count) * GRANULE_BYTES,
        .memory_bytes = p->live * GRANULE_BYTES,
        .evicted = p->evicted,
    };
}

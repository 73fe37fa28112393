/* SPDX-License-Identifier: Apache-2.0 */
#include "disk/nbd_conn.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "base/units.h"
#include "disk/nbd_conn_internal.h"

#define ARENA_BYTES                                                                                \
    (NBD_SLOTS * (size_t)NBD_SMALL_BYTES + NBD_LARGE_PARTS * (size_t)NBD_LARGE_BYTES)
#define TURN_ROUNDS 8 /* before others have their turn */

/* --- pools --- */

struct nbd_slot *nbd_slot_take(struct nbd_conn *c)
{
    struct nbd_slot *s = c->free_slots;

    if (!s)
        return NULL;
    c->free_slots = s->next;
    c->slots_out++;
    s->next = NULL;
    s->phase = NBD_GREETING;
    s->checked = false;
    s->pos = 0;
    s->parts_out = 0;
    s->error = 0;
    s->error_at = 0;
    return s;
}

void nbd_slot_free(struct nbd_slot *s)
{
    struct nbd_conn *c = s->conn;

    s->next = c->free_slots;
    c->free_slots = s;
    c->slots_out--;
}

struct nbd_part *nbd_large_take(struct nbd_slot *s)
{
    struct nbd_part *p = s->conn->free_large;

    if (p) {
        s->conn->free_large = p->next;
        p->next = NULL;
        p->slot = s;
    }
    return p;
}

/* The one freed last is taken first: it is likely to be in the processor's cache. */
void nbd_large_free(struct nbd_part *p)
{
    struct nbd_conn *c = p->slot->conn;

    p->next = c->free_large;
    c->free_large = p;
}

static void divide_arena(struct nbd_conn *c)
{
    uint8_t *at = c->arena;

    for (unsigned i = NBD_LARGE_PARTS; i-- > 0; at += NBD_LARGE_BYTES) {
        struct nbd_part *p = &c->large[i];

        *p = (struct nbd_part){.buffer = at, .next = c->free_large};
        c->free_large = p;
    }
    for (unsigned i = NBD_SLOTS; i-- > 0; at += NBD_SMALL_BYTES) {
        struct nbd_slot *s = &c->slots[i];

        *s = (struct nbd_slot){.conn = c, .next = c->free_slots};
        s->own = (struct nbd_part){.slot = s, .buffer = at};
        c->free_slots = s;
    }
}

/* --- life --- */

int nbd_conn_create(const struct nbd_conn_options *options, struct nbd_conn **ret)
{
    struct nbd_conn *c CLEANUP_NBD_CONN = calloc(1, sizeof(*c));
    void *arena;

    if (!c)
        return -ENOMEM;
    c->ops = options->ops;
    c->peer = options->peer;
    c->state = NBD_CONN_HANDSHAKE;
    c->readable = c->writable = true;
    c->slots = calloc(NBD_SLOTS, sizeof(*c->slots));
    c->large = calloc(NBD_LARGE_PARTS, sizeof(*c->large));
    c->in = malloc(NBD_IN_BYTES);
    /* Memory is only taken for what is used of it. */
    arena = mmap(NULL, ARENA_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (arena == MAP_FAILED)
        return -ENOMEM;
    c->arena = arena;
    if (!c->slots || !c->large || !c->in)
        return -ENOMEM;
    divide_arena(c);
    nbd_handshake_init(&c->handshake, options->exports, options->export_count);
    *ret = TAKE_PTR(c);
    return 0;
}

static void cancel(struct nbd_conn *c, struct nbd_part *p)
{
    if (p->with_disk)
        c->ops->cancel(c->disk, &p->disk);
}

static void cancel_all(struct nbd_conn *c)
{
    for (unsigned i = 0; i < NBD_SLOTS && c->at_disk > 0; i++)
        cancel(c, &c->slots[i].own);
    for (unsigned i = 0; i < NBD_LARGE_PARTS && c->at_disk > 0; i++)
        cancel(c, &c->large[i]);
}

void nbd_conn_destroy(struct nbd_conn *c)
{
    if (!c)
        return;
    nbd_conn_break(c);
    cancel_all(c);
    assert(c->at_disk == 0);
    if (c->arena)
        munmap(c->arena, ARENA_BYTES);
    free(c->in);
    free(c->large);
    free(c->slots);
    free(c);
}

enum nbd_conn_state nbd_conn_state(const struct nbd_conn *c)
{
    return c->state;
}

unsigned nbd_conn_export(const struct nbd_conn *c)
{
    return c->handshake.chosen;
}

int nbd_conn_error(const struct nbd_conn *c)
{
    return c->error;
}

void nbd_conn_attach(struct nbd_conn *c, struct disk *d, struct nbd_counters *counters)
{
    assert(c->state == NBD_CONN_CHOSEN);
    c->disk = d;
    c->counters = counters;
    c->state = NBD_CONN_SERVING;
    c->readable = c->writable = true; /* not known on the thread that serves */
}

void nbd_conn_ready(struct nbd_conn *c, bool readable, bool writable, bool hung_up)
{
    c->hung_up |= hung_up;
    c->readable |= readable || hung_up;
    c->writable |= writable;
}

void nbd_conn_drain(struct nbd_conn *c)
{
    if (c->state == NBD_CONN_SERVING)
        c->state = NBD_CONN_DRAINING;
    else if (c->state != NBD_CONN_DRAINING)
        nbd_conn_break(c);
    if (c->writing)
        nbd_conn_break(c); /* half a request: it can neither be answered nor skipped */
}

void nbd_conn_break(struct nbd_conn *c)
{
    c->state = NBD_CONN_OVER;
}

void nbd_conn_time_out(struct nbd_conn *c)
{
    c->error = -ETIMEDOUT;
    nbd_conn_break(c);
}

/* --- handshake --- */

/* Answers go into the arena, which nobody else needs yet, and out from there. */
static void queue_answers(struct nbd_conn *c, size_t len)
{
    struct nbd_slot *s = nbd_slot_take(c);
    struct nbd_part *p = s ? nbd_large_take(s) : NULL;

    assert(p); /* the answers before these have been sent, or we would not be here */
    p->head_at = p->head_len = 0;
    p->data = p->buffer;
    p->data_len = (uint32_t)len;
    p->ready = true;
    p->last = true;
    nbd_queue(p);
}

static bool run_handshake(struct nbd_conn *c)
{
    struct nbd_writer out = {.at = c->free_large->buffer,
                             .end = c->free_large->buffer + NBD_LARGE_BYTES};
    uint8_t *begin = out.at;
    size_t used;
    int r = nbd_handshake_step(&c->handshake, c->in + c->in_at, c->in_end - c->in_at, &used, &out);

    c->in_at += (uint32_t)used;
    if (out.at > begin)
        queue_answers(c, (size_t)(out.at - begin));
    if (r < 0) {
        c->error = r;
        c->state = NBD_CONN_OVER;
    } else if (r == NBD_HANDSHAKE_END) {
        c->state = NBD_CONN_DRAINING;
    } else if (r == NBD_HANDSHAKE_CHOSEN) {
        c->state = NBD_CONN_CHOSEN;
    }
    return used > 0 || out.at > begin;
}

/* --- turns --- */

/* Whether anything moved in one round. */
static bool round_of(struct nbd_conn *c)
{
    bool moved = false;

    if (c->state == NBD_CONN_HANDSHAKE && !c->queue)
        moved |= run_handshake(c);
    if (c->state == NBD_CONN_SERVING || c->state == NBD_CONN_HANDSHAKE)
        moved |= nbd_input(c);
    if (c->state == NBD_CONN_SERVING || c->state == NBD_CONN_DRAINING)
        moved |= nbd_steps(c);
    return moved;
}

/* Answers leave together at the end of a turn, unless they have a whole part to go with. */
static bool end_turn(struct nbd_conn *c)
{
    bool moved = c->state != NBD_CONN_OVER && nbd_send(c);

    if (c->state == NBD_CONN_DRAINING && c->slots_out == 0)
        c->state = NBD_CONN_OVER;
    return moved && c->state != NBD_CONN_OVER && c->state != NBD_CONN_CHOSEN;
}

bool nbd_conn_run(struct nbd_conn *c)
{
    bool moved = true;

    for (int i = 0; i < TURN_ROUNDS && moved; i++)
        moved = c->state != NBD_CONN_OVER && c->state != NBD_CONN_CHOSEN && round_of(c);
    return end_turn(c) || moved;
}

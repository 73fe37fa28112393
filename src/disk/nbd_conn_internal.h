/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_NBD_CONN_INTERNAL_H
#define THAW_DISK_NBD_CONN_INTERNAL_H

/* The parts of a connection, between nbd_conn.c (life), nbd_input.c, nbd_serve.c (requests),
 * nbd_send.c. */

#include "disk/disk.h"
#include "disk/nbd_conn.h"
#include "format/nbd.h"

struct nbd_slot;

/* A piece of a request: what the disk works on, and what is then sent of it. */
struct nbd_part {
    struct disk_request disk;
    struct nbd_slot *slot;
    struct nbd_part *next; /* among the free ones, or in the queue */
    uint8_t *buffer;       /* in the arena of the connection */
    bool with_disk;        /* the disk has it */
    /* to be sent: what is left of the head, then of the data */
    uint8_t head[NBD_HEAD_MAX_BYTES];
    uint32_t head_at, head_len;
    const uint8_t *data;
    uint32_t data_len;
    bool ready; /* false: the disk has yet to fill in the data, and what is behind waits */
    bool last;  /* once it is sent the slot is free */
};

enum nbd_phase {
    NBD_GREETING, /* no request: answers of the handshake are sent from it */
    NBD_PAYLOAD,  /* of a write: still coming */
    NBD_DISCARD,  /* the same, but it will fail */
    NBD_STEPS,    /* in the list of the active: piece after piece */
    NBD_LANDING,  /* all is begun, some of it is not done */
    NBD_ANSWER,   /* the answer is in the queue */
};

struct nbd_slot {
    struct nbd_request request;
    struct nbd_conn *conn;
    struct nbd_part own;   /* small, and what the last words of the answer are sent from */
    struct nbd_slot *next; /* among the free ones, or the active */
    enum nbd_phase phase;
    bool checked;       /* a read in one piece: everything has been there, so it can begin */
    uint32_t pos;       /* how much has been begun */
    unsigned parts_out; /* parts with the disk, or in the queue with more to follow */
    int error;          /* the first one */
    uint64_t error_at;  /* and where */
};

struct nbd_slots {
    struct nbd_slot *first, *last;
};

struct nbd_conn {
    const struct nbd_conn_ops *ops; /* borrowed, as all of these */
    void *peer;
    struct disk *disk;
    struct nbd_counters *counters;

    struct nbd_handshake handshake;
    enum nbd_conn_state state;
    int error;
    bool readable, writable; /* as far as is known */
    bool hung_up;            /* the client sends no more than it has sent */

    uint8_t *arena; /* owned: all buffers of the parts */
    struct nbd_slot *slots;
    struct nbd_part *large;
    struct nbd_slot *free_slots;
    struct nbd_part *free_large;
    unsigned slots_out; /* taken */
    unsigned at_disk;

    uint8_t *in; /* owned: bytes from in_at to in_end are unused */
    uint32_t in_at, in_end;
    struct nbd_slot *writing; /* whose payload comes next */
    struct nbd_part *filling; /* where it goes */
    uint32_t filled;          /* bytes there */
    uint32_t left;            /* bytes of the payload that are still to come */
    bool long_writes;         /* the last request was one: expect the next */

    struct nbd_slots active;
    struct nbd_slot *stream; /* a read in one piece, which has the queue for itself */
    struct nbd_part *queue, *queue_last;
    struct nbd_part *held, *held_last; /* for the queue, after the stream */
};

#define NBD_IN_BYTES (1u << 16)

/* --- pools (nbd_conn.c) --- */

/** nbd_slot_take() - NULL when all are in use */
struct nbd_slot *nbd_slot_take(struct nbd_conn *c);
void nbd_slot_free(struct nbd_slot *s);

/** nbd_large_take() - a large part for @s; NULL when all are in use */
struct nbd_part *nbd_large_take(struct nbd_slot *s);
void nbd_large_free(struct nbd_part *p);

static inline bool nbd_is_large(const struct nbd_part *p)
{
    return p != &p->slot->own;
}

/* --- input (nbd_input.c) --- */

/** nbd_input() - take requests and payloads; whether it got anywhere */
bool nbd_input(struct nbd_conn *c);

/* --- requests (nbd_serve.c) --- */

/** nbd_begin() - a request has come; a write is asked for its payload by nbd_payload() */
void nbd_begin(struct nbd_slot *s);

/** nbd_payload() - @p has been filled with the next, or last, bytes of a write */
void nbd_payload(struct nbd_part *p, uint32_t len_bytes, bool last);

/** nbd_payload_discarded() - the payload of a write that fails has come to its end */
void nbd_payload_discarded(struct nbd_slot *s);

/** nbd_steps() - one piece of each active request; whether it got anywhere */
bool nbd_steps(struct nbd_conn *c);

/* --- output (nbd_send.c) --- */

/** nbd_queue() - send @p, whose head and data are set, after all others */
void nbd_queue(struct nbd_part *p);

/** nbd_send() - send what is queued, as far as it goes; whether it got anywhere */
bool nbd_send(struct nbd_conn *c);

/** nbd_stream_end() - the stream has queued all that it has */
void nbd_stream_end(struct nbd_conn *c);

/* --- metrics (nbd_metrics.c) --- */

/** nbd_measure_answer() - all of the answer of @s has been sent */
void nbd_measure_answer(const struct nbd_slot *s);

/** nbd_measure_failure() - the disk has failed @r, for the first time of a client's request */
void nbd_measure_failure(const struct disk_request *r);

enum nbd_view_result { NBD_VIEW_SENT, NBD_VIEW_NOT_NOW, NBD_VIEW_MISSING };

/**
 * nbd_send_view() - send @p with @len_bytes of the disk from @off, in place
 *
 * Returns: NBD_VIEW_SENT: done, @p is in use as long as it needs to be; NBD_VIEW_NOT_NOW: others
 * are queued and the stream takes no more; NBD_VIEW_MISSING: it has to be read by a request.
 */
enum nbd_view_result nbd_send_view(struct nbd_part *p, uint64_t off, uint32_t len_bytes);

#endif

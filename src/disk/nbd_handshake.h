/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_DISK_NBD_HANDSHAKE_H
#define THAW_DISK_NBD_HANDSHAKE_H

/*
 * The handshake of an NBD connection: bytes in, bytes out, until the client has chosen an export.
 * It touches no socket, and nothing but its own struct. One thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "format/nbd_bytes.h"

#define NBD_EXPORTS_MAX           16u
#define NBD_NAME_MAX_BYTES        255u
#define NBD_DESCRIPTION_MAX_BYTES 1023u

/* A longer option is read to its end and refused; one that is longer still ends the connection. */
#define NBD_OPTION_MAX_BYTES  (1u << 14)
#define NBD_OPTION_SKIP_BYTES (1u << 18)

/* Room for all that one option can be answered with. */
#define NBD_ANSWER_MAX_BYTES (1u << 14)

/* What a buffer for a client's bytes has to hold at least. */
#define NBD_HANDSHAKE_IN_BYTES (NBD_OPTION_MAX_BYTES + 16u)

/* Requests of any alignment are served: the disk does what read-modify-write there is to do. */
#define NBD_MINIMUM_BYTES   1u
#define NBD_PREFERRED_BYTES 4096u

/* The least that proto.md wants a server to take when it has not said how much it takes. */
#define NBD_PAYLOAD_MAX_BYTES (1u << 25)

#define NBD_ALLOCATION_ID 1u /* our number for base:allocation */

/* What a client is told of an export. The strings live as long as the server. */
struct nbd_export_info {
    const char *name;
    const char *description;
    uint64_t bytes;
    bool read_only;
};

struct nbd_handshake {
    const struct nbd_export_info *exports; /* borrowed */
    unsigned count;
    enum { NBD_GREET, NBD_CLIENT_FLAGS, NBD_OPTIONS } phase;
    bool fixed;       /* the client knows more options than one */
    bool no_zeroes;   /* and wants no padding */
    uint32_t skip;    /* bytes of a refused option that are still to come */
    uint32_t refused; /* which option that is */
    bool structured;  /* structured replies were agreed on */
    int allocation;   /* for which export base:allocation was agreed on; -1: for none */
    unsigned chosen;  /* the export, at the end */
};

enum nbd_handshake_result {
    NBD_HANDSHAKE_MORE,   /* more bytes of the client's are needed, or room for the answer */
    NBD_HANDSHAKE_CHOSEN, /* transmission begins with the next byte */
    NBD_HANDSHAKE_END,    /* the client took its leave */
};

/** nbd_handshake_init() - begin; the first step takes no input and writes the greeting */
void nbd_handshake_init(struct nbd_handshake *h, const struct nbd_export_info *exports,
                        unsigned count);

/**
 * nbd_handshake_step() - go as far as the input leads
 * @in, @len: what the client has sent and nobody has used; NBD_HANDSHAKE_IN_BYTES are enough
 * @ret_used: how much of it is used now
 * @out: where the answers go, all of which are to be sent whatever the result is; with room for
 *     less than NBD_ANSWER_MAX_BYTES nothing is done
 *
 * Returns: enum nbd_handshake_result, or -EPROTO: the client broke the protocol or asked for what
 * can only be answered by hanging up.
 */
[[gnu::warn_unused_result]] int nbd_handshake_step(struct nbd_handshake *h, const uint8_t *in,
                                                   size_t len, size_t *ret_used,
                                                   struct nbd_writer *out);

/** nbd_handshake_export_flags() - 16-bit flags of export @x for this client */
uint16_t nbd_handshake_export_flags(const struct nbd_handshake *h, const struct nbd_export_info *x);

#endif

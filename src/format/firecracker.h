/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_FIRECRACKER_H
#define THAW_FORMAT_FIRECRACKER_H

/*
 * The bodies of Firecracker's API that a resume needs (its src/firecracker/swagger), and which of
 * its versions read each other's snapshots. What it answers is checked as any input from outside:
 * it shares a process with a hostile guest. Texts that come out are one line of printable
 * characters, fit for a terminal. Any thread.
 */

#include <stddef.h>

#include "base/bytes.h"
#include "base/error.h"
#include "base/units.h"

#define FIRECRACKER_BODY_MAX_BYTES (64 * KIB) /* its longest answer here has some hundred bytes */
#define FIRECRACKER_VERSION_BYTES  64
#define FIRECRACKER_FAULT_BYTES    240 /* leaves room for context in struct thaw_error */

/* The body of PATCH /vm that lets the vCPUs run. */
#define FIRECRACKER_RESUME_BODY "{\"state\":\"Resumed\"}"

/**
 * firecracker_encode_load() - append the body of PUT /snapshot/load: memory by userfaultfd, vCPUs
 * stay paused; nothing that some version since 1.1 does not know
 * @snapfile: path of the device state, as Firecracker sees it
 * @memory_socket: path of the socket that takes the memory, as Firecracker sees it
 *
 * Returns: 0, -ENOMEM, or -EINVAL for a path that is not UTF-8, as JSON must be. @ret is unchanged
 * then.
 */
[[gnu::warn_unused_result]] int firecracker_encode_load(const char *snapfile,
                                                        const char *memory_socket, struct buf *ret,
                                                        struct thaw_error *e);

/** firecracker_decode_version() - read the answer to GET /version, as "1.12.1"; 0, -ENOMEM or
 *  -EPROTO with the reason */
[[gnu::warn_unused_result]] int firecracker_decode_version(const void *bytes, size_t len,
                                                           char ret[FIRECRACKER_VERSION_BYTES],
                                                           struct thaw_error *e);

/** firecracker_decode_fault() - the fault_message of an answer that is an error, cut to its room;
 *  whatever else came in its place is told as such. Returns @ret. */
const char *firecracker_decode_fault(const void *bytes, size_t len,
                                     char ret[FIRECRACKER_FAULT_BYTES]);

enum firecracker_reads {
    FIRECRACKER_READS,
    FIRECRACKER_READS_NOT,
    FIRECRACKER_READS_MAYBE, /* it will say itself */
};

/**
 * firecracker_reads() - whether version @running loads snapshots made by version @recorded
 *
 * Snapshots have a format with a version of its own; a Firecracker writes one format and loads only
 * what has the same major number. The formats of the releases up to 1.16 are known here. Versions
 * are as GET /version or `firecracker --version` tell them: a "v" in front is allowed, and what
 * follows the three numbers after '_' or '+' (a fork's mark) is not looked at.
 */
enum firecracker_reads firecracker_reads(const char *running, const char *recorded);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FAULT_RULES_H
#define THAW_TESTS_FAULT_RULES_H

/*
 * What a faulty file system does to its operations, as it is told at run time over a socket.
 *
 * There is one rule for each kind of operation: let it pass, or do one of the things below, to the
 * next TIMES of them after AFTER more have passed. Nothing depends on the time of day or on chance:
 * operations are counted.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum fault_op {
    OP_OTHER, /* never goes wrong */
    OP_READ,
    OP_WRITE,
    OP_OPEN,
    OP_CREATE, /* also of files without a name */
    OP_FALLOCATE,
    OP_STATFS,
    OP_LSEEK,
    OP_UNLINK,
    OP_FLOCK,
    OP_RENAME,
    OP_SETATTR, /* length, times, mode */
    OP_READDIR,
    OP_FSYNC,
    FAULT_OPS,
};

enum fault_kind {
    FAULT_NONE,
    FAULT_ERROR, /* it fails with an errno and has done nothing */
    FAULT_SHORT, /* a read or write of half as many sectors */
    FAULT_FLIP,  /* a read whose bytes are wrong: one bit of each page */
    FAULT_HANG,  /* no answer until told */
};

/** struct fault - what happens to one operation; @error: for FAULT_ERROR, an errno */
struct fault {
    enum fault_kind kind;
    int error;
};

/**
 * fault_judge() - count an operation, and say what happens to it. Any thread.
 *
 * FAULT_HANG: @request, of @len bytes, has been copied, and is served when the order comes.
 */
struct fault fault_judge(enum fault_op op, const void *request, size_t len);

/**
 * faults_listen() - take orders at a socket of this path, in a thread of its own
 *
 * An order is a line, and so is the answer: "error: TEXT" for one that is not understood, else as
 * below. Each connection has a thread.
 *
 *   OP pass                                      ok
 *   OP fail=ERRNO|short|flip|hang AFTER TIMES    ok      TIMES -1: all
 *   OP count                                     SEEN HIT   since the last rule for it
 *   OP wait N                                    ok      when N have been hit
 *   go                                           ok      what hangs goes on; rules stay
 *
 * @serve: called for what goes on; it is not judged again. Returns: 0 or -errno.
 */
[[gnu::warn_unused_result]] int faults_listen(const char *path, void (*serve)(const void *request));

#endif

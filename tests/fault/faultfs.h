/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FAULT_FAULTFS_H
#define THAW_TESTS_FAULT_FAULTFS_H

/* What the files of faultfs share; what it does is said in faultfs.c. */

#include <linux/fuse.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"
#include "rules.h"

#define DATA_BYTES MIB
#define PROC_BYTES 32

/* --- nodes: the files and folders that the kernel knows (faultfs_nodes.c). Any thread --- */

/** nodes_init() - the root is this folder; 0 or -errno */
[[gnu::warn_unused_result]] int nodes_init(const char *folder);

/** node_fd() - an O_PATH descriptor of a node, which stays its own */
int node_fd(uint64_t id);

/** node_path() - what opens it again, or names it to a system call that knows no AT_EMPTY_PATH */
const char *node_path(uint64_t id, char path[PROC_BYTES]);

/**
 * node_entry() - the node of a file, made if there is none yet
 * @fd: O_PATH, and no longer the caller's; or -1 with errno
 *
 * Nothing is valid for any time: others may change the folder.
 */
[[gnu::warn_unused_result]] int node_entry(int fd, struct fuse_entry_out *ret);

/** node_forget() - the kernel does so, @lookups times */
void node_forget(uint64_t id, uint64_t lookups);

/** node_attr() - attributes as the kernel's protocol has them, of an open file or a node; 0 or
 * -errno */
[[gnu::warn_unused_result]] int node_attr(int fd, struct fuse_attr *ret);

/* --- operations (faultfs_operations.c). Any thread --- */

/** struct call - a request, what is to go wrong with it, and room for the answer */
struct call {
    const struct fuse_in_header *in;
    const void *arg;
    struct fault fault;
    void *out;
};

struct operation {
    int (*run)(struct call *c); /* bytes of the answer, or -errno; NULL: there is none such */
    enum fault_op op;
    bool silent; /* the kernel waits for no answer */
};

/** operation_of() - what serves requests of this code; NULL if nothing does */
const struct operation *operation_of(uint32_t opcode);

#endif

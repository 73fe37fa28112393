/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_GUEST_MEMORY_H
#define THAW_VMM_GUEST_MEMORY_H

/*
 * Guest memory of another process, as a source of a build: found among its mappings by its size,
 * and read where it lies, while the vCPUs are stopped.
 *
 * A hole of a shared mapping is zeros, and is passed over, unless a userfaultfd serves it: then
 * what is missing is what nobody has touched yet, and its content is known to the server only. Such
 * memory is read through the mapping, all of it, which makes the server install every page.
 *
 * Needs the right to trace the process (ptrace(2): PTRACE_MODE_ATTACH_REALCREDS). Control thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "base/error.h"

struct source;

/* A shared, writable mapping of guest memory, perhaps of several pieces that lie end to end. */
struct guest_mapping {
    uint64_t start, end;   /* addresses in the process */
    uint64_t file_offset;  /* of its start */
    unsigned major, minor; /* device of the file */
    unsigned long long inode;
    bool served; /* some of it by a userfaultfd that is asked for missing pages */
};

/**
 * guest_mapping_parse() - find it in the text of /proc/PID/smaps: proc(5)
 * @ret: the first that has @size_bytes
 *
 * Returns: how many there are.
 */
size_t guest_mapping_parse(const char *text, size_t len, uint64_t size_bytes,
                           struct guest_mapping *ret);

/** guest_mapping_find() - the one shared mapping of @size_bytes that process @pid has; 0, -ENOENT
 *  when there is none or more than one, or -errno when it may not be looked at */
[[gnu::warn_unused_result]] int guest_mapping_find(pid_t pid, uint64_t size_bytes,
                                                   struct guest_mapping *ret, struct thaw_error *e);

/** guest_memory_open() - a source that reads @m of process @pid; @m is borrowed for the call */
[[gnu::warn_unused_result]] int guest_memory_open(pid_t pid, const struct guest_mapping *m,
                                                  struct source *ret, struct thaw_error *e);

#endif

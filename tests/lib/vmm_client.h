/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_VMM_CLIENT_H
#define THAW_TESTS_VMM_CLIENT_H

/*
 * A VMM's side of the guest-memory hand-over, as Firecracker 1.12 and later perform it when a
 * snapshot is loaded with the backend type "Uffd":
 *
 *   map the guest's memory (private, anonymous, not reserved), several regions of it
 *   open a userfaultfd (close-on-exec, non-blocking, kernel faults included), asking for exactly
 *     UFFD_FEATURE_EVENT_REMOVE, and register every region for missing pages
 *   connect to the server's socket
 *   one sendmsg(): the regions as a JSON array, the userfaultfd as SCM_RIGHTS
 *   keep the socket open for as long as the VM lives
 *
 * Nothing comes back on the socket. The VMM keeps its own copy of the userfaultfd, so that a
 * server that dies leaves the guest waiting and not running on zeros.
 *
 * The order of the calls is map, connect, send. One thread makes them; once the regions are mapped
 * any thread may touch them. The functions return 0 or -errno and leave in @step what they tried.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define VMM_REGIONS_MAX 256

/* The sizes of a guest's regions, in the order of their offsets in the memory file. */
struct vmm_layout {
    uint64_t page_bytes; /* 4096 or 2097152 */
    uint64_t sizes[VMM_REGIONS_MAX];
    size_t n_regions;
};

struct vmm_region {
    char *host;      /* owned: the mapping, unmapped by vmm_client_finish() */
    uint64_t bytes;  /* size of the region */
    uint64_t offset; /* where it begins in the memory file */
    char *span;      /* owned: address space around the region that nothing else may use */
    uint64_t span_bytes;
};

struct vmm_client {
    int uffd;
    int sock; /* -1 before connect and after vmm_client_close_socket() */
    uint64_t page_bytes;
    uint64_t memory_bytes; /* sum of the regions */
    size_t n_regions;
    struct vmm_region regions[VMM_REGIONS_MAX];
    const char *step; /* what was tried last, for a message beside the error number */
};

/**
 * vmm_layout_parse() - the regions of a guest
 * @spec: sizes with suffixes, separated by commas ("3M,1M,12M"); NULL for two regions, three
 *        quarters and the rest, as a 4 GiB guest is split at 3 GiB
 * @page_bytes: 4096 or 2097152
 * @memory_bytes: what the sizes must add up to
 *
 * Returns: 0, or -EINVAL when sizes are no multiples of the page or do not add up.
 */
[[gnu::warn_unused_result]] int vmm_layout_parse(struct vmm_layout *ret, const char *spec,
                                                 uint64_t page_bytes, uint64_t memory_bytes);

/**
 * vmm_client_map() - map the regions and register them with a new userfaultfd
 *
 * Every region is surrounded by inaccessible address space, and later regions may well lie below
 * earlier ones.
 *
 * Returns: 0 or -errno; vmm_client_finish() is due in both cases. -EPERM: this user may not handle
 * faults that come from the kernel; -ENOMEM with 2 MiB pages: none are reserved.
 */
[[gnu::warn_unused_result]] int vmm_client_map(struct vmm_client *ret,
                                               const struct vmm_layout *layout);

/** vmm_client_connect() - connect to the server's socket at @path; -ENAMETOOLONG if too long */
[[gnu::warn_unused_result]] int vmm_client_connect(struct vmm_client *c, const char *path);

/** vmm_client_send() - hand the memory over */
[[gnu::warn_unused_result]] int vmm_client_send(struct vmm_client *c);

/** vmm_client_close_socket() - what Firecracker up to 1.11 does right after the hand-over */
void vmm_client_close_socket(struct vmm_client *c);

/** vmm_client_server_pid() - process that listens on the other side, or -errno */
[[gnu::warn_unused_result]] int vmm_client_server_pid(const struct vmm_client *c);

/** vmm_client_region() - the region that holds byte @offset of the memory file; in range */
const struct vmm_region *vmm_client_region(const struct vmm_client *c, uint64_t offset);

/** vmm_client_host() - where byte @offset of the memory file is mapped; @offset is in range */
char *vmm_client_host(const struct vmm_client *c, uint64_t offset);

/** vmm_client_finish() - close and unmap everything; also after a failed vmm_client_map() */
void vmm_client_finish(struct vmm_client *c);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_RESUME_H
#define THAW_RESUME_H

/* Sandboxes: bringing builds back to life. Conventions: see thaw/thaw.h. */

#include <stddef.h>
#include <stdint.h>

#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

struct thaw_host;
struct thaw_sandbox;

/* A VMM that runs in a folder of its own, as Firecracker does under its jailer. */
struct thaw_jail {
    unsigned uid; /* who the VMM is */
    unsigned gid;
    const char *root; /* its root folder: the folder of sockets is made in it, and is the VMM's */
};

/**
 * struct thaw_resume_options - how to resume a build
 * @store, @build: where it is and which one
 * @vmm: driver: "qemu", or "none" to serve a VMM that somebody else starts; NULL for the one that
 *       the build records
 * @vmm_program: path of the VMM, NULL for the usual one
 * @vmm_options: NULL-terminated, further options for the VMM's command line: "-opt value" or one
 *               word each; NULL for none
 * @run_dir: where to make the folder with the sockets; NULL for /run/thaw (root), else
 *           $XDG_RUNTIME_DIR/thaw or /tmp
 * @jail: for driver "none": the VMM runs jailed; NULL: it does not
 * @accept: for driver "none": how many VMs to serve, all of this build; 0 stands for 1; 16 at most
 *          when it has a root disk
 * @populate: not 0: install all memory in the background, besides answering faults
 * @host: what it shares with other sandboxes, and must outlive it; NULL: a host of its own, with
 *        the usual settings
 */
struct thaw_resume_options {
    size_t opts_size;
    const char *store;
    const char *build;
    const char *vmm;
    const char *vmm_program;
    const char *const *vmm_options;
    const char *run_dir;
    const struct thaw_jail *jail;
    unsigned accept;
    int populate;
    struct thaw_host *host;
};

/**
 * thaw_resume() - bring a build back to life
 *
 * With driver "none", returns when the sockets are listening; otherwise when the vCPUs run. Memory
 * arrives page by page from then on, served by threads of the library until the sandbox is
 * destroyed.
 */
int thaw_resume(const struct thaw_resume_options *options, struct thaw_sandbox **ret,
                struct thaw_error *e);

/**
 * thaw_sandbox_wait() - wait for the end of the VM
 * @stop_fd: waiting also ends when this becomes readable; -1 for never
 * @warn: told, with @warn_arg, what an operator should hear of while waiting; may be NULL
 *
 * Returns: 1 when @stop_fd ended the wait: the VM is as it was, also if pages of it could not be
 * served (see thaw_sandbox_stats()), and may be waited for again; 0 when the VM ended in good
 * order, or a negative errno value when it died, or ended without memory that could not be served.
 */
int thaw_sandbox_wait(struct thaw_sandbox *s, int stop_fd,
                      void (*warn)(void *arg, const char *text), void *warn_arg,
                      struct thaw_error *e);

/** thaw_sandbox_stop() - end the VM if thaw started it, and stop serving */
void thaw_sandbox_stop(struct thaw_sandbox *s);

/** thaw_sandbox_destroy() - stop if need be, remove the sockets, release everything */
void thaw_sandbox_destroy(struct thaw_sandbox *s);

/* Where a sandbox can be reached. Strings live as long as the sandbox. */
struct thaw_sandbox_info {
    const char *build;
    const char *vmm;
    int vmm_pid; /* 0: not started by us */
    const char *memory_socket;
    const char *snapfile;           /* a file with the VMM's state; NULL when the build has none */
    const char *disk_socket;        /* NBD; NULL when the build has no root disk */
    const char *jail_memory_socket; /* the same paths as a jailed VMM sees them; NULL without */
    const char *jail_snapfile;
    const char *jail_disk_socket;
    const char *const *disk_exports; /* NULL-terminated: one writable disk for each VM */
    uint64_t memory_bytes;
    uint64_t memory_stored_bytes; /* in this build; the rest is zeros, or in its ancestors */
    uint64_t disk_bytes;
    uint64_t disk_stored_bytes;
};

void thaw_sandbox_info(const struct thaw_sandbox *s, struct thaw_sandbox_info *ret);

struct thaw_stage {
    const char *name;
    double at_ms; /* since the start of the resume */
    double ms;    /* since the stage before */
};

#define THAW_STAGES_MAX 16

/* What a resume has done so far. */
struct thaw_sandbox_stats {
    struct thaw_stage stages[THAW_STAGES_MAX];
    size_t stage_count;
    struct {
        uint64_t total, ram, disk, store, zero, removed; /* fault events, by where the page was */
    } faults;
    struct {
        uint64_t fetched;    /* read from the store meanwhile, also for others of the host */
        uint64_t from_disk;  /* read from the disk tier meanwhile, likewise */
        uint64_t installed;  /* copied into the guest */
        uint64_t cached;     /* memory that the cache takes now */
        uint64_t unverified; /* of those fetched: no sum to check them by */
    } bytes;
    struct {
        uint64_t total, installed, failed; /* 4 KiB pages of guest memory */
    } pages;
    struct {
        uint64_t reads, writes, zeroes, trims, flushes; /* requests answered */
        uint64_t failed;                                /* of them, with an error */
        uint64_t waited;                                /* of them, after a fetch */
        uint64_t read_bytes, written_bytes;
        uint64_t dirty_bytes;   /* memory that the VMs' changes take now, not spilled */
        uint64_t spilled_bytes; /* of them, written to the disk tier */
        uint64_t paced;         /* times that a write waited for that */
    } disk;
    double seconds; /* since the start of the resume */
};

/** thaw_sandbox_mark() - note in the stages that @name (a string that lives on) has happened now */
void thaw_sandbox_mark(struct thaw_sandbox *s, const char *name);

/** thaw_sandbox_stats() - a snapshot */
void thaw_sandbox_stats(struct thaw_sandbox *s, struct thaw_sandbox_stats *ret);

#ifdef __cplusplus
}
#endif

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_THAW_H
#define THAW_THAW_H

/*
 * libthaw: resume snapshots of microVMs, lazily, from an object store. The program `thaw` is built
 * on this interface alone.
 *
 * Conventions. Functions return 0 or a positive number on success and a negative errno value on
 * failure, with the reason in a struct thaw_error (NULL is allowed). Option structs begin with
 * opts_size, which the caller sets to sizeof: fields may be added at their end. Strings in options
 * are borrowed for the call. Handles belong to one thread at a time. The library starts threads of
 * its own, with all signals blocked, and never exits, aborts on bad input, or installs handlers.
 */

#include <stddef.h>
#include <stdint.h>

#include "thaw/error.h"

#ifdef __cplusplus
extern "C" {
#endif

#define THAW_BUILD_ID_BYTES 37 /* the text of a UUID, with its NUL */

/* --- making builds --- */

/**
 * struct thaw_create_options - what a build is made of
 * @store: DIR or file:///DIR; made if it is missing (its parent is not)
 * @memory_path: raw guest memory, a multiple of 4096 bytes
 * @snapfile_path: the VMM's device state; NULL without
 * @vmm: "qemu", "firecracker" or "none": what the snapshot is of; NULL for "none"
 * @vmm_version: as the VMM tells it, or NULL
 * @vmm_args: NULL-terminated: what the VMM must be started with again; NULL for nothing
 * @progress: called now and then with @progress_arg, or NULL
 */
struct thaw_create_options {
    size_t opts_size;
    const char *store;
    const char *memory_path;
    const char *snapfile_path;
    const char *vmm;
    const char *vmm_version;
    const char *const *vmm_args;
    void (*progress)(void *arg, uint64_t done_bytes, uint64_t total_bytes);
    void *progress_arg;
};

/** thaw_create() - make a build; its id in @ret_id. It is durable when this returns. */
int thaw_create(const struct thaw_create_options *options, char ret_id[THAW_BUILD_ID_BYTES],
                struct thaw_error *e);

/* --- looking at builds --- */

struct thaw_object_info {
    const char *name;
    uint64_t size_bytes; /* as stored */
    uint64_t uncompressed_bytes;
    const char *codec;
    char sha256[65]; /* of what is stored, in hexadecimal */
};

struct thaw_mapping_info {
    uint64_t offset_bytes; /* in the image */
    uint64_t len_bytes;
    const char *build;      /* NULL: zeros */
    uint64_t storage_bytes; /* offset in the build's data, uncompressed */
};

/**
 * struct thaw_build_info - what a build consists of
 *
 * One allocation tree, released by thaw_build_info_free(); every pointer is valid until then.
 */
struct thaw_build_info {
    char build[THAW_BUILD_ID_BYTES];
    char base[THAW_BUILD_ID_BYTES];
    const char *parent; /* NULL: none */
    int64_t created_s;  /* seconds since 1970 */
    unsigned header_version;
    uint64_t generation;
    uint64_t block_bytes;
    uint64_t memory_bytes;
    uint64_t memory_stored_bytes; /* by this build and its ancestors, as the map refers to them */
    uint64_t memory_zero_bytes;
    const char *vmm;
    const char *vmm_version; /* NULL: not recorded */
    const char *const *vmm_args;
    size_t vmm_arg_count;
    const struct thaw_object_info *objects;
    size_t object_count;
    const struct thaw_mapping_info *mappings;
    size_t mapping_count;
};

/** thaw_inspect() - read what describes @build; none of its data */
int thaw_inspect(const char *store, const char *build, struct thaw_build_info **ret,
                 struct thaw_error *e);

void thaw_build_info_free(struct thaw_build_info *info);

/* --- resuming --- */

struct thaw_sandbox;

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
 */
struct thaw_resume_options {
    size_t opts_size;
    const char *store;
    const char *build;
    const char *vmm;
    const char *vmm_program;
    const char *const *vmm_options;
    const char *run_dir;
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
 * Returns: 1 when @stop_fd ended it, 0 when the VM ended in good order, or a negative errno value
 * when the VM died or memory of it could not be served.
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
    const char *snapfile; /* a file with the VMM's state; NULL when the build has none */
    uint64_t memory_bytes;
    uint64_t memory_stored_bytes;
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
        uint64_t fetched;   /* read from the store */
        uint64_t installed; /* copied into the guest */
        uint64_t cached;    /* memory that the cache takes now */
    } bytes;
    struct {
        uint64_t total, installed, failed; /* 4 KiB pages of guest memory */
    } pages;
    double seconds; /* since the start of the resume */
};

/** thaw_sandbox_stats() - a snapshot */
void thaw_sandbox_stats(struct thaw_sandbox *s, struct thaw_sandbox_stats *ret);

#ifdef __cplusplus
}
#endif

#endif

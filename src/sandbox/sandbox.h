/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_SANDBOX_SANDBOX_H
#define THAW_SANDBOX_SANDBOX_H

/*
 * One resumed VM: its build, its memory server, its VMM. Puts the parts together in the order that
 * faults demand, and takes them apart in the order that nobody is left hanging:
 *
 *     up    folder, janitor, build, image, memory server (listening), VMM, state, vCPUs
 *     down  VMM, memory server, image, folder
 *
 * Control thread only. The public face is include/thaw/thaw.h.
 */

#include "base/cleanup.h"
#include "base/uuid.h"
#include "thaw/resume.h"

struct fetch;
struct sandbox;
struct store;

/**
 * struct sandbox_options - see struct thaw_resume_options
 * @fetch, @store: must outlive the sandbox
 */
struct sandbox_options {
    struct fetch *fetch;
    struct store *store;
    struct uuid build;
    const char *vmm;
    const char *vmm_program;
    const char *const *vmm_options;
    const char *run_dir;
    const struct thaw_jail *jail;
    unsigned accept;
    bool populate;
};

/** sandbox_resume() - 0 when it serves (driver none) or runs, else -errno and nothing is left */
[[gnu::warn_unused_result]] int sandbox_resume(const struct sandbox_options *options,
                                               struct sandbox **ret, struct thaw_error *e);

/** sandbox_wait() - as thaw_sandbox_wait() */
[[gnu::warn_unused_result]] int sandbox_wait(struct sandbox *s, int stop_fd,
                                             void (*warn)(void *arg, const char *text),
                                             void *warn_arg, struct thaw_error *e);

void sandbox_stop(struct sandbox *s);
void sandbox_info(const struct sandbox *s, struct thaw_sandbox_info *ret);
void sandbox_mark(struct sandbox *s, const char *name);
void sandbox_stats(struct sandbox *s, struct thaw_sandbox_stats *ret);
void sandbox_destroy(struct sandbox *s);

DEFINE_CLEANUP(struct sandbox, sandbox_destroy);
#define CLEANUP_SANDBOX CLEANUP(cleanup_sandbox_destroy)

#endif

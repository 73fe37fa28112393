/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_DRIVER_H
#define THAW_VMM_DRIVER_H

/* What the drivers share, and nobody outside this folder sees. */

#include "vmm/vmm.h"

struct process;

/* The head of every driver's own struct. */
struct vmm {
    const struct vmm_driver *driver;
    struct process *process; /* owned; NULL without one */
};

extern const struct vmm_driver vmm_none;
extern const struct vmm_driver vmm_qemu;
extern const struct vmm_driver vmm_firecracker;

/**
 * vmm_explain() - append what is known about a VMM that failed to the error @e
 *
 * A VMM that is about to end gets a second to do so, so that its exit status can be told.
 * Returns: the code of @e.
 */
int vmm_explain(struct vmm *v, struct thaw_error *e);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_VMM_FIRECRACKER_COMMAND_H
#define THAW_VMM_FIRECRACKER_COMMAND_H

/*
 * Firecracker's command line: where its API is, what the build records ("--enable-pci" must be as
 * it was), what the operator adds. All else is in the VM's state. Any thread.
 */

#include "base/error.h"

struct arg_list;
struct vmm_options;

/**
 * firecracker_command_build() - append the command line for @o
 * @api_socket: path for --api-sock; the name of its folder becomes the --id
 *
 * Returns: 0, -ENOMEM, or -E2BIG with the reason; the list is the caller's to release in any case.
 */
[[gnu::warn_unused_result]] int firecracker_command_build(const struct vmm_options *o,
                                                          const char *api_socket,
                                                          struct arg_list *ret,
                                                          struct thaw_error *e);

#endif

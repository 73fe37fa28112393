/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_RESUME_REPORT_H
#define THAW_CLI_RESUME_REPORT_H

/* What `thaw resume` prints: for a person, or one JSON line each. Both return an exit status. */

#include <stdbool.h>

struct thaw_host;
struct thaw_sandbox;

/** report_ready() - it runs, or waits for its VMM */
int report_ready(struct thaw_host *host, struct thaw_sandbox *s, bool json);

/** report_end() - what the resume has taken */
int report_end(struct thaw_host *host, struct thaw_sandbox *s, bool json);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_PROCESS_H
#define THAW_OBSERVE_PROCESS_H

/** process_start_time() - when this process was started, in seconds since 1970; 0 if /proc does
 * not say. To a clock tick, as the kernel knows it. Any thread. */
double process_start_time(void);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_LIB_HOST_METRICS_H
#define THAW_LIB_HOST_METRICS_H

/* Metrics that a host is asked for when somebody reads them, and its watch on the dirty-page
 * throttle, which counts from start to stop. Control thread. */

struct host_metrics;
struct thaw_error;
struct thaw_host;

[[gnu::warn_unused_result]] int host_metrics_start(struct thaw_host *h, struct host_metrics **ret,
                                                   struct thaw_error *e);

/** host_metrics_stop() - NULL is allowed */
void host_metrics_stop(struct host_metrics *m);

#endif

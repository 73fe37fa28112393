/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_METRICS_SERVER_H
#define THAW_OBSERVE_METRICS_SERVER_H

/*
 * The metrics over HTTP: GET /metrics in the text format, or in protobuf with native histograms
 * where the Accept field prefers that; GET /healthz. One thread, `thaw-http`, serves all clients.
 * The functions are for the control thread.
 */

#include "base/error.h"

struct metrics_server;

/* More connections than that wait to be accepted; one that is silent for so long is closed. */
#define METRICS_SERVER_CONNECTIONS 32
#define METRICS_SERVER_TIMEOUT_S   15

/**
 * metrics_server_start() - serve the metrics
 * @address: see listen_on(): "HOST:PORT", "[::1]:PORT" or "unix:PATH"
 *
 * Returns: 0 or -errno. End it with metrics_server_stop().
 */
[[gnu::warn_unused_result]] int metrics_server_start(const char *address,
                                                     struct metrics_server **ret,
                                                     struct thaw_error *e);

/** metrics_server_address() - where it listens, with the port that port 0 has become */
const char *metrics_server_address(const struct metrics_server *s);

/** metrics_server_stop() - close all connections and the socket, and free @s, which may be NULL */
void metrics_server_stop(struct metrics_server *s);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_EXPOSE_H
#define THAW_OBSERVE_EXPOSE_H

/*
 * Metrics as Prometheus reads them. Pure functions of the values; any thread. Either is complete:
 * what has not happened yet is there with 0.
 */

#include "base/bytes.h"
#include "observe/metrics.h"

/*
 * The buckets of a histogram in the text format, in its unit: at 2^LOW, 2^(LOW+1) ... 2^HIGH and
 * infinity, for ever the same. For milliseconds that is 1 us to 131 s. These are bounds of the
 * exponential buckets as well, so that the counts are exact.
 */
#define EXPOSE_LADDER_LOW   (-10)
#define EXPOSE_LADDER_HIGH  17
#define EXPOSE_LADDER_STEPS (EXPOSE_LADDER_HIGH - EXPOSE_LADDER_LOW + 1)

/** expose_ladder() - how many values of @h are <= 2^(EXPOSE_LADDER_LOW + i), for each i */
void expose_ladder(const struct histogram *h, uint64_t ret[static EXPOSE_LADDER_STEPS]);

#define EXPOSE_TEXT_TYPE "text/plain; version=0.0.4; charset=utf-8"

/** expose_text() - append the text format, version 0.0.4. Look at @to->failed afterwards */
void expose_text(const struct metrics *m, struct buf *to);

#define EXPOSE_PROTOBUF_TYPE                                                                       \
    "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily; encoding=delimited"

/* What Prometheus takes as schema, which OpenTelemetry calls scale; a finer one is made coarser. */
#define EXPOSE_SCHEMA_MAX 8

/**
 * expose_protobuf() - append MetricFamily messages, each after its length. Look at @to->failed
 *
 * A histogram is there twice: native, and in the buckets of the text format for those who do not
 * know native ones.
 */
void expose_protobuf(const struct metrics *m, struct buf *to);

#endif

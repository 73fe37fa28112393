/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_OBSERVE_TIMELINE_H
#define THAW_OBSERVE_TIMELINE_H

/* What happened when in one resume, in nanoseconds since its start. Control thread only. What is a
 * stage of every resume is recorded in thaw.resume.stage, too. */

#include <stddef.h>
#include <stdint.h>

#define TIMELINE_MAX 16

struct timeline_event {
    const char *name; /* static */
    uint64_t at_ns;
};

struct timeline {
    uint64_t start_ns;                          /* clock_now_ns() of the start */
    struct timeline_event events[TIMELINE_MAX]; /* in order of time */
    size_t count;
};

/** timeline_start() - an empty timeline that begins now */
void timeline_start(struct timeline *t);

/** timeline_add() - note that @name happened at @clock_ns; beyond TIMELINE_MAX it is dropped */
void timeline_add(struct timeline *t, const char *name, uint64_t clock_ns);

/** timeline_mark() - note that @name has just happened */
void timeline_mark(struct timeline *t, const char *name);

#endif

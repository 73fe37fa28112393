/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_CRASH_H
#define THAW_BASE_CRASH_H

/*
 * Crash points: labelled places at which a test can have the process killed, to see what is left
 * behind. Built in by -Dcrash_points=true only; otherwise they are no code at all. In such a build
 * the process that has THAW_CRASH_AT=LABEL in its environment gets SIGKILL, which nothing can
 * catch, when it comes to the point of that label. Any thread.
 */

#ifdef THAW_CRASH_POINTS
#define CRASH_POINTS 1
#else
#define CRASH_POINTS 0
#endif

/**
 * crash_point() - die here if THAW_CRASH_AT says so
 *
 * The arguments are a printf format and what it wants: crash_point("store:renamed:%s", name).
 */
#define crash_point(...)                                                                           \
    do {                                                                                           \
        if (CRASH_POINTS)                                                                          \
            crash_if_asked(__VA_ARGS__);                                                           \
    } while (0)

/** crash_if_asked() - what crash_point() calls */
[[gnu::format(printf, 1, 2)]] void crash_if_asked(const char *fmt, ...);

#endif

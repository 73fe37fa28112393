/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FUZZ_H
#define THAW_TESTS_FUZZ_H

/*
 * A fuzz target is a program with this one function. Built with -Dfuzz=true it is run by libFuzzer;
 * otherwise fuzz_main.c replays the corpus and mutations of it. A property that does not hold
 * aborts, which both take for a finding.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/** LLVMFuzzerTestOneInput() - try one input; always returns 0 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_REQUIRE(condition) fuzz_require((condition), #condition, __FILE__, __LINE__)

static inline void fuzz_require(bool holds, const char *condition, const char *file, int line)
{
    if (holds)
        return;
    fprintf(stderr, "%s:%d: does not hold: %s\n", file, line, condition);
    abort();
}

#endif

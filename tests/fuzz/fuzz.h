/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_FUZZ_H
#define THAW_TESTS_FUZZ_H

/*
 * A fuzz target is a program with this one function. Built with -Dfuzz=true it is run by libFuzzer;
 * otherwise fuzz_main.c replays the corpus and mutations of it. A property that does not hold
 * aborts, which both take for a finding.
 */

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

/** LLVMFuzzerTestOneInput() - try one input; always returns 0 */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FUZZ_REQUIRE(condition)                                                                    \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "%s:%d: does not hold: %s\n", __FILE__, __LINE__, #condition);         \
            abort();                                                                               \
        }                                                                                          \
    } while (0)

#endif

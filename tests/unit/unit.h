/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_UNIT_H
#define THAW_TESTS_UNIT_H

/* What every unit test includes: cmocka, with the headers that it wants before its own. */

/* clang-format off */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
/* clang-format on */

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_CLI_INSPECT_REPORT_H
#define THAW_CLI_INSPECT_REPORT_H

/* What `thaw inspect` prints, for a person or as JSON. */

#include <stdbool.h>

struct json_t;
struct thaw_build_info;
struct thaw_validation;

/** inspect_show_build() - print sections BUILD to OBJECTS; every mapping if @mappings */
void inspect_show_build(const struct thaw_build_info *info, bool mappings);

/** inspect_show_validation() - print section VALIDATION */
void inspect_show_validation(const struct thaw_validation *v);

/** inspect_build_json() - the same as an object; a new reference */
struct json_t *inspect_build_json(const struct thaw_build_info *info, bool mappings);
struct json_t *inspect_validation_json(const struct thaw_validation *v);

#endif

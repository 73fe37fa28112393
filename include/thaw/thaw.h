/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_THAW_H
#define THAW_THAW_H

/*
 * libthaw: resume snapshots of microVMs, lazily, from an object store. The program `thaw` is built
 * on this interface alone.
 *
 * Conventions. Functions return 0 or a positive number on success and a negative errno value on
 * failure, with the reason in a struct thaw_error (NULL is allowed). Option structs begin with
 * opts_size, which the caller sets to sizeof: fields may be added at their end. Strings in options
 * are borrowed for the call. Handles belong to one thread at a time. The library starts threads of
 * its own, with all signals blocked, and never exits or aborts on bad input. It installs one signal
 * handler, for SIGBUS, with cache backing file; what is not its own goes to the one before.
 */

#include "thaw/build.h"
#include "thaw/create.h"
#include "thaw/error.h"
#include "thaw/host.h"
#include "thaw/resume.h"
#include "thaw/store.h"

#endif

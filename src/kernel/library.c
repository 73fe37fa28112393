/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/library.h"

#include <dlfcn.h>
#include <errno.h>
#include <string.h>

#include "base/error.h"
#include "base/thread.h"

/* dlerror(3) begins with the name of the file, which our sentence has already. */
static const char *reason(const char *soname)
{
    const char *text = dlerror();
    size_t len = strlen(soname);

    if (!text)
        return "no reason given";
    if (strncmp(text, soname, len) == 0 && strncmp(text + len, ": ", 2) == 0)
        return text + len + 2;
    return text;
}

/*
 * RTLD_NOW: a symbol that the library itself lacks is to be told here, not to end the process in
 * the middle of a call. RTLD_LOCAL: what it brings along is nobody else's. RTLD_NODELETE: it may
 * have threads, and handlers for their ends.
 */
static int load_locked(struct library *l, struct thaw_error *e)
{
    void *handle = dlopen(l->soname, RTLD_NOW | RTLD_LOCAL | RTLD_NODELETE);
    char *at = l->pointers;

    if (!handle)
        return err_set(e, -ELIBACC, "%s cannot be loaded (%s): install %s", l->soname,
                       reason(l->soname), l->package);
    for (size_t i = 0; i < l->count; i++) {
        void *function = dlsym(handle, l->names[i]);

        if (!function) {
            dlclose(handle);
            return err_set(e, -ELIBBAD, "%s has no %s(): install a newer %s", l->soname,
                           l->names[i], l->package);
        }
        memcpy(at + i * sizeof(function), &function, sizeof(function));
    }
    l->loaded = true;
    return 0;
}

int library_load(struct library *l, struct thaw_error *e)
{
    LOCK_SCOPE(&l->mu);
    return l->loaded ? 0 : load_locked(l, e);
}

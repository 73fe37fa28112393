/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_BASE_CLEANUP_H
#define THAW_BASE_CLEANUP_H

/*
 * Scope-bound ownership. A variable declared with one of the CLEANUP_ attributes is released when
 * it leaves its scope; TAKE_PTR and TAKE_FD hand the value to a new owner and disarm the old one.
 */

#include <stdlib.h>
#include <unistd.h>

#define CLEANUP(fn)  __attribute__((cleanup(fn)))
#define CLEANUP_FREE CLEANUP(cleanup_free)
#define CLEANUP_FD   CLEANUP(cleanup_fd)

/* Defines cleanup_NAME() for a destructor `void NAME(TYPE *)`, for use with CLEANUP(). */
#define DEFINE_CLEANUP(type, destroy)                                                              \
    static inline void cleanup_##destroy(type **p)                                                 \
    {                                                                                              \
        destroy(*p);                                                                               \
    }                                                                                              \
    struct thaw_cleanup_needs_semicolon

#define TAKE_PTR(p)                                                                                \
    ({                                                                                             \
        __typeof__(p) take_ptr_ = (p);                                                             \
        (p) = NULL;                                                                                \
        take_ptr_;                                                                                 \
    })

#define TAKE_FD(fd)                                                                                \
    ({                                                                                             \
        int take_fd_ = (fd);                                                                       \
        (fd) = -1;                                                                                 \
        take_fd_;                                                                                  \
    })

static inline void cleanup_free(void *p)
{
    free(*(void **)p);
}

static inline void cleanup_fd(const int *fd)
{
    if (*fd >= 0)
        close(*fd);
}

/** close_fd() - close *@fd if it is open and mark it closed; safe to call twice */
static inline void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

#endif

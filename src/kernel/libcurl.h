/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_LIBCURL_H
#define THAW_KERNEL_LIBCURL_H

/*
 * libcurl, loaded when it is first needed (kernel/library.h): libcurl->easy_init() is
 * curl_easy_init(), and so on.
 *
 * It has a state of the whole process, which somebody must set up before anybody uses it. We do
 * that once, after loading, and never take it down: the program that embeds us may be using it,
 * too.
 *
 * Our threads exclude each other. An embedder that uses libcurl itself, and has one that cannot be
 * initialised by several threads at once (older than 7.84; see CURL_VERSION_THREADSAFE), calls
 * curl_global_init(3) before it starts threads, as libcurl asks of it anyhow; ours then only
 * counts.
 */

#include <assert.h>

#include <curl/curl.h>

#include "kernel/library.h"

#define LIBCURL_FUNCTIONS(F)                                                                       \
    F(curl_, easy_cleanup)                                                                         \
    F(curl_, easy_getinfo)                                                                         \
    F(curl_, easy_init)                                                                            \
    F(curl_, easy_setopt)                                                                          \
    F(curl_, easy_strerror)                                                                        \
    F(curl_, global_init)                                                                          \
    F(curl_, multi_add_handle)                                                                     \
    F(curl_, multi_cleanup)                                                                        \
    F(curl_, multi_info_read)                                                                      \
    F(curl_, multi_init)                                                                           \
    F(curl_, multi_perform)                                                                        \
    F(curl_, multi_poll)                                                                           \
    F(curl_, multi_remove_handle)                                                                  \
    F(curl_, slist_append)                                                                         \
    F(curl_, slist_free_all)

struct libcurl {
    LIBCURL_FUNCTIONS(LIBRARY_POINTER)
};

/* To be used after libcurl_load() only. */
extern const struct libcurl *const libcurl;

/** libcurl_load() - before any use of libcurl; any thread. 0, -ENOMEM or as library_load() */
[[gnu::warn_unused_result]] int libcurl_load(struct thaw_error *e);

/*
 * curl_easy_setopt() and curl_easy_getinfo() take anything. libcurl's header checks what they are
 * given, but only where they are called by these names; so this does it. Numbers are long (as
 * curl_off_t is on all that we run on), and all else is pointers.
 */
#define LIBCURL_IS_NUMBER(value) _Generic((value), long : 1, int : -1, unsigned : -1, default : 0)
#define LIBCURL_TAKES_NUMBER(option)                                                               \
    (((option) / 10000 == CURLOPTTYPE_LONG / 10000) +                                              \
     ((option) / 10000 == CURLOPTTYPE_OFF_T / 10000))
#define LIBCURL_CHECK(option, value)                                                               \
    sizeof(char[1 - 2 * (LIBCURL_IS_NUMBER(value) != LIBCURL_TAKES_NUMBER(option))])

/** libcurl_set() - curl_easy_setopt(); does not compile if @value is not what @option takes */
#define libcurl_set(handle, option, value)                                                         \
    ((void)LIBCURL_CHECK(option, value), libcurl->easy_setopt(handle, option, value))

/** libcurl_get_long() - curl_easy_getinfo() of what is a long; 0 if it cannot be told */
static inline long libcurl_get_long(CURL *handle, CURLINFO info)
{
    long value = 0;

    assert(((unsigned)info & CURLINFO_TYPEMASK) == CURLINFO_LONG);
    return libcurl->easy_getinfo(handle, info, &value) == CURLE_OK ? value : 0;
}

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_ERROR_H
#define THAW_ERROR_H

/**
 * struct thaw_error - why an operation failed, for a person to read
 * @code: negative errno value; 0 as long as nothing failed
 * @text: one line, context first ("opening build 4f2a...: memfile.header: bad magic at byte 0");
 *        always NUL-terminated
 *
 * Functions that take one as their last parameter leave it alone on success and fill it on failure;
 * NULL is allowed where the caller has no use for the text. The caller owns the memory. Initialise
 * with THAW_ERROR_INIT.
 *
 * Vocabulary beyond the usual errno values: -EBADMSG checksum or format does not hold, -EPROTO a
 * peer broke its protocol, -ESTALE an object changed under us, -ETIMEDOUT a deadline passed,
 * -ECANCELED given up on request, -EAGAIN try again later, -ESHUTDOWN already closed.
 */
struct thaw_error {
    int code;
    char text[500];
};

#define THAW_ERROR_INIT                                                                            \
    {                                                                                              \
        .code = 0, .text = ""                                                                      \
    }

#endif

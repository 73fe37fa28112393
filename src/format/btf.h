/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_FORMAT_BTF_H
#define THAW_FORMAT_BTF_H

/*
 * What arguments a kernel tracepoint has, from the kernel's own description of its types
 * (/sys/kernel/btf/vmlinux; Documentation/bpf/btf.rst). Names of arguments are not in it, only
 * their number and types: tracepoint X is a typedef btf_trace_X of a pointer to a function whose
 * first parameter is not the tracepoint's. Any thread.
 */

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/units.h"

#define BTF_MAX_BYTES      (64 * MIB) /* kernels have 4 to 12 MiB */
#define BTF_TRACEPOINT_MAX 12         /* the kernel's limit for raw tracepoints */
#define BTF_VMLINUX_PATH   "/sys/kernel/btf/vmlinux"

struct btf_argument {
    uint8_t integer_bytes; /* 0: it is no integer */
    bool is_signed;
};

struct btf_tracepoint {
    size_t count;
    struct btf_argument args[BTF_TRACEPOINT_MAX];
};

/**
 * btf_tracepoint() - the arguments of tracepoint @event
 *
 * Typedefs and qualifiers are followed. Types of the machine's own byte order only.
 * Returns: 0, -ENOENT when there is no such tracepoint, -EBADMSG when the bytes do not hold,
 * -ENOMEM.
 */
[[gnu::warn_unused_result]] int btf_tracepoint(const void *bytes, size_t len, const char *event,
                                               struct btf_tracepoint *ret);

#endif

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_KERNEL_BPF_H
#define THAW_KERNEL_BPF_H

/*
 * bpf(2): maps, and a program on a raw tracepoint. Needs CAP_BPF and CAP_PERFMON (5.8), or root.
 * Any thread; descriptors are close-on-exec.
 */

#include <linux/bpf.h>
#include <stddef.h>
#include <stdint.h>

/** bpf_map_create() - a descriptor of a new map, or -errno */
[[gnu::warn_unused_result]] int bpf_map_create(enum bpf_map_type type, uint32_t key_bytes,
                                               uint32_t value_bytes, uint32_t entries,
                                               const char *name);

/** bpf_map_lookup() - the value of @key; 0, -ENOENT or -errno */
[[gnu::warn_unused_result]] int bpf_map_lookup(int map, const void *key, void *ret_value);

/** bpf_map_next() - the key after @key (NULL: the first) in no order; 0, -ENOENT at the end. When
 * @key is gone meanwhile, the walk begins anew. */
[[gnu::warn_unused_result]] int bpf_map_next(int map, const void *key, void *ret_key);

/**
 * bpf_program_load() - a program for a raw tracepoint
 * @license: who may call which helpers depends on it: bpf-helpers(7)
 * @log: what the verifier says when it refuses; may be NULL
 *
 * Returns: a descriptor or -errno; -EPERM without the capabilities, -EACCES or -EINVAL when the
 * verifier refuses.
 */
[[gnu::warn_unused_result]] int bpf_program_load(const struct bpf_insn *program, size_t count,
                                                 const char *license, char *log, size_t log_len);

/** bpf_raw_tracepoint() - run @program at every @event; a descriptor, whose close ends it, or
 * -errno (-ENOENT: no such event) */
[[gnu::warn_unused_result]] int bpf_raw_tracepoint(const char *event, int program);

#endif

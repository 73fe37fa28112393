/* SPDX-License-Identifier: Apache-2.0 */
#include "kernel/bpf.h"

#include <errno.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static int call(int command, union bpf_attr *attr)
{
    long r = syscall(SYS_bpf, command, attr, sizeof(*attr));

    return r < 0 ? -errno : (int)r;
}

static uint64_t address(const void *p)
{
    return (uintptr_t)p;
}

int bpf_map_create(enum bpf_map_type type, uint32_t key_bytes, uint32_t value_bytes,
                   uint32_t entries, const char *name)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr)); /* padding too: the kernel looks at it */
    attr.map_type = type;
    attr.key_size = key_bytes;
    attr.value_size = value_bytes;
    attr.max_entries = entries;
    strncpy(attr.map_name, name, sizeof(attr.map_name) - 1);
    return call(BPF_MAP_CREATE, &attr);
}

int bpf_map_lookup(int map, const void *key, void *ret_value)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)map;
    attr.key = address(key);
    attr.value = address(ret_value);
    return call(BPF_MAP_LOOKUP_ELEM, &attr);
}

int bpf_map_next(int map, const void *key, void *ret_key)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.map_fd = (uint32_t)map;
    attr.key = address(key);
    attr.next_key = address(ret_key);
    return call(BPF_MAP_GET_NEXT_KEY, &attr);
}

int bpf_program_load(const struct bpf_insn *program, size_t count, const char *license, char *log,
                     size_t log_len)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.prog_type = BPF_PROG_TYPE_RAW_TRACEPOINT;
    attr.insns = address(program);
    attr.insn_cnt = (uint32_t)count;
    attr.license = address(license);
    if (log) {
        attr.log_level = 1;
        attr.log_buf = address(log);
        attr.log_size = (uint32_t)log_len;
    }
    return call(BPF_PROG_LOAD, &attr);
}

int bpf_raw_tracepoint(const char *event, int program)
{
    union bpf_attr attr;

    memset(&attr, 0, sizeof(attr));
    attr.raw_tracepoint.name = address(event);
    attr.raw_tracepoint.prog_fd = (uint32_t)program;
    return call(BPF_RAW_TRACEPOINT_OPEN, &attr);
}

/* SPDX-License-Identifier: Apache-2.0 */

/*
 * A guest of a few instructions whose memory comes from a memory server. Its faults are raised by
 * the virtual CPU, inside of ioctl(KVM_RUN), where a real VM raises them.
 *
 *   kvm_guest mk  --image FILE --memory 64M     writes the guest: code, page tables, random data
 *   kvm_guest run --socket PATH --image FILE [--vcpus N] [--timeout SECONDS]
 *
 * Each virtual CPU adds up the last 64-bit word of every page of its share of the memory and
 * reports the sum through two I/O ports; the host adds up the same words of the image file. All
 * pages count, those with code and page tables too: the tables' accessed and dirty bits are set
 * beforehand, so that no CPU changes them.
 *
 * Whether this machine runs such a guest at all is tried first, on a small guest in ordinary
 * memory; if not, the program ends with 77 and the reason in its last line.
 */

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "base/cleanup.h"
#include "base/clock.h"
#include "base/units.h"
#include "client_util.h"
#include "vmm_client.h"

/* Guest-physical addresses, which are also the guest's virtual ones. */
#define GUEST_CODE UINT64_C(0x1000)
#define GUEST_PML4 UINT64_C(0x2000)
#define GUEST_PDPT UINT64_C(0x3000)
#define GUEST_PD   UINT64_C(0x4000) /* up to three pages, one for each GiB */
#define GUEST_DATA UINT64_C(0x8000)

#define MEMORY_MIN (1 * MIB)
#define MEMORY_MAX (3 * GIB) /* below the local APIC's window */
#define VCPUS_MAX  4
#define PORT_LOW   0x10
#define PORT_HIGH  0x14
#define SUM_WORD   (PAGE_BYTES - sizeof(uint64_t)) /* offset in each page of the word that counts */

/* Page table entries, Intel SDM volume 3, section 4.5. */
#define PTE_PRESENT  0x01u
#define PTE_WRITE    0x02u
#define PTE_ACCESSED 0x20u
#define PTE_DIRTY    0x40u
#define PTE_LARGE    0x80u

/* Control registers, same book, section 2.5. */
#define CR0_PE   0x00000001u
#define CR0_ET   0x00000010u
#define CR0_NE   0x00000020u
#define CR0_PG   0x80000000u
#define CR4_PAE  0x00000020u
#define EFER_LME 0x00000100u
#define EFER_LMA 0x00000400u

/* rsi: first word to add, rcx: number of pages, rbx: 0 */
/* clang-format off */
static const uint8_t guest_code[] = {
    0x48, 0x03, 0x1e,                         /* next: add (%rsi), %rbx */
    0x48, 0x81, 0xc6, 0x00, 0x10, 0x00, 0x00, /* add $4096, %rsi */
    0x48, 0xff, 0xc9,                         /* dec %rcx */
    0x75, 0xf1,                               /* jnz next */
    0x89, 0xd8,                               /* mov %ebx, %eax */
    0xe7, PORT_LOW,                           /* out %eax, $PORT_LOW */
    0x48, 0xc1, 0xeb, 0x20,                   /* shr $32, %rbx */
    0x89, 0xd8,                               /* mov %ebx, %eax */
    0xe7, PORT_HIGH,                          /* out %eax, $PORT_HIGH */
    0xf4,                                     /* hlt */
};
/* clang-format on */

struct options {
    const char *socket, *image;
    uint64_t memory_bytes, vcpus, timeout_seconds;
};

struct vm {
    int kvm_fd, vm_fd;
    uint64_t memory_bytes;
    unsigned n_slots;
    char error[160]; /* why it cannot run; empty if it can */
};

struct vcpu {
    struct vm *vm;
    pthread_t thread;
    int fd;
    struct kvm_run *run; /* owned: mapping of run_bytes */
    size_t run_bytes;
    uint64_t sum;
    char error[160]; /* why it stopped early; empty after the guest's halt */
};

static void put_entry(char *memory, uint64_t table, uint64_t index, uint64_t entry)
{
    memcpy(memory + table + index * sizeof(entry), &entry, sizeof(entry));
}

/* Fills @memory with the guest. All of the first 3 GiB are mapped one to one in 2 MiB pages. */
static void build_guest(char *memory, uint64_t bytes)
{
    const uint64_t link = PTE_PRESENT | PTE_WRITE | PTE_ACCESSED;
    struct rng rng = {.state = bytes};

    memset(memory, 0, GUEST_DATA);
    memcpy(memory + GUEST_CODE, guest_code, sizeof(guest_code));
    put_entry(memory, GUEST_PML4, 0, GUEST_PDPT | link);
    for (uint64_t gib = 0; gib < MEMORY_MAX / GIB; gib++) {
        uint64_t pd = GUEST_PD + gib * PAGE_BYTES;

        put_entry(memory, GUEST_PDPT, gib, pd | link);
        for (uint64_t i = 0; i < 512; i++)
            put_entry(memory, pd, i, (gib * GIB + i * 2 * MIB) | link | PTE_DIRTY | PTE_LARGE);
    }
    for (uint64_t at = GUEST_DATA; at < bytes; at += sizeof(uint64_t)) {
        uint64_t word = rng_next(&rng);

        memcpy(memory + at, &word, sizeof(word));
    }
}

static uint64_t sum_of(const char *memory, uint64_t bytes)
{
    uint64_t sum = 0, word;

    for (uint64_t page = 0; page < bytes; page += PAGE_BYTES) {
        memcpy(&word, memory + page + SUM_WORD, sizeof(word));
        sum += word;
    }
    return sum;
}

/* ---- the virtual machine ---- */

[[gnu::format(printf, 2, 3)]] static bool vm_fails(struct vm *vm, const char *fmt, ...)
{
    va_list args;

    va_start(args, fmt);
    vsnprintf(vm->error, sizeof(vm->error), fmt, args);
    va_end(args);
    return false;
}

static bool vm_open(struct vm *vm, uint64_t memory_bytes)
{
    *vm = (struct vm){.kvm_fd = -1, .vm_fd = -1, .memory_bytes = memory_bytes};
    vm->kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (vm->kvm_fd < 0)
        return vm_fails(vm, "/dev/kvm: %s", strerror(errno));
    vm->vm_fd = ioctl(vm->kvm_fd, KVM_CREATE_VM, 0);
    if (vm->vm_fd < 0)
        return vm_fails(vm, "/dev/kvm: creating a VM: %s", strerror(errno));
    return true;
}

static void vm_close(struct vm *vm)
{
    close_fd(&vm->vm_fd);
    close_fd(&vm->kvm_fd);
}

/* Guest-physical memory is packed as the memory file is. */
static bool vm_add_memory(struct vm *vm, char *host, uint64_t bytes, uint64_t offset)
{
    struct kvm_userspace_memory_region region = {
        .slot = vm->n_slots++,
        .guest_phys_addr = offset,
        .memory_size = bytes,
        .userspace_addr = (uintptr_t)host,
    };

    if (ioctl(vm->vm_fd, KVM_SET_USER_MEMORY_REGION, &region) < 0)
        return vm_fails(vm, "giving memory to the VM: %s", strerror(errno));
    return true;
}

/* 64-bit mode as a boot loader would leave it, without the steps in between. */
static void set_long_mode(struct kvm_sregs *sregs)
{
    struct kvm_segment code = {
        .limit = UINT32_MAX, .selector = 8, .type = 11, .present = 1, .s = 1, .l = 1, .g = 1};
    struct kvm_segment data = {
        .limit = UINT32_MAX, .selector = 16, .type = 3, .present = 1, .s = 1, .db = 1, .g = 1};

    sregs->cs = code;
    sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
    sregs->cr3 = GUEST_PML4;
    sregs->cr4 = CR4_PAE;
    sregs->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    sregs->efer = EFER_LME | EFER_LMA;
}

static bool vcpu_set_cpuid(struct vcpu *v)
{
    const uint32_t n = 256;
    struct kvm_cpuid2 *cpuid CLEANUP_FREE =
        calloc(1, sizeof(*cpuid) + n * sizeof(cpuid->entries[0]));

    if (!cpuid)
        return vm_fails(v->vm, "out of memory");
    cpuid->nent = n;
    if (ioctl(v->vm->kvm_fd, KVM_GET_SUPPORTED_CPUID, cpuid) < 0 ||
        ioctl(v->fd, KVM_SET_CPUID2, cpuid) < 0)
        return vm_fails(v->vm, "setting CPUID: %s", strerror(errno));
    return true;
}

/* Virtual CPU @index of @n: its share of the pages, from its first instruction on. */
static bool vcpu_create(struct vcpu *v, struct vm *vm, uint64_t index, uint64_t n)
{
    uint64_t pages = vm->memory_bytes / PAGE_BYTES;
    uint64_t from = pages * index / n, to = pages * (index + 1) / n;
    struct kvm_regs regs = {
        .rflags = 2, /* the bit that is always 1 */
        .rip = GUEST_CODE,
        .rsi = from * PAGE_BYTES + SUM_WORD,
        .rcx = to - from,
    };
    struct kvm_sregs sregs;
    int run_bytes = ioctl(vm->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    void *run;

    *v = (struct vcpu){.vm = vm, .fd = ioctl(vm->vm_fd, KVM_CREATE_VCPU, index)};
    if (v->fd < 0 || run_bytes < 0)
        return vm_fails(vm, "creating a virtual CPU: %s", strerror(errno));
    run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (run == MAP_FAILED)
        return vm_fails(vm, "mapping a virtual CPU: %s", strerror(errno));
    v->run = run;
    v->run_bytes = (size_t)run_bytes;
    if (!vcpu_set_cpuid(v))
        return false;
    if (ioctl(v->fd, KVM_GET_SREGS, &sregs) < 0)
        return vm_fails(vm, "reading registers: %s", strerror(errno));
    set_long_mode(&sregs);
    if (ioctl(v->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(v->fd, KVM_SET_REGS, &regs) < 0)
        return vm_fails(vm, "setting registers: %s", strerror(errno));
    return true;
}

static void vcpu_close(struct vcpu *v)
{
    if (v->run)
        munmap(v->run, v->run_bytes);
    close_fd(&v->fd);
}

static void take_output(struct vcpu *v)
{
    uint32_t value;

    memcpy(&value, (const char *)v->run + v->run->io.data_offset, sizeof(value));
    if (v->run->io.port == PORT_LOW)
        v->sum = value;
    else
        v->sum |= (uint64_t)value << 32;
}

static void *vcpu_main(void *arg)
{
    struct vcpu *v = arg;

    for (;;) {
        if (ioctl(v->fd, KVM_RUN, 0) < 0) {
            if (errno == EINTR || errno == EAGAIN)
                continue;
            snprintf(v->error, sizeof(v->error), "KVM_RUN: %s", strerror(errno));
            return NULL;
        }
        if (v->run->exit_reason == KVM_EXIT_HLT)
            return NULL;
        if (v->run->exit_reason != KVM_EXIT_IO) {
            snprintf(v->error, sizeof(v->error), "the virtual CPU stopped with KVM exit reason %u",
                     v->run->exit_reason);
            return NULL;
        }
        take_output(v);
    }
}

/*
 * Runs all of @vcpus to their halt and adds up their sums. An exit code; a CPU that does not come
 * back within the time ends the process, for its thread cannot be taken back.
 */
static int run_vcpus(struct vcpu *vcpus, uint64_t n, uint64_t timeout_seconds, uint64_t *ret_sum)
{
    struct timespec until;
    uint64_t sum = 0;
    int r;

    clock_gettime(CLOCK_REALTIME, &until);
    until.tv_sec += (time_t)timeout_seconds;
    for (uint64_t i = 0; i < n; i++) {
        r = pthread_create(&vcpus[i].thread, NULL, vcpu_main, &vcpus[i]);
        if (r != 0) {
            fprintf(stderr, "kvm_guest: starting a thread: %s\n", strerror(r));
            _exit(EXIT_WRONG);
        }
    }
    for (uint64_t i = 0; i < n; i++) {
        if (pthread_timedjoin_np(vcpus[i].thread, NULL, &until) != 0) {
            fprintf(stderr,
                    "kvm_guest: hang: virtual CPU %" PRIu64 " has not halted after %" PRIu64 " s\n",
                    i, timeout_seconds);
            _exit(EXIT_HANG);
        }
        if (vcpus[i].error[0] != '\0')
            snprintf(vcpus->vm->error, sizeof(vcpus->vm->error), "%s", vcpus[i].error);
        sum += vcpus[i].sum;
    }
    if (vcpus->vm->error[0] != '\0')
        return EXIT_WRONG;
    *ret_sum = sum;
    return EXIT_OK;
}

static bool create_vcpus(struct vcpu *vcpus, struct vm *vm, uint64_t n)
{
    for (uint64_t i = 0; i < n; i++)
        vcpus[i] = (struct vcpu){.fd = -1};
    for (uint64_t i = 0; i < n; i++)
        if (!vcpu_create(&vcpus[i], vm, i, n))
            return false;
    return true;
}

/* ---- what the verbs do ---- */

/* Runs a small guest in plain memory. 0, or an exit code with the reason printed. */
static int probe(void)
{
    char *memory =
        mmap(NULL, MEMORY_MIN, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct vcpu vcpu = {.fd = -1};
    int code = EXIT_SKIP;
    uint64_t sum = 0;
    struct vm vm;

    if (memory == MAP_FAILED) {
        printf("no memory for a small guest: %s\n", strerror(errno));
        return code;
    }
    build_guest(memory, MEMORY_MIN);
    if (vm_open(&vm, MEMORY_MIN) && vm_add_memory(&vm, memory, MEMORY_MIN, 0) &&
        create_vcpus(&vcpu, &vm, 1))
        code = run_vcpus(&vcpu, 1, 10, &sum) == EXIT_OK ? EXIT_OK : EXIT_SKIP;
    if (code == EXIT_SKIP) {
        printf("this machine does not run a small KVM guest: %s\n", vm.error);
    } else if (sum != sum_of(memory, MEMORY_MIN)) {
        fprintf(stderr, "kvm_guest: a guest in plain memory computes a wrong sum\n");
        code = EXIT_WRONG;
    }
    vcpu_close(&vcpu);
    vm_close(&vm);
    munmap(memory, MEMORY_MIN);
    return code;
}

/* Hands the memory over as Firecracker does; an exit code. */
static int hand_over(struct vmm_client *vmm, const struct options *opt, uint64_t memory_bytes)
{
    struct vmm_layout layout;
    int r;

    r = vmm_layout_parse(&layout, NULL, PAGE_BYTES, memory_bytes);
    if (r < 0)
        return EXIT_USAGE;
    r = vmm_client_map(vmm, &layout);
    if (r == -EPERM || r == -ENOSYS) {
        printf("this user may not create a userfaultfd for kernel faults: %s\n", strerror(-r));
        return EXIT_SKIP;
    }
    if (r == 0)
        r = vmm_client_connect(vmm, opt->socket);
    if (r == 0)
        r = vmm_client_send(vmm);
    if (r < 0) {
        fprintf(stderr, "kvm_guest: %s: %s\n", vmm->step, strerror(-r));
        return EXIT_WRONG;
    }
    return EXIT_OK;
}

static bool start_vm(struct vm *vm, struct vcpu *vcpus, const struct vmm_client *vmm, uint64_t n)
{
    if (!vm_open(vm, vmm->memory_bytes))
        return false;
    for (size_t i = 0; i < vmm->n_regions; i++)
        if (!vm_add_memory(vm, vmm->regions[i].host, vmm->regions[i].bytes, vmm->regions[i].offset))
            return false;
    return create_vcpus(vcpus, vm, n);
}

static int run_served(const struct options *opt, const struct image *image, struct vmm_client *vmm)
{
    struct vcpu vcpus[VCPUS_MAX];
    uint64_t expected = sum_of(image->data, image->bytes), sum = 0, from_ns;
    struct vm vm;
    int code;

    from_ns = clock_now_ns();
    if (start_vm(&vm, vcpus, vmm, opt->vcpus))
        code = run_vcpus(vcpus, opt->vcpus, opt->timeout_seconds, &sum);
    else
        code = EXIT_WRONG;
    if (vm.error[0] != '\0')
        fprintf(stderr, "kvm_guest: %s\n", vm.error);
    if (code == EXIT_OK) {
        printf("{\"vcpus\":%" PRIu64 ",\"pages\":%" PRIu64 ",\"sum\":\"%016" PRIx64
               "\",\"expected\":\"%016" PRIx64 "\",\"seconds\":%.6f}\n",
               opt->vcpus, image->bytes / PAGE_BYTES, sum, expected,
               (double)(clock_now_ns() - from_ns) / (double)NS_PER_SEC);
        if (sum != expected) {
            fprintf(stderr, "kvm_guest: the guest's sum differs from the image's\n");
            code = EXIT_WRONG;
        }
    }
    /* The process ends now and takes virtual CPUs and memory with it. */
    return code;
}

static int verb_run(const struct options *opt)
{
    struct vmm_client vmm;
    struct image image;
    int r = image_open(&image, opt->image), code;

    if (r == 0 && (image.bytes < MEMORY_MIN || image.bytes > MEMORY_MAX))
        r = -EFBIG;
    if (r < 0) {
        fprintf(stderr, "kvm_guest: image %s: %s\n", opt->image, strerror(-r));
        return EXIT_USAGE;
    }
    code = probe();
    if (code == EXIT_OK)
        code = hand_over(&vmm, opt, image.bytes);
    if (code == EXIT_OK)
        code = run_served(opt, &image, &vmm);
    return code;
}

static int write_image(const char *path, uint64_t bytes, uint64_t *ret_sum)
{
    int fd CLEANUP_FD = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    char *memory;

    if (fd < 0 || ftruncate(fd, (off_t)bytes) < 0)
        return -errno;
    memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (memory == MAP_FAILED)
        return -errno;
    build_guest(memory, bytes);
    *ret_sum = sum_of(memory, bytes);
    return munmap(memory, bytes) < 0 ? -errno : 0;
}

static int verb_mk(const struct options *opt)
{
    uint64_t sum = 0;
    int r;

    if (opt->memory_bytes < MEMORY_MIN || opt->memory_bytes > MEMORY_MAX ||
        opt->memory_bytes % PAGE_BYTES != 0) {
        fprintf(stderr, "kvm_guest: --memory must be whole pages, 1M to 3G\n");
        return EXIT_USAGE;
    }
    r = write_image(opt->image, opt->memory_bytes, &sum);
    if (r < 0) {
        fprintf(stderr, "kvm_guest: image %s: %s\n", opt->image, strerror(-r));
        return EXIT_WRONG;
    }
    printf("{\"memory_bytes\":%" PRIu64 ",\"sum\":\"%016" PRIx64 "\"}\n", opt->memory_bytes, sum);
    return EXIT_OK;
}

static int parse_option(struct options *opt, int ch, const char *arg)
{
    switch (ch) {
    case 's':
        opt->socket = arg;
        return 0;
    case 'i':
        opt->image = arg;
        return 0;
    case 'm':
        return util_parse_size(arg, &opt->memory_bytes);
    case 'c':
        return util_parse_count(arg, VCPUS_MAX, &opt->vcpus);
    case 't':
        return util_parse_count(arg, 3600, &opt->timeout_seconds);
    default:
        return -EINVAL;
    }
}

static int parse_command_line(struct options *opt, int argc, char **argv)
{
    static const struct option longs[] = {
        {"socket", required_argument, NULL, 's'},  {"image", required_argument, NULL, 'i'},
        {"memory", required_argument, NULL, 'm'},  {"vcpus", required_argument, NULL, 'c'},
        {"timeout", required_argument, NULL, 't'}, {0},
    };
    int ch;

    *opt = (struct options){.memory_bytes = 64 * MIB, .vcpus = 1, .timeout_seconds = 60};
    while ((ch = getopt_long(argc, argv, "", longs, NULL)) != -1)
        if (parse_option(opt, ch, optarg) < 0)
            return -EINVAL;
    return optind == argc - 1 && opt->image && opt->vcpus > 0 ? 0 : -EINVAL;
}

int main(int argc, char **argv)
{
    struct options opt;

    if (parse_command_line(&opt, argc, argv) == 0) {
        if (!strcmp(argv[optind], "mk"))
            return verb_mk(&opt);
        if (!strcmp(argv[optind], "run") && opt.socket)
            return verb_run(&opt);
    }
    fputs("usage: kvm_guest mk --image FILE [--memory SIZE]\n"
          "       kvm_guest run --socket PATH --image FILE [--vcpus 1-4] [--timeout SECONDS]\n",
          stderr);
    return EXIT_USAGE;
}

/* SPDX-License-Identifier: Apache-2.0 */
#ifndef THAW_TESTS_PAGER_FIXTURE_H
#define THAW_TESTS_PAGER_FIXTURE_H

/* A pager with a kernel that says what the test wants. The image is real, from a build in a scratch
 * folder. */

#include <errno.h>

#include "build_fixture.h"
#include "format/handover.h"
#include "memory/pager.h"
#include "memory/pager_internal.h"

#define PAGES 6144u /* more than PAGER_QUEUE; whole pages of 2 MiB, too */
#define BASE  UINT64_C(0x7f0000000000)
#define GAP   UINT64_C(0x10000000)

/* Pages 100 to 199 of the image are zeros. */
static unsigned char *content;
static struct build_fixture build;

static struct {
    struct uffd_msg events[PAGER_EVENTS * 2];
    unsigned event_count;
    int answer;           /* what installs say; 0: succeed */
    unsigned answer_left; /* how often, then they succeed */
    int poison_answer;
    unsigned copies, zeros, wakes, poisons, unprotects;
    uint64_t told; /* what a status says of failed pages when the kernel is asked to poison */
    int told_why;
    uint64_t last;           /* address of the last install or poison */
    unsigned char first[16]; /* bytes of the last copy */
} fake;

static struct pager_counters counters;

static inline int fake_read(int fd, struct uffd_msg *ret, size_t max)
{
    unsigned n = MIN(fake.event_count, (unsigned)max);

    (void)fd;
    if (n == 0)
        return -EAGAIN;
    memcpy(ret, fake.events, n * sizeof(*ret));
    memmove(fake.events, fake.events + n, (fake.event_count - n) * sizeof(*ret));
    fake.event_count -= n;
    return (int)n;
}

static inline int fake_answer(uint64_t at, uint64_t len, uint64_t *ret_done)
{
    fake.last = at;
    *ret_done = 0;
    if (fake.answer_left > 0) {
        fake.answer_left--;
        return fake.answer;
    }
    *ret_done = len;
    return 0;
}

static inline int fake_copy(int fd, struct host_addr dst, const void *src, uint64_t len,
                            uint64_t *ret)
{
    (void)fd;
    fake.copies++;
    memcpy(fake.first, src, sizeof(fake.first));
    return fake_answer(dst.v, len, ret);
}

static inline int fake_zero(int fd, struct host_addr dst, uint64_t len, uint64_t *ret)
{
    (void)fd;
    fake.zeros++;
    return fake_answer(dst.v, len, ret);
}

static inline int fake_wake(int fd, struct host_addr at, uint64_t len)
{
    (void)fd;
    (void)at;
    (void)len;
    fake.wakes++;
    return 0;
}

static inline int fake_poison(int fd, struct host_addr at, uint64_t len)
{
    (void)fd;
    (void)len;
    fake.poisons++;
    fake.last = at.v;
    fake.told = counters.failed;
    fake.told_why = counters.failure;
    return fake.poison_answer;
}

static inline int fake_unprotect(int fd, struct host_addr at, uint64_t len)
{
    uint64_t done;

    (void)fd;
    fake.unprotects++;
    return fake_answer(at.v, len, &done);
}

static const struct uffd_ops fake_ops = {fake_read, fake_copy,   fake_zero,
                                         fake_wake, fake_poison, fake_unprotect};

static struct pager pager;
static struct mailbox inbox;
static struct image *image;

static inline int set_up_group(void **state)
{
    (void)state;
    content = random_bytes(PAGES * PAGE_BYTES, 3);
    memset(content + 100 * PAGE_BYTES, 0, 100 * PAGE_BYTES);
    build_fixture_init(&build, content, PAGES * PAGE_BYTES);
    return 0;
}

static inline int tear_down_group(void **state)
{
    (void)state;
    build_fixture_finish(&build);
    free(content);
    return 0;
}

static bool populate;

static inline int init(struct pager *p, const struct handover *h, struct thaw_error *e)
{
    return pager_init(p,
                      &(struct pager_options){
                          .ops = &fake_ops,
                          .uffd = -1,
                          .handover = h,
                          .image = image,
                          .inbox = &inbox,
                          .counters = &counters,
                          .populate = populate,
                      },
                      e);
}

/* Two regions: the first half of the pages at BASE, the others at BASE + GAP. */
static inline int set_up(void **state)
{
    uint64_t half = PAGES / 2 * PAGE_BYTES;
    struct handover_region regions[] = {
        {{BASE + GAP}, half, {half}},
        {{BASE}, half, {0}},
    };
    struct handover h = {.regions = regions, .region_count = 2, .page_bytes = PAGE_BYTES};

    (void)state;
    memset(&fake, 0, sizeof(fake));
    memset(&counters, 0, sizeof(counters));
    assert_int_equal(mailbox_init(&inbox), 0);
    assert_int_equal(image_open(build.fetch, build.store, build.manifest, "memfile", &image, NULL),
                     0);
    assert_int_equal(init(&pager, &h, NULL), 0);
    return 0;
}

static inline void settle(void)
{
    while (pager_waits_out(&pager) > 0)
        await_messages(&inbox);
}

static inline int tear_down(void **state)
{
    (void)state;
    settle();
    pager_finish(&pager);
    image_close(image);
    mailbox_finish(&inbox);
    return 0;
}

static inline uint64_t address(unsigned page)
{
    return page < PAGES / 2 ? BASE + page * PAGE_BYTES
                            : BASE + GAP + (page - PAGES / 2) * PAGE_BYTES;
}

static inline void event_fault(unsigned page)
{
    fake.events[fake.event_count++] = (struct uffd_msg){.event = UFFD_EVENT_PAGEFAULT,
                                                        .arg.pagefault.address = address(page) + 8};
}

static inline void event_remove(unsigned page, unsigned pages)
{
    fake.events[fake.event_count++] =
        (struct uffd_msg){.event = UFFD_EVENT_REMOVE,
                          .arg.remove.start = address(page),
                          .arg.remove.end = address(page) + pages * PAGE_BYTES};
}

/* One turn of the thread's loop, and whatever it has asked for. */
static inline void turn(void)
{
    pager_serve(&pager);
    settle();
    pager_work(&pager);
    settle();
}

static inline void fault(unsigned page)
{
    event_fault(page);
    turn();
}

#endif

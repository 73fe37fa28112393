#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The programs that act as a VMM, against the minimal handler: do they see what is wrong?

  test_vmm_programs.py memory-client-self|kvm-guest-self|fault-client-self [TEST...]
"""

import itertools
import json
import os
import re
import shutil
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import flip_byte
from thawtest import (check, check_between, check_equal, check_in, fd_links, main,
                      require_huge_pages, require_program)

PAGE = 4096


class Floor:
    """A minimal handler that serves @image, and a client's arguments to reach it."""

    def __init__(self, case, image):
        self.image = image
        self.path = case.path(f"memory-{len(case.programs)}.sock")
        self.handler = case.start("minimal_handler", "--socket", self.path, "--image", image)
        check_equal(self.handler.ready()["memory_bytes"], os.path.getsize(image), "memory_bytes")

    def client_args(self, image=None):
        return ["--socket", self.path, "--image", image or self.image]

    def faults(self):
        """The handler's numbers, after the VM's end."""
        self.handler.expect_exit(0)
        return self.handler.result()["faults"]


class Stranger:
    """A listener that takes the hand-over and looks at it, and never serves a page."""

    def __init__(self, case):
        self.path = case.path("stranger.sock")

    def __enter__(self):
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(self.path)
        self.listener.listen(1)
        self.listener.settimeout(30)
        self.conn, self.fds = None, []
        return self

    def receive(self):
        """The bytes of the first message, and the descriptors that came with it."""
        self.conn = self.listener.accept()[0]
        body, self.fds, _, _ = socket.recv_fds(self.conn, 65536, 8)
        return body, self.fds

    def next_bytes(self):
        """What comes next: None for nothing yet, b"" for the end."""
        self.conn.settimeout(0.2)
        try:
            return self.conn.recv(100)
        except TimeoutError:
            return None

    def __exit__(self, *_):
        for fd in self.fds:
            os.close(fd)
        if self.conn:
            self.conn.close()
        self.listener.close()
        os.unlink(self.path)


# One element after the other, no blanks, nothing at the end.
REGION = (rb'\{"base_host_virt_addr":[0-9]+,"size":[0-9]+,"offset":[0-9]+,"page_size":4096,'
          rb'"page_size_kib":4096\}')
BODY = rb"\[" + REGION + rb"," + REGION + rb"," + REGION + rb"\]"


def check_uffd(fd, pid):
    """@fd must be a userfaultfd as Firecracker makes them, still open in process @pid, too."""
    link = os.readlink(f"/proc/self/fd/{fd}")
    check_in("[userfaultfd]", link, "descriptor")
    numbers = [n for n, text in fd_links(pid).items() if text == link]
    check_equal(len(numbers), 1, "userfaultfds of the VM")
    with open(f"/proc/{pid}/fdinfo/{numbers[0]}", encoding="ascii") as f:
        info = dict(line.split(":", 1) for line in f)
    flags = int(info["flags"], 8)
    check(flags & os.O_NONBLOCK and flags & os.O_CLOEXEC, f"flags {flags:o}")
    # "API: aa:80000008:1ffff": version, features asked for with the kernel's own mark that they
    # have been asked for, features that there are. 8 is EVENT_REMOVE.
    version, features, _ = info["API"].strip().split(":")
    check_equal((version, int(features, 16) & 0x7FFFFFFF), ("aa", 8), "API and features")


def run_client(case, image, *args, status=0):
    """memory_client against a handler of its own: (client's result or None, handler's faults)."""
    floor = Floor(case, image)
    client = case.run("memory_client", *floor.client_args(), "--json", *args, status=status)
    return client.result() if status in (0, 1) else None, floor.faults()


# ---- memory_client ----

def every_byte_is_right(case):
    image = case.image("memory", "16M")
    result, faults = run_client(case, image)
    check_equal(result["pages"], 4096, "pages")
    check_equal((result["errors"], result["wrong"], result["removed"]), (0, 0, 0), "defects")
    check_between(result["written"], 800, 1250, "pages written, a quarter of them")
    check_between(faults["total"], 4096, 4096 + 64 * 3, "faults")


def many_regions(case):
    image = case.image("memory", "16M")
    for regions in ("3M,1M,12M", "4K,16376K,4K", ",".join(["64K"] * 255 + ["64K"])):
        result, _ = run_client(case, image, "--regions", regions)
        check_equal(result["pages"], 4096, f"pages in {regions[:20]}")


def some_pages_in_order(case):
    image = case.image("memory", "16M")
    result, faults = run_client(case, image, "--pages", "1000", "--order", "sequential",
                                "--threads", "1")
    check_equal((result["pages"], faults["total"]), (1000, 1000), "pages, faults")


def removes_leave_zeros(case):
    image = case.image("memory", "16M", kind="random")
    for seed in (1, 2, 3):
        result, faults = run_client(case, image, "--removes", "500", "--seed", str(seed))
        check_equal(result["pages"], 4096, "pages")
        check(result["removes"] > 300, f"of 500 removals {result['removes']} found a page")
        check_equal(faults["removed"], result["removed"], "pages removed, as the handler saw it")
        check(faults["zero"] > 0, "no zero page was asked for")


def huge_pages(case):
    require_huge_pages(16)
    image = case.image("memory", "32M", kind="random")
    result, faults = run_client(case, image, "--page-size", "2M", "--removes", "20",
                                "--regions", "4M,28M")
    check_equal(result["pages"], 16, "pages")
    check(faults["total"] >= 16, f"only {faults['total']} faults")


def socket_closed_early(case):
    image = case.image("memory", "8M")
    result, _ = run_client(case, image, "--legacy-close")
    check_equal(result["pages"], 2048, "pages")


def wrong_byte_is_seen(case):
    served = case.image("memory", "8M", kind="random")
    wanted = shutil.copy(served, case.path("wanted"))
    flip_byte(wanted, 1234 * PAGE + 777)
    floor = Floor(case, served)
    client = case.run("memory_client", *floor.client_args(wanted), "--json", status=1)
    check_equal(client.result()["wrong"], 2, "wrong reads, one of each pass")
    check_in("page 1234, image offset 0x4d2309", client.stderr(), "message")
    floor.faults()


def silent_zeros_are_seen(case):
    """What a server would do that cannot get a page and does not say so."""
    wanted = case.image("memory", "8M", kind="random")
    served = case.image("zeros", "8M", kind="holes")
    floor = Floor(case, served)
    client = case.run("memory_client", *floor.client_args(wanted), "--json", status=1)
    check(client.result()["wrong"] >= 2048, "not all pages are reported")
    floor.faults()


def hang_is_seen(case):
    """Nobody accepts: the kernel takes the message, and no page ever comes."""
    image = case.image("memory", "1M")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(case.path("deaf"))
        listener.listen(1)
        client = case.run("memory_client", "--socket", case.path("deaf"), "--image", image,
                          "--hang-seconds", "1", status=3)
    check_in("hangs for 1 s in a touch of page", client.stderr(), "message")
    os.unlink(case.path("deaf"))


def server_that_dies_is_a_hang(case):
    """And no wrong byte: the VM's own copy of the userfaultfd keeps the missing pages missing."""
    image = case.image("memory", "1M", kind="random")
    with Stranger(case) as server:
        client = case.start("memory_client", "--socket", server.path, "--image", image,
                            "--hang-seconds", "1")
        server.receive()
    client.expect_exit(3)
    check("wrong byte" not in client.stderr(), client.stderr())


def hand_over_is_to_the_byte(case):
    image = case.image("memory", "16M")
    for extra, end in (([], None), (["--legacy-close"], b"")):
        with Stranger(case) as server:
            client = case.start("memory_client", "--socket", server.path, "--image", image,
                                "--regions", "3M,1M,12M", "--hang-seconds", "1", *extra)
            body, fds = server.receive()
            check_equal(len(fds), 1, "descriptors")
            check(re.fullmatch(BODY, body), f"body: {body!r}")
            regions = json.loads(body)
            check_equal([(r["size"], r["offset"]) for r in regions],
                        [(3 << 20, 0), (1 << 20, 3 << 20), (12 << 20, 4 << 20)], "regions")
            spans = sorted((r["base_host_virt_addr"], r["size"]) for r in regions)
            check(all(a + size < b for (a, size), (b, _) in itertools.pairwise(spans)),
                  f"regions touch one another: {spans}")
            check_uffd(fds[0], client.pid)
            check_equal(server.next_bytes(), end, "what follows the hand-over")
        client.expect_exit(3)


def errors_must_come_when_expected(case):
    image = case.image("memory", "1M")
    result, _ = run_client(case, image, "--expect-errors", status=1)
    check_equal((result["errors"], result["wrong"]), (0, 0), "errors, wrong reads")


def death_in_each_phase(case):
    image = case.image("memory", "8M")
    for phase in ("connect", "sent", "half"):
        floor = Floor(case, image)
        case.run("memory_client", *floor.client_args(), "--die-at", phase, status=-9)
        # A VM that is gone before it has sent anything broke the protocol.
        status = 1 if phase == "connect" else 0
        floor.handler.expect_exit(status)
        if phase == "half":
            check_between(floor.handler.result()["faults"]["total"], 900, 1500, "faults")


def hold_keeps_the_vm(case):
    image = case.image("memory", "1M")
    floor = Floor(case, image)
    client = case.start("memory_client", *floor.client_args(), "--json", "--hold")
    check_equal(client.json_line(0)["pages"], 256, "pages")
    check_equal((client.returncode(), floor.handler.returncode()), (None, None), "exit statuses")
    check(any("[userfaultfd]" in link for _, link in case.guest_memory_fds()), "no userfaultfd")
    client.stop()
    floor.faults()


def bad_command_lines(case):
    image = case.image("memory", "1M")
    base = ["--socket", case.path("s"), "--image", image]
    for args in ([], ["--socket", "x"], [*base, "--threads", "0"], [*base, "--regions", "1M,1M"],
                 [*base, "--regions", "5000,1043576"], [*base, "--page-size", "8192"],
                 [*base, "--page-size", "2M"], [*base, "--order", "up"], [*base, "surplus"],
                 [*base, "--seed", "-1"], ["--socket", "x", "--image", case.path("none")]):
        case.run("memory_client", *args, status=2)
    case.run("memory_client", *base, status=1)  # nobody listens


# ---- kvm_guest ----

def make_guest(case, size):
    require_program("kvm_guest", "it is built for x86-64 only")
    image = case.path("guest")
    made = case.run("kvm_guest", "mk", "--image", image, "--memory", size).result()
    check_equal(made["memory_bytes"], os.path.getsize(image), "size of the image")
    return image, made["sum"]


def vcpu_faults_are_served(case):
    image, expected = make_guest(case, "16M")
    for vcpus in (1, 2):
        floor = Floor(case, image)
        result = case.run("kvm_guest", "run", *floor.client_args(), "--vcpus", str(vcpus)).result()
        check_equal((result["sum"], result["pages"]), (expected, 4096), "sum, pages")
        check(floor.faults()["total"] >= 4096, "the guest did not fault on all of its pages")


def wrong_sum_is_seen(case):
    image, expected = make_guest(case, "16M")
    wanted = shutil.copy(image, case.path("wanted"))
    flip_byte(wanted, 1000 * PAGE + PAGE - 8)
    floor = Floor(case, image)
    client = case.run("kvm_guest", "run", *floor.client_args(wanted), status=1)
    check_equal(client.result()["sum"], expected, "sum of what was served")
    check_in("sum differs", client.stderr(), "message")
    floor.faults()


def guest_that_waits_for_ever(case):
    image, _ = make_guest(case, "1M")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(case.path("deaf"))
        listener.listen(1)
        client = case.run("kvm_guest", "run", "--socket", case.path("deaf"), "--image", image,
                          "--timeout", "1", status=3)
    os.unlink(case.path("deaf"))
    check_in("has not halted", client.stderr(), "message")


# ---- fault_client ----

def latencies_are_plausible(case):
    image = case.image("memory", "16M", kind="random")
    for threads in (1, 4):
        floor = Floor(case, image)
        r = case.run("fault_client", *floor.client_args(), "--threads", str(threads)).result()
        check_equal((r["threads"], r["pages"]), (threads, 4096), "threads, pages")
        check(0 < r["p50_us"] <= r["p90_us"] <= r["p99_us"] <= r["max_us"], f"latencies {r}")
        check(r["seconds"] * 1e6 >= r["p50_us"] * 2048 / threads, f"faster than its parts: {r}")
        check(r["server_cpu_us_per_page"] > 0, f"the server took no time: {r}")
        check_equal(floor.faults()["total"], 4096, "faults")


def wrong_word_is_seen(case):
    served = case.image("memory", "8M", kind="random")
    wanted = shutil.copy(served, case.path("wanted"))
    flip_byte(wanted, 99 * PAGE)
    floor = Floor(case, served)
    client = case.run("fault_client", *floor.client_args(wanted), status=1)
    check_in("wrong word: page 99", client.stderr(), "message")
    floor.faults()


GROUPS = {
    "memory-client-self": (
        hand_over_is_to_the_byte, every_byte_is_right, many_regions, some_pages_in_order,
        removes_leave_zeros, huge_pages, socket_closed_early, wrong_byte_is_seen,
        silent_zeros_are_seen, hang_is_seen, server_that_dies_is_a_hang,
        errors_must_come_when_expected, death_in_each_phase, hold_keeps_the_vm,
        bad_command_lines),
    "kvm-guest-self": (vcpu_faults_are_served, wrong_sum_is_seen, guest_that_waits_for_ever),
    "fault-client-self": (latencies_are_plausible, wrong_word_is_seen),
}

if __name__ == "__main__":
    if len(sys.argv) < 2 or sys.argv[1] not in GROUPS:
        sys.exit(__doc__)
    main(*GROUPS[sys.argv.pop(1)])

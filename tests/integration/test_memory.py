#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guest memory served by `thaw resume --vmm none` to a client that speaks Firecracker's side."""

import os
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import check, check_equal, check_in, fd_links, main


def touch(case, image, *args, thaw=None):
    """Resume a build of @image (unless @thaw serves one), touch all pages, and return both."""
    thaw = thaw or case.resume(case.create(image))
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--json", *args)
    client.expect_exit(0)
    return client.result(), thaw


def result_of(thaw, status=0):
    """The second line, after the end; its numbers must add up."""
    thaw.expect_exit(status)
    result = thaw.result()
    faults = dict(result["faults"])
    check_equal(sum(n for k, n in faults.items() if k != "total"), faults["total"],
                "sum of the kinds of faults")
    for stage in result["stages"]:
        check(stage["ms"] >= 0, f"stage {stage} takes negative time")
    check_equal(result["stages"][0]["name"], "build opened", "first stage")
    return result


def serves_every_page(case):
    image = case.image("memory", "32M")
    touched, thaw = touch(case, image)
    result = result_of(thaw)
    check_equal(result["pages"]["total"], 8192, "pages in all")
    check_equal(result["pages"]["installed"], 8192, "pages installed")
    check_equal(touched["wrong"], 0, "wrong pages")
    check(result["faults"]["zero"] > 0, "an image with holes has zero faults")
    check(result["bytes"]["installed"] < 8192 * 4096, "zero pages were copied")


def fetches_only_what_is_touched(case):
    image = case.image("memory", "64M", "random")
    _, thaw = touch(case, image, "--pages", "16", "--threads", "1")
    result = result_of(thaw)
    # 16 granules, and read-ahead behind those that happen to follow each other.
    check(result["bytes"]["fetched"] <= 16 * 65536 * 2, f"fetched {result['bytes']}")
    check(result["pages"]["installed"] < 64, f"installed {result['pages']}")


def serves_regions_with_gaps(case):
    image = case.image("memory", "40M")
    _, thaw = touch(case, image, "--regions", "3M,1M,12M,64K,128K,1M,4K,12K,1M,2M,16M,3888K")
    result_of(thaw)


def removed_pages_read_as_zeros(case):
    image = case.image("memory", "32M")
    touched, thaw = touch(case, image, "--removes", "3000", "--threads", "6", "--seed", "3")
    result = result_of(thaw)
    check(touched["removed"] > 0, "nothing was removed")
    check(result["faults"]["removed"] > 0, "no fault on a removed page")


def zero_pages_take_no_memory(case):
    image = case.image("memory", "64M", "holes")
    build = case.create(image)
    thaw = case.resume(build)
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image)
    client.expect_exit(0)
    result = result_of(thaw)
    check_equal(result["bytes"]["fetched"], 0, "bytes fetched for zeros")
    check_equal(result["bytes"]["cached"], 0, "bytes cached for zeros")


def old_firecracker_closes_its_socket(case):
    image = case.image("memory", "8M")
    _, thaw = touch(case, image, "--legacy-close")
    result_of(thaw)


def ends_with_the_vm(case):
    """A VM that is killed in any phase: thaw notices, and nothing is left."""
    image = case.image("memory", "16M")
    build = case.create(image)
    for phase in ("sent", "half"):
        thaw = case.resume(build)
        client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image",
                            image, "--die-at", phase)
        client.expect_exit(-9)
        result_of(thaw)


def a_peer_that_says_nothing_is_dropped(case):
    """Connections that send rubbish, or nothing, do not keep the VM out."""
    image = case.image("memory", "8M")
    thaw = case.resume(case.create(image))
    path = thaw.info["memory_socket"]
    client = case.start("memory_client", "--socket", path, "--image", image, "--die-at", "connect")
    client.expect_exit(-9)
    for rubbish in (b"", b"[]", b"{", b"x" * 70000, b'[{"base_host_virt_addr":4096}]'):
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
            try:
                s.sendall(rubbish)
            except (BrokenPipeError, ConnectionResetError):
                pass
    with socket.socket(socket.AF_UNIX) as s:
        s.connect(path)
        body = b'[{"base_host_virt_addr":1048576,"size":4096,"offset":0,"page_size":4096}]'
        r, w = os.pipe()
        socket.send_fds(s, [body], [r, w])
        os.close(r)
        os.close(w)
        check_equal(s.recv(1), b"", "answer to a pipe in place of a uffd")
    links = [link for link in fd_links(thaw.pid).values() if "pipe" in link]
    # stdout is a pipe, too.
    check(len(links) <= 1, f"descriptors of a refused peer are kept: {links}")
    _, thaw = touch(case, image, thaw=thaw)
    result_of(thaw)
    check_in("not a userfaultfd", thaw.stderr(), "what thaw says of the pipe")


def wrong_build_is_refused(case):
    """More memory than the build has: told, not served with invented bytes."""
    image = case.image("memory", "8M")
    larger = case.image("larger", "16M")
    thaw = case.resume(case.create(image))
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image",
                        larger, "--hang-seconds", "2")
    check(client.wait() != 0, "a VM with more memory than the build has was served")
    thaw.stop()
    check_in("does not fit", thaw.stderr(), "what thaw says")


def sigterm_ends_it(case):
    thaw = case.resume(case.create(case.image("memory", "8M")))
    check_equal(os.stat(thaw.info["memory_socket"]).st_mode & 0o777, 0o600, "mode of the socket")
    thaw.stop()
    check(not os.path.exists(os.path.dirname(thaw.info["memory_socket"])), "the folder is left")


def kvm_guest_runs(case):
    """A vCPU's faults, served from inside KVM_RUN."""
    image = case.path("memory")
    case.run("kvm_guest", "mk", "--image", image, "--memory", "64M")
    build = case.create(image)
    for vcpus in ("1", "2"):
        thaw = case.resume(build)
        case.run("kvm_guest", "run", "--socket", thaw.info["memory_socket"], "--image", image,
                 "--vcpus", vcpus)
        result = result_of(thaw)
        check(result["faults"]["total"] > 10000, f"a guest of 64 MiB had {result['faults']}")


GROUPS = {
    "memory": (serves_every_page, fetches_only_what_is_touched, serves_regions_with_gaps,
               removed_pages_read_as_zeros, zero_pages_take_no_memory,
               old_firecracker_closes_its_socket, sigterm_ends_it),
    "memory-peers": (ends_with_the_vm, a_peer_that_says_nothing_is_dropped,
                     wrong_build_is_refused),
    "kvm-guest": (kvm_guest_runs,),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

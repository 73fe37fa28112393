#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Guest memory served by `thaw resume --vmm none` to a client that speaks Firecracker's side."""

import json
import os
import random
import select
import socket
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import (check, check_equal, check_in, fail, fd_count, fd_links, main,
                      require_huge_pages, skip, thread_count)


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


def serves_eight_layers(case):
    """Eight generations of changes, each a layer over the one before, with holes and zeros."""
    rng = random.Random(8)
    image = case.image("memory", "16M")
    build = case.create(image)
    for _ in range(7):
        with open(image, "r+b") as f:
            for _ in range(60):
                f.seek(rng.randrange(4096) * 4096)
                f.write(rng.choice((rng.randbytes(4096), bytes(4096), rng.randbytes(20000))))
            f.truncate(16 << 20)
        build = case.create(image, args=["--base", build])
    thaw = case.resume(build)
    layers = json.loads(case.thaw("inspect", build, "--store", case.store, "--json").stdout())
    check(len(layers["memory"]["builds"]) >= 8, f"layers: {layers}")
    _, thaw = touch(case, image, "--removes", "200", thaw=thaw)
    result_of(thaw)


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
    """More memory than the build has: told, not served with invented bytes. Less: told, too."""
    build = case.create(case.image("memory", "8M"))
    for size, text in (("16M", "does not fit"), ("4M", "holds byte 4194304 of")):
        thaw = case.resume(build)
        client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image",
                            case.image("other-" + size, size), "--hang-seconds", "8")
        check(client.wait() != 0, f"a VM of {size} was served by a build of 8M")
        thaw.stop()
        check_in(text, thaw.stderr(), "what thaw says")


def sigterm_ends_it(case):
    thaw = case.resume(case.create(case.image("memory", "8M")))
    check_equal(os.stat(thaw.info["memory_socket"]).st_mode & 0o777, 0o600, "mode of the socket")
    thaw.stop()
    check(not os.path.exists(os.path.dirname(thaw.info["memory_socket"])), "the folder is left")


def two_vms_share_one_cache(case):
    """--accept 2: both are served, and what one has fetched the other finds."""
    image = case.image("memory", "32M")
    thaw = case.resume(case.create(image), "--accept", "2")
    args = ["--socket", thaw.info["memory_socket"], "--image", image, "--threads", "2"]
    clients = [case.start("memory_client", *args, "--seed", seed) for seed in ("1", "2")]
    for client in clients:
        client.expect_exit(0)
    result = result_of(thaw)
    check_equal(result["pages"]["installed"], 2 * 8192, "pages installed in both")
    check(result["bytes"]["fetched"] <= os.path.getsize(
        os.path.join(case.store, thaw.info["build"], "memfile")), "something was fetched twice")


def an_ended_vm_leaves_nothing(case):
    """Descriptors and threads of a VM are gone when it is, while others are served."""
    image = case.image("memory", "16M")
    thaw = case.resume(case.create(image), "--accept", "5")
    path = thaw.info["memory_socket"]
    # The object and its sums stay open; a VM that is to come, or has been, keeps an eventfd.
    threads, fds = thread_count(thaw.pid), fd_count(thaw.pid) + 2
    for phase in (None, "half", "sent", None):
        args = ["--die-at", phase] if phase else []
        client = case.start("memory_client", "--socket", path, "--image", image, *args)
        client.expect_exit(-9 if phase else 0)
        fds += 1
        # Thaw may notice this client late, even its coming: what it left must go, sooner or later.
        until = time.monotonic() + 60
        while thread_count(thaw.pid) != threads or fd_count(thaw.pid) > fds:
            check(time.monotonic() < until, f"after {phase or 'a whole life'}: "
                  f"{thread_count(thaw.pid)} threads, {fd_count(thaw.pid)} descriptors; at most "
                  f"{threads} and {fds} are right: {fd_links(thaw.pid)}")
            select.select([], [], [], 0.01)
    thaw.stop()


def the_socket_takes_one_vm(case):
    image = case.image("memory", "8M")
    thaw = case.resume(case.create(image))
    path = thaw.info["memory_socket"]
    client = case.start("memory_client", "--socket", path, "--image", image, "--hold", "--json")
    client.ready()
    check(not os.path.exists(path), "the socket is there after its VM has come")
    client.stop()
    result_of(thaw)


def a_jailed_vmm_owns_its_socket(case):
    if os.geteuid() != 0:
        skip("only root can give files away")
    image = case.image("memory", "8M")
    with open(case.path("state"), "wb") as f:
        f.write(b"state of a VMM")
    build = case.create(image, case.path("state"))
    root = case.path("jail")
    os.mkdir(root)
    thaw = case.resume(build, "--jail", f"12345:23456:{root}")
    info = thaw.info
    for path in (info["memory_socket"], info["snapfile"], os.path.dirname(info["snapfile"])):
        st = os.stat(path)
        check_equal((st.st_uid, st.st_gid), (12345, 23456), f"owner of {path}")
        check_equal(st.st_mode & 0o077, 0, f"rights of others on {path}")
    check_equal(root + info["jail"]["memory_socket"], info["memory_socket"], "path in the jail")
    with open(root + info["jail"]["snapfile"], "rb") as f:
        check_equal(f.read(), b"state of a VMM", "snapfile in the jail")
    _, thaw = touch(case, image, thaw=thaw)
    result_of(thaw)
    check_equal(os.listdir(root), [], "what is left in the jail")
    p = case.thaw("resume", build, "--store", case.store, "--jail", "1:x:/", status=2)
    check_in("UID:GID:ROOT", p.stderr(), "complaint about a bad jail")


def anonymous_bytes(pid):
    """What a process has of its own: the guest's memory, not the image that it is compared with."""
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        status = dict(line.split(":", 1) for line in f)
    return int(status["RssAnon"].split()[0]) << 10


def populates_in_the_background(case):
    image = case.image("memory", "64M", "random")
    thaw = case.resume(case.create(image), "--populate")
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--pages", "10", "--hold", "--json")
    client.ready()
    until = time.monotonic() + 30
    while anonymous_bytes(client.pid) < 64 << 20:
        if time.monotonic() > until:
            fail(f"only {anonymous_bytes(client.pid)} bytes are there after 30 s")
        select.select([], [], [], 0.02)
    client.stop()
    result = result_of(thaw)
    check_in("all memory installed", [s["name"] for s in result["stages"]], "stages")
    check_equal(result["pages"]["installed"], result["pages"]["total"], "pages installed")
    check(result["faults"]["total"] < 1000, f"faults with nothing to fault on: {result['faults']}")


def population_races_with_faults_and_removes(case):
    image = case.image("memory", "64M")
    for seed in ("1", "2", "3"):
        thaw = case.resume(case.create(image), "--populate")
        _, thaw = touch(case, image, "--removes", "2000", "--threads", "4", "--seed", seed,
                        "--regions", "3M,1M,44M,16M", thaw=thaw)
        result_of(thaw)


def population_passes_over_what_is_damaged(case):
    image = case.image("memory", "8M", "random")
    build = case.create(image)
    with open(os.path.join(case.store, build, "memfile"), "r+b") as f:
        f.seek(10 * 65536)
        f.write(b"wrong")
    thaw = case.resume(build, "--populate")
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--expect-errors", "--json")
    client.expect_exit(0)
    check_equal(client.result()["errors"], 16, "pages that raised SIGBUS")
    thaw.expect_exit(1)


def reserve_huge_pages(case, n):
    """Have @n huge pages for the time of the case, or skip."""
    path = "/proc/sys/vm/nr_hugepages"
    with open(path, encoding="ascii") as f:
        before = f.read()
    try:
        with open(path, "w", encoding="ascii") as f:
            f.write(str(int(before) + n))
    except OSError as e:
        skip(f"huge pages cannot be reserved: {e}")

    def restore():
        with open(path, "w", encoding="ascii") as f:
            f.write(before)

    case.on_end(restore)
    require_huge_pages(n)


def huge_pages_are_put_together(case):
    """2 MiB pages over a build with small holes and runs: each is assembled from many pieces."""
    reserve_huge_pages(case, 32)
    image = case.image("memory", "64M")
    for extra in ((), ("--populate",)):
        thaw = case.resume(case.create(image), *extra)
        _, thaw = touch(case, image, "--page-size", "2097152", "--threads", "6", thaw=thaw)
        result = result_of(thaw)
        check_equal(result["pages"]["installed"], 16384, "pages installed")


def huge_pages_of_a_small_pool(case):
    """An image of eight and of 32 times the budget, of whose granules a page needs a quarter."""
    reserve_huge_pages(case, 128)
    for size, pages in (("64M", 16384), ("256M", 65536)):
        image = case.image("memory-" + size, size, "random")
        thaw = case.resume(case.create(image), "--cache-backing", "tiered", "--memory-budget", "8M")
        _, thaw = touch(case, image, "--page-size", "2097152", "--threads", "6", thaw=thaw)
        result = result_of(thaw)
        check_equal(result["pages"]["installed"], pages, "pages installed")
        check(result["cache"]["charged"] <= 8 << 20, f"more than the budget: {result['cache']}")


def the_pool_is_in_huge_pages(case):
    """Fetched into them from the store, and then read into them from the disk tier; and where the
    host has fewer than the budget."""
    reserve_huge_pages(case, 16)
    image = case.image("memory", "48M", "random")
    build = case.create(image)

    def run(budget):
        thaw = case.resume(build, "--cache-huge-pages", "hugetlb", "--cache", case.path("cache"),
                           "--memory-budget", budget)
        _, thaw = touch(case, image, thaw=thaw)
        result = result_of(thaw)
        check_equal(result["pages"]["installed"], 12288, "pages installed")
        check_equal(result["cache"]["huge_pages"], "hugetlb", "kind")
        check(result["cache"]["huge_bytes"] >= 32 << 20, f"in huge pages: {result['cache']}")
        check_equal("huge pages: asked for, not to be had: " in thaw.stderr(), budget == "1G",
                    f"warned of too few for {budget}: {thaw.stderr()}")
        return result["bytes"]

    check(run("32M")["fetched"] > 0, "nothing was fetched")
    # What the tier has depends on when its thread was let.
    check(any(run("32M")["from_disk"] > 0 for _ in range(10)), "nothing was read from the disk")
    run("1G")


def the_pool_is_in_transparent_huge_pages(case):
    """Unless told otherwise, where the operator allows it."""
    try:
        with open("/sys/kernel/mm/transparent_hugepage/enabled", encoding="utf-8") as f:
            allowed = "[never]" not in f.read()
    except OSError as e:
        skip(f"this kernel has none: {e}")
    image = case.image("memory", "48M", "random")
    build = case.create(image)
    for args, kind in (((), "thp"), (("--cache-huge-pages", "off"), "off")):
        thaw = case.resume(build, "--memory-budget", "32M", *args)
        _, thaw = touch(case, image, thaw=thaw)
        result = result_of(thaw)["cache"]
        check_equal(result["huge_pages"], kind, "kind")
        check_equal(result["huge_bytes"] > 0, allowed and kind == "thp", f"{kind}: {result}")
        check(result["huge_bytes"] <= 32 << 20, f"more than the budget: {result}")


def huge_pages_are_removed(case):
    reserve_huge_pages(case, 32)
    image = case.image("memory", "64M")
    thaw = case.resume(case.create(image))
    _, thaw = touch(case, image, "--page-size", "2097152", "--removes", "200", thaw=thaw)
    result_of(thaw)


def a_damaged_piece_fails_its_huge_page(case):
    reserve_huge_pages(case, 8)
    image = case.image("memory", "16M", "random")
    build = case.create(image)
    with open(os.path.join(case.store, build, "memfile"), "r+b") as f:
        f.seek((4 << 20) + 5 * 65536)
        f.write(b"wrong")
    thaw = case.resume(build)
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--page-size", "2097152", "--expect-errors", "--json")
    client.expect_exit(0)
    check_equal(client.result()["errors"], 1, "pages that raised SIGBUS")
    thaw.expect_exit(1)


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
    "memory": (serves_every_page, serves_eight_layers, fetches_only_what_is_touched,
               serves_regions_with_gaps,
               removed_pages_read_as_zeros, zero_pages_take_no_memory,
               old_firecracker_closes_its_socket, sigterm_ends_it),
    "memory-peers": (ends_with_the_vm, a_peer_that_says_nothing_is_dropped,
                     wrong_build_is_refused),
    "memory-vms": (two_vms_share_one_cache, an_ended_vm_leaves_nothing, the_socket_takes_one_vm,
                    a_jailed_vmm_owns_its_socket),
    "populate": (populates_in_the_background, population_races_with_faults_and_removes,
                 population_passes_over_what_is_damaged),
    "huge-pages": (huge_pages_are_put_together, huge_pages_of_a_small_pool,
                   the_pool_is_in_huge_pages,
                   the_pool_is_in_transparent_huge_pages, huge_pages_are_removed,
                   a_damaged_piece_fails_its_huge_page),
    "kvm-guest": (kvm_guest_runs,),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

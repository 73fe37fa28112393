#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest: snapshotted, made a build, resumed by `thaw resume --vmm qemu`."""

import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from guest import Console, Guest, GuestError, find_kernel
from make_image import flip_byte
from thawtest import check, check_equal, check_in, main, require_program, skip

DATA_MIB = 48
HASH = "sha256sum /ram/data"


def needs_guest():
    require_program("qemu-system-x86_64", "no guest can be run")
    require_program("cpio", "no initramfs can be made")
    try:
        find_kernel()
    except GuestError as e:
        skip(str(e))


def guest_build(case, modules=()):
    """Boot a guest, fill its memory, make a build of it. The id and what its data hashes to."""
    needs_guest()
    directory = case.path("guest")
    os.mkdir(directory)
    with Guest.boot(directory, 512, modules=modules) as guest:
        guest.sh(f"dd if=/dev/urandom of=/ram/data bs=1M count={DATA_MIB} 2>/dev/null")
        digest = guest.sh(HASH).stdout.split()[0]
        snap = guest.snapshot()
        args = ["--vmm", "qemu", "--vmm-version", snap.version]
        args += [f"--vmm-arg={a}" for a in snap.args]
        build = case.create(snap.memory, snap.snapfile, args=args)
    os.unlink(snap.memory)
    return build, digest


def resume_guest(case, build, console, *args):
    """`thaw resume` with the guest's serial line on @console; returns when it runs."""
    p = case.start("thaw", "resume", build, "--store", case.store, "--vmm", "qemu", "--json",
                   "--run-dir", case.dir, "--vmm-option", console.vmm_option, *args)
    p.ready()
    console.accept()
    return p


def hashes_again(case):
    """The main job: the guest goes on where it stopped, and its memory is what it was."""
    build, digest = guest_build(case)
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console)
        check_equal(console.sh(HASH).stdout.split()[0], digest, "hash in the resumed guest")
        check(thaw.info["vmm_pid"] > 0, "no process number of the VMM")
        thaw.stop()
    result = thaw.result()
    names = [s["name"] for s in result["stages"]]
    for name in ("build opened", "memory handed over", "first fault served", "VMM state loaded",
                 "vCPUs running"):
        check_in(name, names, "stages")
    check(result["pages"]["installed"] * 4096 >= DATA_MIB << 20, "too few pages for the data")
    check(result["pages"]["installed"] < result["pages"]["total"] / 2, "this was not lazy")


def two_of_one_build(case):
    """The build is read-only: two guests of it go different ways."""
    build, digest = guest_build(case)
    with Console(case.path("serial-a")) as a, Console(case.path("serial-b")) as b:
        first, second = resume_guest(case, build, a), resume_guest(case, build, b)
        a.sh("echo changed > /ram/data")
        check_equal(b.sh(HASH).stdout.split()[0], digest, "hash in the other guest")
        check_equal(a.sh("cat /ram/data").stdout, "changed", "data in the first guest")
        first.stop()
        second.stop()


def ends_when_the_guest_does(case):
    build, _ = guest_build(case)
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console)
        console.stream.sock.sendall(b"\nx poweroff -f\n")
        thaw.expect_exit(0)


def a_damaged_page_ends_the_vm(case):
    """QEMU gets SIGBUS; thaw says which bytes were wrong, and why."""
    build, _ = guest_build(case)
    memfile = os.path.join(case.store, build, "memfile")
    for at in range(0, os.path.getsize(memfile), 65536):
        flip_byte(memfile, at)
    with Console(case.path("serial")) as console:
        p = case.start("thaw", "resume", build, "--store", case.store, "--vmm", "qemu", "--json",
                       "--run-dir", case.dir, "--vmm-option", console.vmm_option)
        p.expect_exit(1)
    check_in("cannot be served", p.stderr(), "what thaw says")
    check_in("checksum", p.stderr(), "what thaw says")


def a_bad_snapfile_is_told(case):
    build, _ = guest_build(case)
    flip_byte(os.path.join(case.store, build, "snapfile"), 1000)
    p = case.thaw("resume", build, "--store", case.store, status=1)
    check_in("snapfile", p.stderr(), "what thaw says")
    check_in("SHA-256", p.stderr(), "what thaw says")


def nothing_is_left_of(case, victim_of, thaw_status):
    """kill -9 of one side, in the middle of the work."""
    build, _ = guest_build(case)
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console)
        run_dir = os.path.dirname(thaw.info["memory_socket"])
        console.stream.sock.sendall(b"\nx " + HASH.encode() + b"\n")
        os.kill(victim_of(thaw), 9)
        thaw.expect_exit(thaw_status)
    case.no_leftovers()
    check_equal(case.guest_memory_fds(), [], "descriptors left")
    check(not os.path.exists(run_dir), "the folder of sockets is left")
    return thaw


def kill_thaw(case):
    nothing_is_left_of(case, lambda thaw: thaw.pid, -9)


def kill_vmm(case):
    thaw = nothing_is_left_of(case, lambda thaw: thaw.info["vmm_pid"], 1)
    check_in("SIGKILL", thaw.stderr(), "what thaw says")


GROUPS = {
    "guest": (hashes_again, two_of_one_build, ends_when_the_guest_does),
    "guest-damage": (a_damaged_page_ends_the_vm, a_bad_snapfile_is_told),
    "guest-kill": (kill_thaw, kill_vmm),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest that lives on its root disk: memory by userfaultfd, disk by NBD, one build."""

import os
import random
import socket
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from guest import TIMEOUT, Console, Guest, Qmp, make_disk
from make_image import flip_byte
from test_guest import needs_guest, resume_guest
from thawtest import check, check_equal, check_in, main, require_program

DATA_MIB = 24
DISK_MIB = 96
HASH = "cd / && sha256sum ram/data disk/data disk/written"
SHIM = os.path.join(os.environ["THAW_BUILD"], "src", "shim", "libthaw-shim.so")
COLD = "sync; echo 3 >/proc/sys/vm/drop_caches"


def disk_build(case):
    """Boot a guest with a root disk, make it write there, make a build of both.

    The id, what the guest's data hashes to, and the snapshot.
    """
    needs_guest()
    require_program("/sbin/mkfs.ext4", "no root disk can be made")
    folder, files = case.path("guest"), case.path("files")
    os.mkdir(folder)
    os.mkdir(files)
    with open(os.path.join(files, "data"), "wb") as f:
        f.write(random.Random(5).randbytes(DATA_MIB << 20))
    disk = make_disk(case.path("disk"), DISK_MIB, files)
    with Guest.boot(folder, 512, disk=disk) as guest:
        guest.sh("mkdir /disk && mount -t ext4 /dev/vda /disk")
        guest.sh(f"dd if=/dev/urandom of=/ram/data bs=1M count={DATA_MIB} 2>/dev/null")
        guest.sh("dd if=/dev/urandom of=/disk/written bs=64k count=96 2>/dev/null; sync")
        # Dirty pages of the guest's own cache are a part of its memory, and not of its disk yet.
        guest.sh("echo not yet synced >>/disk/written")
        digest = guest.sh(HASH).stdout
        snap = guest.snapshot()
        args = ["--rootfs", disk, "--vmm", "qemu", "--vmm-version", snap.version]
        args += [f"--vmm-arg={a}" for a in snap.args]
        build = case.create(snap.memory, snap.snapfile, args=args)
    os.unlink(snap.memory)
    os.unlink(disk)
    return build, digest, snap


def check_file_system(guest):
    """What the kernel of the guest thinks of its disk."""
    errors = guest.sh("dmesg | grep -iE 'ext4.*(error|warn)|I/O error'", check=False).stdout
    check_equal(errors, "", "complaints of the guest's kernel")


def lives_on_its_disk(case):
    """It goes on where it stopped, reads what it has not read yet, and writes."""
    build, digest, _ = disk_build(case)
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console)
        check_equal(thaw.info["disk_exports"], ["rootfs"], "exports")
        check_equal(thaw.info["disk_bytes"], DISK_MIB << 20, "bytes of the disk")
        check_equal(console.sh(HASH).stdout, digest, "hashes in the resumed guest")
        console.sh(COLD)
        check_equal(console.sh(HASH).stdout, digest, "hashes, read from the disk")
        console.sh("dd if=/dev/urandom of=/disk/more bs=64k count=128 2>/dev/null; sync")
        more = console.sh("sha256sum /disk/more").stdout
        console.sh(f"rm /disk/data; {COLD}")
        check_equal(console.sh("sha256sum /disk/more").stdout, more, "what the guest has written")
        console.sh("umount /disk && mount -t ext4 /dev/vda /disk")
        check_equal(console.sh("sha256sum /disk/more").stdout, more, "after a new mount")
        check_file_system(console)
        thaw.stop()
    disk = thaw.result()["disk"]
    check(disk["reads"] > 0 and disk["writes"] > 0 and disk["flushes"] > 0, f"disk: {disk}")
    check_equal(disk["failed"], 0, "failed disk requests")
    check(disk["dirty_bytes"] >= 8 << 20, f"the guest wrote 8 MiB: {disk}")


class Shimmed:
    """A guest of a build that thaw serves to whoever comes: our QEMU, with thaw's library."""

    def __init__(self, case, name, info, export, snap):
        self.console = Console(case.path(f"serial-{name}"))
        qmp_path = case.path(f"qmp-{name}")
        size = info["memory_bytes"]
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as listener:
            listener.bind(qmp_path)
            listener.listen(1)
            listener.settimeout(TIMEOUT)
            self.program = case.start(
                "/usr/bin/qemu-system-x86_64", *snap.args,
                "-object", f"memory-backend-memfd,id=mem,share=on,size={size}",
                "-blockdev", f"driver=nbd,node-name=rootfs,server.type=unix,export={export},"
                f"server.path={info['disk_socket']}",
                *self.console.vmm_option.split(" ", 1), "-incoming", "defer", "-S",
                "-chardev", f"socket,id=qmp,path={qmp_path}", "-mon", "chardev=qmp,mode=control",
                env={"LD_PRELOAD": SHIM, "THAW_SHIM_BYTES": str(size),
                     "THAW_SHIM_SOCKET": info["memory_socket"], "THAW_SHIM_PAGE_BYTES": "4096"})
            self.qmp = Qmp(listener.accept()[0])
        os.unlink(qmp_path)
        self.load(info["snapfile"])

    def load(self, snapfile):
        self.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "x-ignore-shared", "state": True},
            {"capability": "events", "state": True}])
        fd = os.open(snapfile, os.O_RDONLY | os.O_CLOEXEC)
        self.qmp.command("getfd", fds=[fd], fdname="snapfile")
        os.close(fd)
        self.qmp.command("migrate-incoming", uri="fd:snapfile")
        end = self.qmp.wait_event("MIGRATION", lambda d: d["status"] in ("completed", "failed"))
        check_equal(end["status"], "completed", "loading the state")
        self.console.accept()
        self.qmp.command("cont")

    def end(self):
        self.program.kill()
        self.qmp.stream.close()
        self.console.close()


def side_by_side(case):
    """Two guests of one build: each writes to a disk of its own, both read one cache."""
    build, digest, snap = disk_build(case)
    thaw = case.resume(build, "--accept", "2")
    check_equal(thaw.info["disk_exports"], ["rootfs-0", "rootfs-1"], "exports")
    guests = [Shimmed(case, e, thaw.info, e, snap) for e in thaw.info["disk_exports"]]
    for number, guest in enumerate(guests):
        check_equal(guest.console.sh(HASH).stdout, digest, "hashes")
        guest.console.sh(f"echo I am {number} >/disk/who; rm /disk/written; {COLD}")
    for number, guest in enumerate(guests):
        check_equal(guest.console.sh("cat /disk/who").stdout, f"I am {number}", "own disk")
        check_equal(guest.console.sh("sha256sum /disk/data").stdout.split()[0],
                    digest.splitlines()[1].split()[0], "the common part of the disk")
        check_file_system(guest.console)
        guest.end()
    result = thaw.expect_exit(0).result()
    stored = sum(os.path.getsize(os.path.join(case.store, build, name))
                 for name in ("memfile", "rootfs.ext4"))
    check(result["bytes"]["fetched"] <= stored,
          f"fetched {result['bytes']['fetched']} of {stored} bytes: something came twice")


def generations(case):
    """Resumed, changed, made a build of while it runs, and resumed again: memory and disk."""
    build, digest, _ = disk_build(case)
    monitor = case.path("monitor")
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console, "--vmm-option",
                            f"-qmp unix:{monitor},server=on,wait=off")
        check_equal(console.sh(HASH).stdout, digest, "hashes in the first generation")
        console.sh("dd if=/dev/urandom of=/disk/written bs=64k count=32 2>/dev/null; sync")
        console.sh("dd if=/dev/urandom of=/ram/data bs=64k count=32 conv=notrunc 2>/dev/null")
        console.sh("rm /disk/data; fstrim /disk", check=False)
        wanted = console.sh("cd / && sha256sum ram/data disk/written; ls disk").stdout
        child = case.thaw("create", "--from-qmp", monitor, "--store", case.store, "--base", build,
                          "--continue").stdout().strip()
        check_equal(console.sh("echo on").stdout, "on", "the guest that went on")
        console.sh("echo what the child does not have >/disk/later; sync")
        thaw.stop()
    case.thaw("inspect", child, "--store", case.store, "--validate", "--recursive")
    changed = os.path.getsize(os.path.join(case.store, child, "rootfs.ext4"))
    check(changed < DATA_MIB << 20, f"{changed} bytes of the disk are said to have changed")
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, child, console)
        check_equal(console.sh("cd / && sha256sum ram/data disk/written; ls disk").stdout, wanted,
                    "the second generation")
        console.sh(COLD)
        check_equal(console.sh("cd / && sha256sum ram/data disk/written; ls disk").stdout, wanted,
                    "the second generation, read from the disk")
        check_file_system(console)
        thaw.stop()


def killed(case, victim_of, status, seed):
    """kill -9 of one side at some point of the guest's work."""
    build, _, _ = disk_build(case)
    point = random.Random(seed).randrange(4)
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console)
        folder = os.path.dirname(thaw.info["disk_socket"])
        work = ["sha256sum /disk/data", "dd if=/dev/zero of=/disk/more bs=4k count=4000", "sync",
                HASH][point:]
        for number, command in enumerate(work):
            console.stream.sock.sendall(f"\nx{number} {command}\n".encode())
        console.stream.read_until(rb"\nx0 exit 0\n", TIMEOUT)
        os.kill(victim_of(thaw), 9)
        thaw.expect_exit(status)
    case.no_leftovers()
    check_equal(case.guest_memory_fds(), [], f"descriptors left (killed at {point}, seed {seed})")
    check(not os.path.exists(folder), "the folder of sockets is left")


def kill_thaw(case):
    killed(case, lambda thaw: thaw.pid, -9, os.getpid())


def kill_vmm(case):
    killed(case, lambda thaw: thaw.info["vmm_pid"], 1, os.getpid() + 1)


def a_damaged_disk_is_an_io_error(case):
    """The guest gets EIO and runs on; it never sees other bytes."""
    build, digest, _ = disk_build(case)
    rootfs = os.path.join(case.store, build, "rootfs.ext4")
    with open(rootfs, "rb") as f:
        stored = f.read()
    data = random.Random(5).randbytes(4096)
    check(data in stored, "the file's first block is not in the object")
    with Console(case.path("serial")) as console:
        thaw = resume_guest(case, build, console)
        flip_byte(rootfs, stored.index(data) + 8 * 65536)
        console.sh(COLD)
        read = console.sh("cat /disk/data >/dev/null", check=False)
        check(read.status != 0, "the guest read damaged bytes")
        check_in("Input/output error", read.stdout, "what the guest is told")
        check_equal(console.sh("sha256sum /disk/written").stdout.split()[0],
                    digest.splitlines()[2].split()[0], "another file")
        thaw.stop()
    check(thaw.result()["disk"]["failed"] > 0, "no failed request is reported")


GROUPS = {
    "guest-disk": (lives_on_its_disk, side_by_side, generations),
    "guest-disk-failures": (a_damaged_disk_is_an_io_error, kill_thaw, kill_vmm),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

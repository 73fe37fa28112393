#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""A running QEMU's guest becomes a build by its monitor: `thaw create --from-qmp`."""

import filecmp
import json
import os
import signal
import socket
import subprocess
import sys
import threading

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from guest import Console, Guest, GuestError, Qmp, find_kernel, make_disk
from thawtest import check, check_equal, check_in, fail, main, require_program, skip

MEMORY_MIB = 256
DATA_MIB = 24
HASH = "sha256sum /ram/data"
MEMORY = ["-machine", "q35,memory-backend=mem", "-m", "16M"]


def needs_guest():
    require_program("qemu-system-x86_64", "no guest can be run")
    require_program("cpio", "no initramfs can be made")
    try:
        find_kernel()
    except GuestError as e:
        skip(str(e))


def monitor(path):
    """The option that gives QEMU one more monitor."""
    return f"-qmp unix:{path},server=on,wait=off"


def boot(case, name="guest", **kw):
    """A guest with random data in its memory, a second monitor, and what that data hashes to."""
    needs_guest()
    directory = case.path(name)
    os.mkdir(directory)
    guest = Guest.boot(directory, MEMORY_MIB,
                       host_options=monitor(case.path("qmp.sock")).split(" "), **kw)
    case.on_end(guest.kill)
    guest.sh(f"dd if=/dev/urandom of=/ram/data bs=1M count={DATA_MIB} 2>/dev/null")
    return guest, hash_of(guest)


def hash_of(guest, path="/ram/data"):
    return guest.sh(f"sha256sum {path}").stdout.split()[0]


def end(guest, case):
    """End @guest and remove the socket that its QEMU leaves when it is killed."""
    guest.kill()
    if os.path.exists(case.path("qmp.sock")):
        os.unlink(case.path("qmp.sock"))


def make_store(case):
    os.makedirs(case.store, exist_ok=True)


def from_qmp(case, *args):
    """The id of the build."""
    make_store(case)
    out = case.thaw("create", "--from-qmp", case.path("qmp.sock"), "--store", case.store,
                    *args).stdout()
    check_equal(len(out.splitlines()), 1, "lines that thaw create printed")
    return out.strip()


def refused(case, *words, path=None, args=()):
    """thaw create must fail, with these words."""
    make_store(case)
    p = case.thaw("create", "--from-qmp", path or case.path("qmp.sock"), "--store", case.store,
                  *args, status=1)
    for word in words:
        check_in(word, p.stderr(), "what thaw says")
    check_equal(os.listdir(case.store), [], "what is in the store")


def inspect(case, build):
    """What thaw inspect says; every byte of the build is checked."""
    case.thaw("inspect", build, "--store", case.store, "--validate")
    return json.loads(case.thaw("inspect", build, "--store", case.store, "--json").stdout())


def resume(case, build, console, *args):
    p = case.start("thaw", "resume", build, "--store", case.store, "--vmm", "qemu", "--json",
                   "--run-dir", case.dir, "--vmm-option", console.vmm_option,
                   "--vmm-option", monitor(case.path("qmp.sock")), *args)
    p.ready()
    console.accept()
    return p


def capability(guest, name):
    return next(c["state"] for c in guest.qmp.command("query-migrate-capabilities")
                if c["capability"] == name)


# ---- guests that somebody else has started ----

def memory_and_disk_are_all_there(case):
    """Byte for byte what QEMU has in its files; and the guest and its disk go on."""
    disk = make_disk(case.path("disk"), 48)
    guest, digest = boot(case, disk=disk)
    guest.sh("mkdir /mnt && mount -t ext4 /dev/vda /mnt && cp /ram/data /mnt/data && sync")
    first = from_qmp(case, "--continue")
    guest.qmp.wait_event("RESUME")
    check_equal(hash_of(guest), digest, "hash in the guest that goes on")
    check(not capability(guest, "x-ignore-shared"), "a later migration would be without memory")
    guest.sh("echo more > /mnt/more && sync && echo 3 > /proc/sys/vm/drop_caches && ls /mnt/more")

    second = from_qmp(case, "--base", first)
    check_equal(guest.qmp.command("query-status")["running"], False, "running afterwards")
    os.mkdir(case.path("out"))
    case.thaw("export", second, case.path("out"), "--store", case.store)
    check(filecmp.cmp(case.path("out", "memfile"), guest.memory, shallow=False), "memory differs")
    check(filecmp.cmp(case.path("out", "rootfs.ext4"), disk, shallow=False), "the disk differs")
    rootfs = inspect(case, second)["rootfs"]
    check(0 < rootfs["stored"] < 4 << 20, f"{rootfs['stored']} bytes of the disk are new")

    refused_again = case.thaw("create", "--from-qmp", case.path("qmp.sock"), "--store",
                              case.store, status=1)
    check_in("cont", refused_again.stderr(), "what thaw says of a guest that stands still")
    guest.qmp.command("cont")
    check_equal(hash_of(guest, "/mnt/data"), digest, "hash of the guest's disk")
    end(guest, case)


def recorded(case):
    """What a resume needs is recorded, and what is of the host is not."""
    guest, _ = boot(case)
    info = inspect(case, from_qmp(case))
    args = info["vmm"]["args"]
    check_equal(info["vmm"]["kind"], "qemu", "VMM")
    version = guest.qmp.greeting["version"]["qemu"]
    check_equal(info["vmm"]["version"], f"{version['major']}.{version['minor']}.{version['micro']}",
                "version")
    machine = args[args.index("-machine") + 1]
    check(machine.startswith("pc-q35-"), f"the machine has no version: {machine}")
    check_in("chardev:ser", args, "arguments")
    for word in ("-kernel", "-initrd", "-append", "-object", "-mon", "-qmp"):
        check(word not in args, f"{word} is recorded in {args}")
    check(not any("id=qmp" in a for a in args), f"a monitor is recorded in {args}")
    end(guest, case)


def second_generation(case):
    """A build, resumed, changed, becomes a layer over itself; that one has both."""
    guest, digest = boot(case)
    base = from_qmp(case)
    end(guest, case)
    with Console(case.path("serial")) as console:
        thaw = resume(case, base, console)
        check_equal(hash_of(console), digest, "hash in the resumed guest")
        console.sh("dd if=/dev/urandom of=/ram/more bs=1M count=4 2>/dev/null")
        more = hash_of(console, "/ram/more")
        layer = from_qmp(case, "--base", base, "--continue")
        check_equal(hash_of(console, "/ram/more"), more, "hash in the guest that goes on")
        thaw.stop()
    memory = inspect(case, layer)["memory"]
    check(4 << 20 <= memory["stored"] < 24 << 20,
          f"{memory['stored']} bytes were stored for 4 MiB of changes")
    with Console(case.path("serial")) as console:
        thaw = resume(case, layer, console)
        check_equal(hash_of(console), digest, "hash of the first data in the second generation")
        check_equal(hash_of(console, "/ram/more"), more, "hash of the second data")
        thaw.stop()


def balloon(case):
    """Memory that was given back is zeros, in every generation; the rest is what it was."""
    guest, digest = boot(case, extra=("-device", "virtio-balloon-pci"),
                         modules=("virtio_pci", "virtio_balloon"))
    base = from_qmp(case)
    end(guest, case)
    with Console(case.path("serial")) as console:
        thaw = resume(case, base, console)
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(case.path("qmp.sock"))
            qmp = Qmp(sock)
            set_balloon(qmp, 160)
            set_balloon(qmp, MEMORY_MIB)
        check_equal(hash_of(console), digest, "hash after the balloon")
        layer = from_qmp(case, "--base", base)
        thaw.stop()
    check(thaw.result()["faults"]["removed"] > 0, "no page was touched that had been given back")
    with Console(case.path("serial")) as console:
        thaw = resume(case, layer, console)
        check_equal(hash_of(console), digest, "hash in the second generation")
        thaw.stop()


def set_balloon(qmp, mib):
    """Have the guest's balloon grow or shrink, and wait until it has."""
    qmp.command("balloon", value=mib << 20)
    while qmp.command("query-balloon")["actual"] != mib << 20:
        qmp.wait_event("BALLOON_CHANGE")


# ---- what goes wrong ----

def start_qemu(case, *args):
    """A QEMU whose guest never runs, with a monitor; waits until that listens. For end_qemu()."""
    needs_guest()
    own = case.path("own.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(own)
        listener.listen(1)
        listener.settimeout(60)
        p = case.start("qemu-system-x86_64", "-S", "-accel", "tcg", "-nodefaults", "-display",
                       "none", "-qmp", f"unix:{own}", *args,
                       *monitor(case.path("qmp.sock")).split(" "))
        connection = listener.accept()[0]
    os.unlink(own)
    try:
        Qmp(connection)  # which greets when all of them are there
    except GuestError as e:
        fail(f"{e}; QEMU says: {p.stderr()}")
    return p, connection


def end_qemu(case, qemu):
    program, connection = qemu
    connection.close()
    program.kill()
    os.unlink(case.path("qmp.sock"))


def not_qemu(case):
    needs_guest()
    refused(case, "connecting", path=case.path("nothing"))
    with open(case.path("file"), "w", encoding="ascii"):
        pass
    refused(case, "connecting", path=case.path("file"))
    refused(case, "too long", path="/tmp/" + 200 * "x")
    for greeting, word in ((b"SSH-2.0-x\r\n", "JSON"), (b'{"a": 1}\r\n', "QMP"), (b"", "closed")):
        path = case.path("other.sock")
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(path)
            listener.listen(1)
            with Answering(listener, greeting):
                refused(case, word, path=path)
        os.unlink(path)


class Answering(threading.Thread):
    """Says @greeting to who comes first, and closes."""

    def __init__(self, listener, greeting):
        super().__init__()
        self.listener, self.greeting = listener, greeting

    def run(self):
        with self.listener.accept()[0] as connection:
            connection.sendall(self.greeting)

    def __enter__(self):
        self.start()

    def __exit__(self, *_):
        self.join()


def guests_that_cannot_be_taken(case):
    """Each is refused before it is stopped, with what to do."""
    memory = "memory-backend-memfd,id=mem,size=16M,share=on"
    disk = case.path("disk")
    with open(disk, "wb") as f:
        f.truncate(1 << 20)
    writable = ["-blockdev", f"driver=file,node-name=data,filename={disk}",
                "-device", "virtio-blk-pci,drive=data"]
    for args, words in (
            (["-machine", "q35", "-m", "16M"], ("memory-backend=mem",)),
            ([*MEMORY, "-object", "memory-backend-ram,id=mem,size=16M"], ("share=on",)),
            ([*MEMORY, "-object", memory, "-object", "memory-backend-ram,id=more,size=16M"],
             ("2 memory backends",)),
            ([*MEMORY, "-object", memory, *writable], ("'data'", "read-only"))):
        qemu = start_qemu(case, *args)
        refused(case, *words)
        end_qemu(case, qemu)


def monitor_in_use(case):
    qemu = start_qemu(case, *MEMORY, "-object", "memory-backend-memfd,id=mem,size=16M,share=on")
    with socket.socket(socket.AF_UNIX) as other:
        other.connect(case.path("qmp.sock"))
        Qmp(other)
        refused(case, "one client at a time")
    from_qmp(case)
    end_qemu(case, qemu)


def slow_disk(case):
    """A guest whose disk takes a second for each read, so that there is a middle of things."""
    require_program("nbdkit", "no disk can be made slow")
    path = case.path("nbd.sock")
    data = case.image("disk", "64M", kind="random")
    # It goes into the background when it listens.
    case.run("nbdkit", "-P", case.path("nbd.pid"), "-U", path, "--filter=delay", "file", data,
             "rdelay=1")
    guest, digest = boot(case, disk=f"nbd+unix:///?socket={path}")
    return guest, digest


def end_slow_disk(case):
    with open(case.path("nbd.pid"), encoding="ascii") as f:
        os.kill(int(f.read()), signal.SIGKILL)
    os.unlink(case.path("nbd.sock"))


def in_the_middle(case, guest):
    """thaw create, when the guest stands still and its disk is being read."""
    make_store(case)
    p = case.start("thaw", "create", "--from-qmp", case.path("qmp.sock"), "--store", case.store)
    guest.qmp.wait_event("MIGRATION", lambda data: data["status"] == "completed")
    return p


def failures_in_the_middle(case):
    """A signal, even SIGKILL, and a disk that dies: the guest runs on, and there is no build."""
    guest, digest = slow_disk(case)
    for number, status in ((signal.SIGTERM, 1), (signal.SIGKILL, -9)):
        p = in_the_middle(case, guest)
        p.signal(number)
        p.expect_exit(status)
        guest.qmp.wait_event("RESUME")
        check_equal(hash_of(guest), digest, "hash in the guest that runs on")
        check(not capability(guest, "x-ignore-shared"), "the capability is left")
    check_equal(case.thaw("list", "--store", case.store, "--json").stdout().count('"build"'), 0,
                "builds")
    p = in_the_middle(case, guest)
    guest.process.kill()
    p.expect_exit(1)
    end(guest, case)
    end_slow_disk(case)


def store_is_full(case):
    guest, digest = boot(case)
    mount(case, "size=8M")
    p = case.thaw("create", "--from-qmp", case.path("qmp.sock"), "--store", case.store, status=1)
    check_in("no space", p.stderr(), "what thaw says")
    check_equal(os.listdir(case.store), [], "what is in the store")
    check_equal(hash_of(guest), digest, "hash in the guest that runs on")
    end(guest, case)


def mount(case, options):
    os.mkdir(case.store)
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "thaw-test", case.store],
                          capture_output=True, text=True, check=False)
    if done.returncode != 0:
        skip(f"mounting a tmpfs takes root: {done.stderr.strip()}")
    case.on_end(subprocess.run, ["umount", "-l", case.store])


# ---- disks by NBD ----

def a_disk_by_nbd(case):
    """`--rootfs URI`: the same build as of the file, and holes are not read."""
    require_program("nbdkit", "there is no NBD server")
    data = case.image("disk", "16M")
    uri = f"nbd+unix:///?socket={case.path('nbd.sock')}"
    case.run("nbdkit", "-P", case.path("nbd.pid"), "-U", case.path("nbd.sock"), "file", data)
    make_store(case)
    build = case.thaw("create", "--rootfs", uri, "--store", case.store).stdout().strip()
    end_slow_disk(case)
    os.mkdir(case.path("out"))
    case.thaw("export", build, case.path("out"), "--store", case.store)
    check(filecmp.cmp(case.path("out", "rootfs.ext4"), data, shallow=False), "the disk differs")
    p = case.thaw("create", "--rootfs", uri, "--store", case.store, status=1)
    check_in("nbd.sock", p.stderr(), "what thaw says of a server that is gone")
    p = case.thaw("create", "--rootfs", "nbd://localhost:bad", "--store", case.store, status=1)
    check_in("nbd://localhost:bad", p.stderr(), "what thaw says of a bad URI")


# ---- resumes ----

def another_version(case):
    """The state of another major version is not even tried."""
    needs_guest()
    case.image("memory", "1M")
    build = case.create(case.path("memory"), case.image("state", "4K"), args=[
        "--vmm", "qemu", "--vmm-version", "4.2.1", "--vmm-arg=-machine",
        "--vmm-arg=q35,memory-backend=mem", "--vmm-arg=-m", "--vmm-arg=1M"])
    p = case.thaw("resume", build, "--store", case.store, "--run-dir", case.dir, status=1)
    check_in("4.2.1", p.stderr(), "what thaw says")
    check_in("--vmm-program", p.stderr(), "what thaw says")


def disk_and_device_disagree(case):
    needs_guest()
    case.image("memory", "1M")
    build = case.create(case.path("memory"), case.image("state", "4K"), args=[
        "--vmm", "qemu", "--vmm-arg=-machine", "--vmm-arg=q35,memory-backend=mem", "--vmm-arg=-m",
        "--vmm-arg=1M", "--vmm-arg=-device", "--vmm-arg=virtio-blk-pci,drive=rootfs"])
    p = case.thaw("resume", build, "--store", case.store, "--run-dir", case.dir, status=1)
    check_in("'rootfs'", p.stderr(), "what thaw says")


def more_memory_than_the_host(case):
    """It is neither reserved nor read: what is not touched costs nothing."""
    with open("/proc/meminfo", encoding="ascii") as f:
        total_gib = sum(int(line.split()[1]) for line in f
                        if line.startswith(("MemTotal:", "SwapTotal:"))) >> 20
    mib = 2 * (total_gib + 16) << 10
    qemu = start_qemu(case, "-machine", "q35,memory-backend=mem", "-m", f"{mib}M", "-object",
                      f"memory-backend-memfd,id=mem,size={mib}M,share=on")
    build = from_qmp(case)
    end_qemu(case, qemu)
    thaw = case.start("thaw", "resume", build, "--store", case.store, "--json", "--run-dir",
                      case.dir)
    check_equal(thaw.ready()["memory_bytes"], mib << 20, "memory_bytes")
    thaw.stop()
    check_in("vCPUs running", [s["name"] for s in thaw.result()["stages"]], "stages")


GROUPS = {
    "guest-qmp": (memory_and_disk_are_all_there, recorded, second_generation, balloon),
    "guest-qmp-bad": (not_qemu, guests_that_cannot_be_taken, monitor_in_use,
                      failures_in_the_middle, store_is_full),
    "create-nbd": (a_disk_by_nbd,),
    "guest-args": (another_version, disk_and_device_disagree, more_memory_than_the_host),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

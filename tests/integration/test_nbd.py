#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Disks by NBD, with other people's clients; and with clients that mean no good."""

import contextlib
import json
import os
import signal
import socket
import stat
import struct
import sys
import time

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import flip_byte, make_image
from thawtest import check, check_between, check_equal, check_in, fd_count, main, require_program
from thawtest import skip, thread_count

HERE = os.path.dirname(os.path.abspath(__file__))
SIZE = 32 << 20


class Served:
    """A build's disk, served by tests/integration/nbd_server.c."""

    def __init__(self, case, args=(), exports=("disk",), kind="mixed", damage=None):
        self.case = case
        self.image = make_image(case.path("disk"), SIZE, kind, 7)
        os.makedirs(case.store)
        out = case.thaw("create", "--rootfs", self.image, "--store", case.store).stdout()
        self.build = out.strip()
        if damage is not None:
            flip_byte(os.path.join(case.store, self.build, "rootfs.ext4"), damage)
        self.socket = case.path("nbd.sock")
        self.program = case.start("nbd_server", case.store, self.socket, *args,
                                  *[f"{name}={self.build}" for name in exports])
        self.program.ready()
        self.statuses = 1

    def uri(self, export=""):
        return f"nbd+unix:///{export}?socket={self.socket}"

    def client(self, *args, deadline=120):
        """nbd_client.py ARGS, by the Python that has libnbd."""
        python = require_program("/usr/bin/python3", "Debian's Python is needed for libnbd")
        if self.case.start(python, "-c", "import nbd").wait() != 0:
            self.program.stop()
            skip("/usr/bin/python3 has no module nbd: install python3-libnbd")
        return self.case.run(python, os.path.join(HERE, "nbd_client.py"), *args, deadline=deadline)

    def status(self):
        self.program.signal(signal.SIGUSR1)
        self.statuses += 1
        return self.program.json_line(self.statuses - 1)

    def wait_until_alone(self):
        """The server has noticed that its clients have gone."""
        until = time.monotonic() + 60
        while self.status()["exports"][0]["connections"] > 0:
            check(time.monotonic() < until, "connections are left")

    def same_as_image(self):
        """The server still serves, and nothing has changed."""
        with Raw(self.socket) as raw:
            raw.go()
            with open(self.image, "rb") as f:
                check_equal(raw.read(0, 100000), f.read(100000), "what is served")

    def stop(self):
        self.program.stop()
        check(not os.path.exists(self.socket), "the socket is left")
        return json.loads(self.program.stdout().splitlines()[-1])


class Raw:
    """A client that sends whatever it likes."""

    def __init__(self, path):
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(60)
        self.socket.connect(path)
        self.exact(18)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def send(self, data):
        self.socket.sendall(data)

    def exact(self, n):
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            check(more, f"the server hung up after {len(data)} of {n} bytes")
            data += more
        return data

    def wait_until_closed(self):
        with contextlib.suppress(ConnectionResetError):
            while self.socket.recv(65536):
                pass

    def go(self, name=b""):
        self.send(struct.pack(">I8sIII", 3, b"IHAVEOPT", 7, 6 + len(name), len(name)) + name +
                  struct.pack(">H", 0))
        while True:
            kind, n = struct.unpack(">12xII", self.exact(20))
            self.exact(n)
            check(kind < 1 << 31, f"refused: {kind:x}")
            if kind == 1:
                return

    def request(self, command, off, length, payload=b"", flags=0, cookie=1):
        self.send(struct.pack(">IHHQQI", 0x25609513, flags, command, cookie, off, length) + payload)

    def answer(self):
        magic, error, cookie = struct.unpack(">IIQ", self.exact(16))
        check_equal(magic, 0x67446698, "magic of a simple reply")
        return error, cookie

    def read(self, off, length):
        self.request(0, off, length)
        check_equal(self.answer(), (0, 1), "answer to a read")
        return self.exact(length)


# ---- other people's clients ----

def every_call(case):
    served = Served(case)
    served.client("calls", served.uri(), served.image)
    status = served.stop()
    check_equal(status["broken"] + status["rejected"], 0, "connections that broke")
    check_between(status["exports"][0]["failed"], 10, 10, "requests that failed")


def nbdinfo_likes_it(case):
    served = Served(case, exports=("one", "two"))
    require_program("nbdinfo", "install libnbd-bin")
    info = json.loads(case.run("nbdinfo", "--json", "--list", served.uri()).stdout())
    check_equal([x["export-name"] for x in info["exports"]], ["one", "two"], "exports")
    for x in info["exports"]:
        check_equal(x["export-size"], SIZE, "size")
        check(x["can_multi_conn"] and x["can_trim"] and x["can_zero"] and x["can_fua"], "abilities")
        check_equal(x["block_size_maximum"], 32 << 20, "longest request")
    info = json.loads(case.run("nbdinfo", "--json", served.uri("two")).stdout())["exports"][0]
    check_equal((info["export-name"], info["description"]), ("two", "a disk"), "second export")
    served.stop()


def nbdcopy_both_ways(case):
    served = Served(case)
    require_program("nbdcopy", "install libnbd-bin")
    copy = case.path("copy")
    for args in ((), ("--connections=4", "--requests=64"), ("--synchronous",)):
        case.run("nbdcopy", *args, served.uri(), copy)
        case.run("cmp", copy, served.image)
        os.unlink(copy)
    other = make_image(case.path("other"), SIZE, "mixed", 8)
    case.run("nbdcopy", "--flush", other, served.uri())
    case.run("nbdcopy", served.uri(), copy)
    case.run("cmp", copy, other)
    served.stop()


def qemu_tools(case):
    served = Served(case)
    require_program("qemu-img", "install qemu-utils")
    case.run("qemu-img", "compare", "-f", "raw", "-F", "raw", served.uri(), served.image)
    out = case.path("out.qcow2")
    case.run("qemu-img", "convert", "-O", "qcow2", served.uri(), out)
    case.run("qemu-img", "compare", "-F", "raw", out, served.image)
    case.run("qemu-io", "-f", "raw", "-c", "write -P 0xab 5k 1M", "-c", "flush",
             "-c", "read -P 0xab 5k 1M", "-c", "discard 64k 64k", "-c", "write -z 1M 64k",
             "-c", "read -P 0 64k 64k", "-c", "read -P 0 1M 64k", served.uri())
    served.stop()


def fio_verifies(case):
    served = Served(case)
    require_program("fio", "install fio")
    case.run("fio", "--name=t", "--ioengine=nbd", f"--uri={served.uri()}", "--rw=randrw",
             "--bsrange=512-200k", "--iodepth=64", "--size=32m", "--verify=crc32c",
             "--do_verify=1", "--randseed=3", deadline=240)
    status = served.stop()
    check_equal(status["exports"][0]["failed"], 0, "requests that failed")


def many_at_once(case):
    served = Served(case)
    served.client("flight", served.uri(), served.image)
    served.client("stress", served.uri(), served.image, "1", deadline=240)
    served.stop()


def two_exports(case):
    """Each is a disk of its own, with a thread of its own."""
    served = Served(case, exports=("one", "two"))
    check_equal(sorted(_threads(served.program.pid))[-2:], ["thaw-nbd/0", "thaw-nbd/1"], "threads")
    with Raw(served.socket) as one, Raw(served.socket) as two:
        one.go(b"one")
        two.go(b"two")
        two.request(1, 0, 5, b"hello")
        check_equal(two.answer(), (0, 1), "answer to a write")
        check_equal(two.read(0, 5), b"hello", "second disk")
        with open(served.image, "rb") as f:
            check_equal(one.read(0, 5), f.read(5), "first disk")
        check_equal([x["connections"] for x in served.status()["exports"]], [1, 1], "connections")
    served.stop()


def _threads(pid):
    names = []
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm", encoding="ascii") as f:
            names.append(f.read().strip())
    return names


def read_only(case):
    served = Served(case, args=["--read-only"])
    served.client("read_only", served.uri(), served.image)
    served.stop()


def damaged_object(case):
    at = 21 * 65536 + 99
    served = Served(case, kind="random", damage=at)
    served.client("damaged", served.uri(), served.image, str(at))
    check_equal(served.stop()["broken"], 0, "connections that broke")


# ---- hostile clients ----

def garbage(case):
    served = Served(case)
    for data in (b"GET / HTTP/1.1\r\n\r\n", bytes(4) + bytes(4096), b"\0\0\0\7",
                 b"\0\0\0\3IHAVEOPT" + b"\xff" * 8, b"\0\0\0\3NOOPTION" + bytes(8)):
        with Raw(served.socket) as raw:
            raw.send(data)
            raw.wait_until_closed()
    for data in (b"x" * 28, bytes(28), struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 0, 1 << 31)):
        with Raw(served.socket) as raw:
            raw.go()
            raw.send(data)
            raw.wait_until_closed()
    served.same_as_image()
    status = served.stop()
    check_equal((status["rejected"], status["broken"]), (5, 3), "rejected, broken")


def half_of_everything(case):
    """A client that stops anywhere holds up nobody, and leaves nothing."""
    served = Served(case)
    whole = (struct.pack(">I8sII", 3, b"IHAVEOPT", 7, 6) + bytes(6) +
             struct.pack(">IHHQQI", 0x25609513, 0, 1, 1, 4096, 100000) + b"w" * 50000)
    silent = []
    for n in (0, 3, 4, 10, 20, 25, 26, 40, 53, 54, 60, len(whole)):
        raw = Raw(served.socket)
        raw.send(whole[:n])
        silent.append(raw)
    served.same_as_image()
    for raw in silent:
        raw.socket.close()
    served.same_as_image()
    served.stop()


def half_a_write_changes_nothing(case):
    """A client that dies in the middle of a payload: over what was written, and what was not."""
    served = Served(case, kind="random")
    length, written, clean = 131072, 4 << 20, 8 << 20
    with Raw(served.socket) as raw:
        raw.go()
        raw.request(1, written, length, b"o" * length)
        check_equal(raw.answer(), (0, 1), "answer to a write")
    with open(served.image, "rb") as f:
        f.seek(clean)
        below = f.read(length)
    for off, old in ((written, b"o" * length), (clean, below)):
        for sent in (1, 4096, 70000, length - 1):
            with Raw(served.socket) as raw:
                raw.go()
                raw.send(struct.pack(">IHHQQI", 0x25609513, 0, 1, 2, off, length) + b"n" * sent)
            served.wait_until_alone()
            with Raw(served.socket) as raw:
                raw.go()
                check(raw.read(off, length) == old, f"{sent} bytes of a write show at {off}")
    served.stop()


def deaf_client(case):
    """It asks for gigabytes and reads none of them; another one works, and memory is bounded."""
    served = Served(case)
    with Raw(served.socket) as deaf:
        deaf.go()
        deaf.socket.setblocking(False)
        ask = struct.pack(">IHHQQI", 0x25609513, 0, 0, 1, 0, SIZE) * 1000
        with contextlib.suppress(BlockingIOError):
            for _ in range(100):
                deaf.socket.send(ask)
        for _ in range(20):
            served.same_as_image()
        deaf.socket.setblocking(True)
        deaf.answer()
        with open(served.image, "rb") as f:
            check_equal(deaf.exact(SIZE), f.read(), "what it reads at last")
    served.same_as_image()
    served.stop()


def killed_client(case):
    """SIGKILL in the middle of writes: the connection goes, the disk and the others stay."""
    served = Served(case)
    require_program("fio", "install fio")
    served.same_as_image()
    served.wait_until_alone()
    idle_fds = fd_count(served.program.pid)
    for _ in range(3):
        before = served.status()["exports"][0]["writes"]
        fio = case.start("fio", "--name=t", "--ioengine=nbd", f"--uri={served.uri()}",
                         "--rw=randwrite", "--bs=1m", "--iodepth=16", "--size=32m", "--offset=1m",
                         "--time_based", "--runtime=100", "--thread")
        while served.status()["exports"][0]["writes"] < before + 50:
            check(fio.returncode() is None, f"fio ended: {fio.stderr()}")
        fio.kill()
    served.same_as_image()
    served.wait_until_alone()
    check_equal(fd_count(served.program.pid), idle_fds, "descriptors that are open")
    served.stop()


def too_many_clients(case):
    served = Served(case)
    raws = [Raw(served.socket) for _ in range(64)]
    over = socket.socket(socket.AF_UNIX)
    over.settimeout(60)
    over.connect(served.socket)
    check_equal(over.recv(100), b"", "what the 65th client gets")
    over.close()
    for raw in raws:
        raw.go()
        raw.socket.close()
    served.wait_until_alone()
    served.same_as_image()
    check_equal(served.stop()["refused"], 1, "refused")


def silent_client(case):
    """Who says nothing in the handshake is closed; who is through with it may take its time."""
    served = Served(case)
    with Raw(served.socket) as silent, Raw(served.socket) as slow:
        slow.go()
        silent.wait_until_closed()
        slow.read(0, 10)
    check_equal(served.stop()["rejected"], 1, "rejected")


def stop_answers_what_was_taken(case):
    served = Served(case)
    mode = os.stat(served.socket).st_mode
    check_equal(stat.S_IMODE(mode), 0o600, "mode of the socket")
    check_equal(thread_count(served.program.pid) > 1, True, "threads")
    with Raw(served.socket) as idle, Raw(served.socket) as busy:
        idle.go()
        busy.go()
        busy.request(0, 0, SIZE)
        with open(served.image, "rb") as f:
            check_equal(busy.answer(), (0, 1), "answer to a read")
            served.program.signal(signal.SIGTERM)
            check_equal(busy.exact(SIZE), f.read(), "what was read")
        busy.wait_until_closed()
        idle.wait_until_closed()
    served.program.expect_exit(0)


def bad_options(case):
    served = Served(case)
    p = case.run("nbd_server", case.store, served.socket, f"x={served.build}", status=1)
    check_in("in use", p.stderr(), "complaint about the socket")
    served.same_as_image()
    p = case.run("nbd_server", case.store, case.path("s"), f"x={served.build}",
                 f"x={served.build}", status=1)
    check_in("two NBD exports", p.stderr(), "complaint about the names")
    p = case.run("nbd_server", case.store, case.path("s" * 108), f"x={served.build}", status=1)
    check_in("limit is 107", p.stderr(), "complaint about a long path")
    served.stop()


GROUPS = {
    "nbd": (every_call, nbdinfo_likes_it, two_exports, read_only, damaged_object,
            stop_answers_what_was_taken, bad_options),
    "nbd-peers": (nbdcopy_both_ways, qemu_tools, fio_verifies, many_at_once),
    "nbd-hostile": (garbage, half_of_everything, half_a_write_changes_nothing, deaf_client,
                    killed_client, too_many_clients, silent_client),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

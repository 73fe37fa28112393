# SPDX-License-Identifier: Apache-2.0
"""A real Linux guest for tests and for the demo: QEMU in software emulation, Debian's kernel, a
busybox initramfs whose first process obeys the serial line.

    with Guest.boot(directory, memory_mib=512) as guest:
        digest = guest.sh("sha256sum /ram/data").stdout
        snap = guest.snapshot()
    # snap.memory, snap.snapfile, snap.args, snap.version

and for a guest that somebody else resumes from such a snapshot:

    with Console(path) as console:
        start_it_with("--vmm-option", console.vmm_option)
        console.accept()
        console.sh("sha256sum /ram/data")

Python's standard library only. Nothing here sleeps or polls: it waits for bytes of a socket, for
QMP events, for the end of a process, and every wait has a deadline.
"""

import glob
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import time
import urllib.parse
from typing import NamedTuple

HERE = os.path.dirname(os.path.abspath(__file__))
QEMU = os.environ.get("THAW_QEMU", "qemu-system-x86_64")
TIMEOUT = 120.0  # seconds; generous, since emulation on a loaded machine is slow
LINE_MAX = 4000  # the tty of the guest takes lines of 4095 bytes: N_TTY_BUF_SIZE in Linux


class GuestError(Exception):
    """The guest, or its QEMU, did not do as it was told."""


class Result(NamedTuple):
    """What a command in the guest printed (without trailing newlines), and its exit status."""

    stdout: str
    status: int


class Snapshot(NamedTuple):
    """What a build is made of.

    memory: path of the flat image of guest memory
    snapfile: path of the device state
    args: QEMU's arguments that the state belongs to, without memory, monitor, serial socket and
        kernel: no path is left in them. A guest that has booted needs the kernel and initrd no
        more (they are in its memory; on the pc and q35 machines they and their loader are fw_cfg
        items, not RAM blocks, so that the state of a QEMU started with -kernel loads into one
        started without). Only a reboot would, and that ends this guest (-no-reboot).
    version: of QEMU, "7.2.22"
    """

    memory: str
    snapfile: str
    args: list
    version: str


class Stream:
    """A socket with a buffer, read up to a pattern, against a deadline."""

    def __init__(self, sock, name):
        self.sock, self.name, self.buf = sock, name, b""

    def read_until(self, pattern, timeout):
        """The match of the bytes pattern; what came before it and the match itself are consumed."""
        deadline = time.monotonic() + timeout
        while not (found := re.search(pattern, self.buf, re.M)):
            left = deadline - time.monotonic()
            tail = self.buf[-300:].decode(errors="replace")
            if left <= 0:
                raise GuestError(f"{self.name}: nothing like {pattern!r} within {timeout} s; "
                                 f"the last bytes: {tail!r}")
            self.sock.settimeout(left)
            try:
                data = self.sock.recv(1 << 16)
            except TimeoutError:
                continue
            except ConnectionResetError:
                data = b""
            if not data:
                raise GuestError(f"{self.name}: closed by the other side; the last bytes: {tail!r}")
            self.buf += data
        before, self.buf = self.buf[:found.start()], self.buf[found.end():]
        return before, found

    def close(self):
        self.sock.close()


class Qmp:
    """QEMU's monitor on a connected socket: commands, and events kept until they are asked for."""

    def __init__(self, sock):
        self.stream, self.events = Stream(sock, "QMP"), []
        self.greeting = self._message(TIMEOUT)["QMP"]
        self.command("qmp_capabilities")

    def _message(self, timeout):
        line, _ = self.stream.read_until(rb"\n", timeout)
        return json.loads(line)

    def command(self, name, fds=(), timeout=TIMEOUT, **arguments):
        """The command's result. fds travel with it as SCM_RIGHTS (for getfd)."""
        request = json.dumps({"execute": name, "arguments": arguments}).encode() + b"\n"
        self.stream.sock.settimeout(timeout)
        if fds:
            sent = socket.send_fds(self.stream.sock, [request], list(fds))
            request = request[sent:]
        self.stream.sock.sendall(request)
        while True:
            message = self._message(timeout)
            if "event" in message:
                self.events.append(message)
            elif "error" in message:
                raise GuestError(f"QMP {name}: {message['error']['desc']}")
            else:
                return message["return"]

    def wait_event(self, name, accept=lambda data: True, timeout=TIMEOUT):
        """The data of the first event of that name that accept() likes; others are dropped."""
        while True:
            event = self.events.pop(0) if self.events else self._message(timeout)
            if event.get("event") == name and accept(event.get("data", {})):
                return event.get("data", {})


class Console:
    """The serial line of a test guest, on a unix socket that QEMU connects to when it starts."""

    def __init__(self, path):
        self.path, self.stream = path, None
        self.listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            self.listener.bind(path)
            self.listener.listen(1)
        except OSError as error:
            self.listener.close()
            raise GuestError(f"{path}: {error}") from error

    @property
    def vmm_option(self):
        """The option that makes QEMU connect its serial line here."""
        return f"-chardev socket,id=ser,path={self.path.replace(',', ',,')}"

    def accept(self, timeout=TIMEOUT):
        """Wait until QEMU has connected."""
        self.listener.settimeout(timeout)
        try:
            connection, _ = self.listener.accept()
        except TimeoutError as error:
            raise GuestError(f"{self.path}: no QEMU connected within {timeout} s") from error
        self.stream = Stream(connection, self.path)

    def wait_ready(self, timeout=TIMEOUT):
        """Wait until the guest has booted; returns the guest's uptime in seconds."""
        return float(self.stream.read_until(rb"^guest-ready ([0-9.]+)\n", timeout)[1][1])

    def sh(self, command, timeout=TIMEOUT, check=True):
        """Run a one-line shell command in the guest. check: a status other than 0 is an error."""
        token = secrets.token_hex(8)
        # The empty line in front is for a QEMU that is still loading: its serial port takes one
        # byte, and loses it when its state is replaced.
        line = f"\n{token} {command}\n".encode()
        if "\n" in command or len(line) > LINE_MAX:
            raise ValueError(f"a guest command is one line of at most {LINE_MAX} bytes")
        self.stream.sock.settimeout(timeout)
        try:
            self.stream.sock.sendall(line)
        except OSError as error:
            raise GuestError(f"{self.path}: {error}") from error
        out, end = self.stream.read_until(rb"\n%s exit ([0-9]+)\n" % token.encode(), timeout)
        result = Result(out.decode(errors="replace").rstrip("\n"), int(end[1]))
        if check and result.status != 0:
            raise GuestError(f"{command!r} in the guest: exit status {result.status}: "
                             f"{result.stdout[-300:]}")
        return result

    def close(self):
        if self.stream:
            self.stream.close()
        self.listener.close()
        try:
            os.unlink(self.path)
        except FileNotFoundError:
            pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


def find_kernel():
    """The newest cloud kernel in /boot, else the newest of any kind."""

    def by_version(path):
        return [int(n) for n in re.findall(r"[0-9]+", path)]

    for pattern in ("/boot/vmlinuz-*-cloud-amd64", "/boot/vmlinuz-*"):
        if found := sorted(glob.glob(pattern), key=by_version):
            return found[-1]
    raise GuestError("no kernel in /boot; apt-get install linux-image-cloud-amd64")


# The root disk of a build is the drive `rootfs` of its machine. Which disk that is, is said apart.
ROOT_DEVICE = ("-device", "virtio-blk-pci,drive=rootfs")
ROOT_MODULES = ("virtio_pci", "virtio_blk", "ext4")


def root_blockdev(disk):
    """The value of QEMU's -blockdev for the root disk: a path, or nbd+unix:///EXPORT?socket=PATH"""
    node = {"node-name": "rootfs"}
    if disk.startswith("nbd+unix:"):
        uri = urllib.parse.urlsplit(disk)
        node |= {"driver": "nbd", "export": uri.path[1:], "reconnect-delay": 10, "server": {
            "type": "unix", "path": urllib.parse.parse_qs(uri.query)["socket"][0]}}
    else:
        node |= {"driver": "file", "filename": disk}
    return json.dumps(node)


def make_disk(path, mib, folder=None):
    """An ext4 image of that size at @path, with the files of @folder in it; needs e2fsprogs."""
    with open(path, "wb") as f:
        f.truncate(mib << 20)
    mkfs = shutil.which("mkfs.ext4", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if not mkfs:
        raise GuestError("mkfs.ext4 is missing; apt-get install e2fsprogs")
    subprocess.run([mkfs, "-q", "-F", *(["-d", folder] if folder else []), path], check=True)
    return path


def accelerator():
    """QEMU's options for it: KVM where it runs Linux, else emulation. THAW_GUEST_ACCEL overrules.

    A KVM that has no virtualisation of the processor below it (as within some clouds' guests) may
    run small programs and still not boot Linux.
    """
    wanted = os.environ.get("THAW_GUEST_ACCEL")
    if not wanted:
        with open("/proc/cpuinfo", encoding="utf-8") as f:
            real = re.search(r"^flags\s*:.*\b(vmx|svm)\b", f.read(), re.M)
        wanted = "kvm" if real and os.access("/dev/kvm", os.R_OK | os.W_OK) else "tcg"
    return ["-accel", wanted, "-cpu", "host" if wanted == "kvm" else "max"]


class Guest:
    """A guest that this process started. Memory lies in the file `memory` of its directory."""

    @classmethod
    def boot(cls, directory, memory_mib, extra=(), modules=(), timeout=TIMEOUT, disk=None,
             host_options=()):
        """Boot and wait until the guest obeys.

        directory: exists, takes the memory file, initramfs, log and serial socket
        extra: further arguments of QEMU, which become part of the snapshot's
        modules: kernel modules to load, e.g. ("virtio_pci", "virtio_balloon")
        disk: the root disk, /dev/vda in the guest: path of a raw image (make_disk()), or
            "nbd+unix:///EXPORT?socket=PATH"
        host_options: further arguments of QEMU that are no part of the snapshot
        """
        guest = cls(directory, memory_mib, extra, modules, disk, host_options)
        try:
            guest._start(timeout)
        except BaseException:
            guest.kill()
            raise
        return guest

    def __init__(self, directory, memory_mib, extra, modules, disk, host_options):
        self.memory = os.path.join(directory, "memory")
        self.log = os.path.join(directory, "qemu.log")
        self.directory, self.memory_mib = directory, memory_mib
        self.process, self.qmp, self.console = None, None, None
        self.host_options = list(host_options)
        if disk:
            self.host_options += ["-blockdev", root_blockdev(disk)]
            extra = (*extra, *ROOT_DEVICE)
            modules = (*modules, *ROOT_MODULES)
        self.kernel, self.initrd = find_kernel(), os.path.join(directory, "initrd.gz")
        subprocess.run([os.path.join(HERE, "make-initramfs"), self.initrd, self.kernel, *modules],
                       check=True)
        self.args = ["-machine", "q35,memory-backend=mem", *accelerator(), "-smp", "1",
                     "-m", f"{memory_mib}M", "-nodefaults", "-no-user-config", "-display", "none",
                     "-no-reboot", "-serial", "chardev:ser", *extra]

    def _start(self, timeout):
        self.console = Console(os.path.join(self.directory, "serial.sock"))
        mine, theirs = socket.socketpair()
        argv = [QEMU, *self.args,
                "-kernel", self.kernel, "-initrd", self.initrd,
                "-append", "console=ttyS0 quiet panic=-1",
                "-object", f"memory-backend-file,id=mem,size={self.memory_mib}M,share=on,"
                           f"mem-path={self.memory.replace(',', ',,')}",
                *self.host_options, *self.console.vmm_option.split(" ", 1),
                "-chardev", f"socket,id=qmp,fd={theirs.fileno()}",
                "-mon", "chardev=qmp,mode=control"]
        with theirs, open(self.log, "wb") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                            pass_fds=[theirs.fileno()])
        try:
            self.qmp = Qmp(mine)
            self.console.accept(timeout)
            self.console.wait_ready(timeout)
        except GuestError as error:
            with open(self.log, errors="replace") as log:
                raise GuestError(f"{error}; QEMU says: {log.read()[-500:]}") from error

    def sh(self, command, timeout=TIMEOUT, check=True):
        """See Console.sh()."""
        return self.console.sh(command, timeout, check)

    def snapshot(self):
        """Stop the vCPUs and write the device state to `snapfile` in the guest's directory.

        The guest stays stopped, so that its memory file belongs to that state; kill it when the
        files have been used.
        """
        snapfile = os.path.join(self.directory, "snapfile")
        self.qmp.command("stop")
        self.qmp.command("migrate-set-capabilities", capabilities=[
            {"capability": "x-ignore-shared", "state": True},
            {"capability": "events", "state": True}])
        fd = os.open(snapfile, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            self.qmp.command("getfd", fds=[fd], fdname="snapfile")
        finally:
            os.close(fd)
        self.qmp.command("migrate", uri="fd:snapfile")
        end = self.qmp.wait_event("MIGRATION", lambda d: d["status"] in ("completed", "failed"))
        if end["status"] != "completed":
            why = self.qmp.command("query-migrate").get("error-desc", "no reason given")
            raise GuestError(f"writing the state to {snapfile}: {why}")
        v = self.qmp.greeting["version"]["qemu"]
        return Snapshot(self.memory, snapfile, self._recorded_args(),
                        f"{v['major']}.{v['minor']}.{v['micro']}")

    def _recorded_args(self):
        """The arguments with the machine's versioned name: "q35" means another one elsewhere."""
        machines = self.qmp.command("query-machines")
        full = next(m["name"] for m in machines if m.get("alias") == "q35")
        return [a.replace("q35,", full + ",", 1) if a.startswith("q35,") else a for a in self.args]

    def kill(self):
        """End QEMU and reap it; its files stay. May be called again."""
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.qmp:
            self.qmp.stream.close()
        if self.console:
            self.console.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.kill()

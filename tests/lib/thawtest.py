# SPDX-License-Identifier: Apache-2.0
"""What integration tests share: programs with deadlines, skips, leak checks, images.

A test is a function that takes a Case and raises on failure; main() runs them:

    from thawtest import Case, check_equal, main, skip

    def serves_every_page(case):
        image = case.image("memory", "16M")
        build = case.create(memory=image)
        thaw = case.resume(build)
        client = case.start("memory_client", "--socket", thaw.info["memory_socket"],
                            "--image", image)
        client.expect_exit(0)
        thaw.stop()

    if __name__ == "__main__":
        main(serves_every_page)

Programs of the build are found by their name below $THAW_BUILD, thaw itself is $THAW. Everything
that a case has started is gone when it ends, whatever happened, and so is its directory; a case
that leaves something behind without being forced to fails. Nothing here sleeps: a program is ready
when it has printed its line of JSON, and gone when the kernel says so.

Exit status of main(): 0 all passed, 1 something failed, 77 nothing but skips (the reason is the
last line).
"""

import contextlib
import ctypes
import glob
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
import uuid

from make_image import make_image, parse_size

SKIP = 77
DEADLINE = 120.0
STDERR_SHOWN = 4000

_MARK = "THAWTEST_CASE"
_PR_SET_CHILD_SUBREAPER = 36  # prctl(2)


class Skip(Exception):
    """The test cannot run on this machine; the text says why."""


class Failure(AssertionError):
    """The test found something wrong; the text says what."""


def skip(reason):
    raise Skip(reason)


def fail(text):
    raise Failure(text)


# ---- assertions ----

def check(condition, text):
    if not condition:
        fail(text)


def check_equal(got, expected, what):
    if got != expected:
        fail(f"{what}: expected {expected!r}, got {got!r}")


def check_in(part, whole, what):
    if part not in whole:
        fail(f"{what}: {part!r} is missing in {whole!r}")


def check_between(got, low, high, what):
    if not low <= got <= high:
        fail(f"{what}: {got!r} is not within {low!r} and {high!r}")


# ---- what a process holds ----

def fd_links(pid):
    """The open descriptors of @pid: number to what the link says; {} if it is gone."""
    links = {}
    with contextlib.suppress(FileNotFoundError, ProcessLookupError):
        for name in os.listdir(f"/proc/{pid}/fd"):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                links[int(name)] = os.readlink(f"/proc/{pid}/fd/{name}")
    return links


def fd_count(pid):
    return len(fd_links(pid))


def thread_count(pid):
    """Threads of @pid, without those that the kernel lends to it for io_uring when it likes to."""
    count = 0
    for tid in os.listdir(f"/proc/{pid}/task"):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/task/{tid}/comm", encoding="utf-8") as f:
                count += not f.read().startswith("iou-")
    return count


def rss_bytes(pid):
    """Resident memory of @pid, shared memory included."""
    with open(f"/proc/{pid}/statm", encoding="ascii") as f:
        return int(f.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def is_guest_memory_fd(link):
    """Whether a descriptor's link is memory of thaw's or a userfaultfd."""
    return link.startswith("/memfd:thaw:") or "[userfaultfd]" in link


def _marked_processes(mark):
    """Processes started by a case, also those that have left their parents: pid to state."""
    found = {}
    wanted = f"{_MARK}={mark}".encode()
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/environ", "rb") as f:
                if wanted in f.read().split(b"\0"):
                    found[int(name)] = _command_of(name)
    return found


def _wait_until_gone(mark, seconds):
    """Wait for the end of a case's processes. Those that are left after that."""
    until = time.monotonic() + seconds
    while running := _marked_processes(mark):
        pid = next(iter(running))
        try:
            pid_fd = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        ended = select.select([pid_fd], [], [], max(0.0, until - time.monotonic()))[0]
        os.close(pid_fd)
        if not ended:
            return _marked_processes(mark)
    return {}


def _command_of(pid):
    with contextlib.suppress(OSError):
        with open(f"/proc/{pid}/cmdline", "rb") as f:
            return f.read().replace(b"\0", b" ").decode(errors="replace").strip()
    return "?"


def _children():
    """Our children, zombies too: pid to state letter."""
    found = {}
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        with contextlib.suppress(OSError):
            with open(f"/proc/{name}/stat", encoding="utf-8", errors="replace") as f:
                fields = f.read().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                found[int(name)] = fields[0]
    return found


def _reap_orphans():
    """Take leave of the dead among our children that no Program waits for."""
    for pid, state in _children().items():
        # Without its memory but not dead yet (X is its very last moment): that is no time at all.
        if state in "ZX" or not _command_of(pid):
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)


def _open_sockets_below(directory):
    """Paths of the unix sockets below @directory that some process has open."""
    with open("/proc/net/unix", encoding="utf-8", errors="replace") as f:
        paths = [line.rstrip("\n").split(" ")[-1] for line in f]
    return sorted({p for p in paths if p.startswith(directory + "/")})


def _socket_files_below(directory):
    found = []
    for top, _, names in os.walk(directory):
        for name in names:
            path = os.path.join(top, name)
            with contextlib.suppress(FileNotFoundError):
                if (os.lstat(path).st_mode & 0o170000) == 0o140000:
                    found.append(path)
    return sorted(found)


# ---- programs ----

class Program:
    """A running program. Its stdout is read by lines, its stderr goes to a file."""

    def __init__(self, argv, env, stderr_path, cwd):
        self.argv = [str(a) for a in argv]
        self.name = os.path.basename(self.argv[0])
        self.info = None
        self._stderr_path = stderr_path
        self._rest = b""
        self._lines = []
        with open(stderr_path, "wb") as stderr:
            self._popen = subprocess.Popen(self.argv, stdin=subprocess.DEVNULL,
                                           stdout=subprocess.PIPE, stderr=stderr, env=env, cwd=cwd)
        self.pid = self._popen.pid
        self._pid_fd = os.pidfd_open(self.pid)
        os.set_blocking(self._popen.stdout.fileno(), False)

    def stderr(self):
        with open(self._stderr_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def stdout(self):
        """All that was printed so far, without waiting."""
        while self._read_some(0):
            pass
        return "".join(line + "\n" for line in self._lines) + self._rest.decode(errors="replace")

    def returncode(self):
        """None while it runs; the exit status; minus the number of the signal that killed it."""
        return self._popen.poll()

    def _described(self):
        text = self.stderr()[-STDERR_SHOWN:]
        return f"{' '.join(self.argv)}\n--- its stderr:\n{text}---"

    def _read_some(self, seconds):
        """Take what stdout has within @seconds; False at its end or when the time is over."""
        out = self._popen.stdout
        if out.closed or not select.select([out], [], [], seconds)[0]:
            return False
        data = os.read(out.fileno(), 65536)
        if not data:
            out.close()
            return False
        self._rest += data
        *lines, self._rest = self._rest.split(b"\n")
        self._lines += [line.decode(errors="replace") for line in lines]
        return True

    def line(self, number, deadline=DEADLINE):
        """Line @number (from 0) of stdout, waiting for it."""
        until = time.monotonic() + deadline
        while len(self._lines) <= number:
            if not self._read_some(max(0.0, until - time.monotonic())):
                if self._popen.stdout.closed:
                    self.wait(max(1.0, until - time.monotonic()))
                    fail(f"ended with {self.returncode()} before line {number + 1} of its "
                         f"output: {self._described()}")
                fail(f"no line {number + 1} of output after {deadline:.0f} s: {self._described()}")
        return self._lines[number]

    def json_line(self, number, deadline=DEADLINE):
        text = self.line(number, deadline)
        try:
            return json.loads(text)
        except ValueError as e:
            return fail(f"line {number + 1} is not JSON ({e}): {text!r}: {self._described()}")

    def ready(self, deadline=DEADLINE):
        """Wait for the first line of JSON, which says that the program serves; also in @info."""
        self.info = self.json_line(0, deadline)
        return self.info

    def wait(self, deadline=DEADLINE):
        """Wait for the end, reading stdout meanwhile so that it cannot block. The exit status."""
        until = time.monotonic() + deadline
        while self._popen.returncode is None:
            watched = [self._pid_fd] + ([] if self._popen.stdout.closed else [self._popen.stdout])
            ready = select.select(watched, [], [], max(0.0, until - time.monotonic()))[0]
            if self._pid_fd in ready:
                self._popen.wait()
                os.close(self._pid_fd)
            elif not ready:
                fail(f"still running after {deadline:.0f} s: {self._described()}")
            while self._read_some(0):
                pass
        return self._popen.returncode

    def expect_exit(self, status, deadline=DEADLINE):
        """Wait for the end and require this status; -9 is death by SIGKILL. Returns self."""
        got = self.wait(deadline)
        if got == SKIP and status != SKIP:
            skip((self.stdout() + self.stderr()).strip().splitlines()[-1])
        if got != status:
            fail(f"exit status {got}, expected {status}: {self._described()}")
        return self

    def signal(self, number):
        """Send a signal; nothing happens if the program is gone."""
        if self.returncode() is None:
            self._popen.send_signal(number)

    def stop(self, deadline=DEADLINE, status=0):
        """SIGTERM, and require the exit status. Returns self."""
        self.signal(signal.SIGTERM)
        return self.expect_exit(status, deadline)

    def kill(self, deadline=DEADLINE):
        """SIGKILL, and wait until it is gone."""
        self.signal(signal.SIGKILL)
        self.wait(deadline)

    def result(self, deadline=DEADLINE):
        """The JSON object on the last line, after the end."""
        self.wait(deadline)
        check(self._lines, f"printed nothing: {self._described()}")
        return self.json_line(len(self._lines) - 1)


# ---- a test ----

class Case:
    """One test: a directory, the programs it has started, the checks at its end."""

    def __init__(self, name):
        self.name = name
        self.mark = uuid.uuid4().hex
        # Short, for the path of a unix socket has 107 characters at most.
        self.dir = tempfile.mkdtemp(prefix="thaw-test-")
        self.store = os.path.join(self.dir, "store")
        self.programs = []
        self._cleanups = []

    def path(self, *names):
        return os.path.join(self.dir, *names)

    def on_end(self, function, *args):
        """Call @function at the end of the case, last registered first."""
        self._cleanups.append((function, args))

    def image(self, name, size, kind="mixed", seed=1):
        """A test image in the case's directory; see make_image.py. Returns its path."""
        size = parse_size(size) if isinstance(size, str) else size
        return make_image(self.path(name), size, kind, seed)

    def start(self, program, *args, env=None, cwd=None):
        """Start @program, a path or the name of one from the build. Returns it without waiting."""
        argv = [find_program(program), *args]
        # Each case has a folder for caches of its own, so that none finds what another one left.
        full_env = {**os.environ, "XDG_CACHE_HOME": self.path("cache"), **(env or {}),
                    _MARK: self.mark}
        stderr = self.path(f"stderr-{len(self.programs)}")
        p = Program(argv, full_env, stderr, cwd or self.dir)
        self.programs.append(p)
        return p

    def run(self, program, *args, status=0, deadline=DEADLINE, env=None):
        """Run @program to its end and require its exit status. Returns it."""
        return self.start(program, *args, env=env).expect_exit(status, deadline)

    # thaw's verbs

    def thaw(self, *args, status=0, deadline=DEADLINE, env=None):
        """Run `thaw ARGS` to its end. Returns the program."""
        return self.run("thaw", *args, status=status, deadline=deadline, env=env)

    def create(self, memory, snapfile=None, store=None, args=()):
        """`thaw create`; returns the id of the build."""
        argv = ["create", "--memory", memory, "--store", store or self.store, *args]
        if snapfile:
            argv += ["--snapfile", snapfile]
        os.makedirs(store or self.store, exist_ok=True)
        out = self.thaw(*argv).stdout()
        lines = out.splitlines()
        check_equal(len(lines), 1, f"lines that thaw create printed ({out!r})")
        check_equal(str(uuid.UUID(lines[0])), lines[0], "id that thaw create printed")
        return lines[0]

    def resume(self, build, *args, store=None, env=None, deadline=DEADLINE):
        """`thaw resume --vmm none --json`; returns it when it serves, its first line in .info."""
        p = self.start("thaw", "resume", build, "--store", store or self.store,
                       "--vmm", "none", "--json", *args, env=env)
        info = p.ready(deadline)
        for key in ("build", "memory_socket", "memory_bytes"):
            check_in(key, info, "first line of thaw resume")
        check_equal(info["build"], build, "build that thaw resume reports")
        return p

    # what must not be left

    def no_leftovers(self, grace=60.0):
        """Nothing that this case has started runs, holds memory, or has left a socket file.

        Processes that are ending already get @grace seconds for it.
        """
        for p in self.programs:
            if p.returncode() is None:
                fail(f"still running: {' '.join(p.argv)}")
        running = _wait_until_gone(self.mark, grace)
        check(not running, f"processes are left: {running}")
        _reap_orphans()
        children = _children()
        check(not children, f"children are left (pid: state): {children}")
        held = [link for link in fd_links(os.getpid()).values() if is_guest_memory_fd(link)]
        check(not held, f"this process holds {held}")
        sockets = _open_sockets_below(self.dir)
        check(not sockets, f"sockets are open: {sockets}")
        files = _socket_files_below(self.dir)
        check(not files, f"socket files are left: {files}")

    def guest_memory_fds(self):
        """Memory files of thaw's and userfaultfds in the case's processes: list of (pid, link)."""
        return [(pid, link) for pid in _marked_processes(self.mark)
                for link in fd_links(pid).values() if is_guest_memory_fd(link)]

    def finish(self):
        """End everything by force. True if there was nothing to force."""
        clean = True
        for function, args in reversed(self._cleanups):
            function(*args)
        for p in self.programs:
            if p.returncode() is None:
                clean = False
                p.kill()
            p.wait()
        _reap_orphans()
        # Orphans of the programs have become ours: see main().
        for pid in {*_marked_processes(self.mark), *_children()}:
            clean = False
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
        shutil.rmtree(self.dir, ignore_errors=True)
        return clean


# ---- where things are ----

def find_program(name):
    """A path as it is; "thaw" from $THAW; any other name from below $THAW_BUILD, then $PATH."""
    if os.path.sep in name:
        return name
    if name == "thaw" and os.environ.get("THAW"):
        return os.environ["THAW"]
    build = os.environ.get("THAW_BUILD")
    if build:
        for place in ("", "src/cli/", "tests/*/", "bench/"):
            for path in sorted(glob.glob(os.path.join(glob.escape(build), place + name))):
                if os.path.isfile(path) and os.access(path, os.X_OK):
                    return path
    path = shutil.which(name)
    if path and name != "thaw":
        return path
    return fail(f"{name} is neither below THAW_BUILD={build} nor in PATH"
                + ("; set THAW to the program under test" if name == "thaw" else ""))


def require_program(name, why):
    """Skip the test unless @name can be found."""
    try:
        return find_program(name)
    except Failure:
        return skip(f"{name} is not here: {why}")


def find_shim():
    """The preload library from below $THAW_BUILD."""
    build = os.environ.get("THAW_BUILD", "")
    found = sorted(glob.glob(os.path.join(glob.escape(build), "src/shim/*.so")))
    check_equal(len(found), 1, f"preload libraries below {build}/src/shim ({found})")
    return found[0]


def require_huge_pages(n):
    """Skip the test unless @n free 2 MiB pages are reserved."""
    with open("/proc/meminfo", encoding="ascii") as f:
        info = dict(line.split(":", 1) for line in f)
    free = int(info["HugePages_Free"])
    if free < n or info["Hugepagesize"].split()[0] != "2048":
        skip(f"{n} free 2 MiB pages are needed and {free} are there: raise vm.nr_hugepages")


# ---- running ----

def _run_case(test):
    """(outcome, text) of one test, with everything taken down."""
    case = Case(test.__name__)
    outcome, text = "ok", ""
    try:
        test(case)
        case.no_leftovers()
    except Skip as e:
        outcome, text = "skipped", str(e)
    except Failure as e:
        outcome, text = "FAILED", str(e)
    except Exception:  # a defect of the test itself must not end the others
        outcome, text = "FAILED", traceback.format_exc()
    finally:
        clean = case.finish()
    if outcome == "ok" and not clean:
        outcome, text = "FAILED", "something had to be killed at the end"
    return outcome, text


def main(*tests):
    """Run @tests, or those named on the command line, and exit."""
    wanted = sys.argv[1:]
    unknown = set(wanted) - {t.__name__ for t in tests}
    if unknown:
        print(f"no such test: {', '.join(sorted(unknown))}", file=sys.stderr)
        sys.exit(2)
    # What our programs orphan becomes our child: it can be seen and waited for.
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    outcomes, last_reason = [], ""
    for test in tests:
        if wanted and test.__name__ not in wanted:
            continue
        begin = time.monotonic()
        outcome, text = _run_case(test)
        outcomes.append(outcome)
        print(f"{outcome}: {test.__name__} ({time.monotonic() - begin:.1f} s)"
              + (f": {text}" if text else ""), flush=True)
        if outcome == "skipped":
            last_reason = text
    if "FAILED" in outcomes:
        sys.exit(1)
    if outcomes and all(o == "skipped" for o in outcomes):
        print(last_reason)
        sys.exit(SKIP)
    sys.exit(0)

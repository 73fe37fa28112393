#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""`thaw resume --vmm firecracker`, with a program that stands in for Firecracker, and with
Firecracker itself where THAW_FIRECRACKER names one.

  test_firecracker.py GROUP [TEST...]
"""

import json
import os
import signal
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from make_image import flip_byte
from thawtest import check, check_equal, check_in, find_program, main, skip

PAGE = 4096
SIZE = "16M"


class Build:
    """A build whose state the stand-in takes for its own."""

    def __init__(self, case, image=None, version="1.12.0", args=()):
        self.case = case
        self.image = image or case.image("memory", SIZE)
        self.state = case.path("state")
        with open(self.state, "w", encoding="ascii") as f:
            f.write(f"standin {os.path.getsize(self.image)}\n" + 1000 * "device state\n")
        args = ["--vmm", "firecracker", *args]
        if version:
            args += ["--vmm-version", version]
        self.id = case.create(self.image, self.state, args=args)
        self.result_path = case.path("result")

    def start(self, *options, program=None, env=None, args=()):
        """`thaw resume` of it. @options go to the stand-in."""
        case = self.case
        options = [f"--image {self.image}", f"--state {self.state}",
                   f"--result {self.result_path}", *options]
        argv = ["resume", self.id, "--store", case.store, "--run-dir", case.dir, "--json",
                "--vmm-program", program or find_program("fc_standin"), *args]
        return case.start("thaw", *argv, *(f"--vmm-option={o}" for o in options), env=env)

    def fail(self, *options, texts, env=None, **more):
        """Resume it, expecting that it fails with all of @texts in the message."""
        p = self.start(*options, env=env, **more)
        p.expect_exit(1)
        for text in texts:
            check_in(text, p.stderr(), "what thaw says")
        check_equal(self.case.guest_memory_fds(), [], "descriptors left")
        left = [n for n in os.listdir(self.case.dir) if n.startswith("resume-")]
        check_equal(left, [], "folders of sockets left")
        return p

    def result(self):
        with open(self.result_path, encoding="utf-8") as f:
            return json.load(f)


# ---- it works ----

def resumes(case):
    """All pages are right, and some of them were asked for before the load call returned."""
    build = Build(case)
    p = build.start().expect_exit(0)
    pages = os.path.getsize(build.image) // PAGE
    result = build.result()
    check_equal((result["regions"], result["touched"]), (1, pages + 16), "regions, pages touched")
    check_equal(result["requests"], 3, "requests to the API")
    info, stats = p.json_line(0), p.result()
    check_equal(info["vmm"], "firecracker", "vmm")
    check(info["vmm_pid"] > 0, "no process number")
    run_dir = os.path.dirname(info["memory_socket"])
    check_equal(result["id"], os.path.basename(run_dir), "instance id")
    check(not os.path.exists(run_dir), "the folder of sockets is left")
    names = [s["name"] for s in stats["stages"]]
    served, loaded = names.index("first fault served"), names.index("VMM state loaded")
    check(served < loaded, f"no fault was served while the state was loaded: {names}")
    check_equal(names[-1], "vCPUs running", "last stage")
    check_equal(stats["pages"], {"total": pages, "installed": pages, "failed": 0}, "pages")


def memory_around_the_hole(case):
    """Above 3 GiB there are two regions; offsets in the memory file run on."""
    image = case.path("large")
    with open(image, "wb") as f:
        f.truncate((4 << 30) + (1 << 20))
        for at in (0, (3 << 30) - PAGE, 3 << 30, (4 << 30) + (1 << 20) - PAGE):
            f.seek(at)
            f.write(at.to_bytes(8, "little") * (PAGE // 8))
    build = Build(case, image)
    p = build.start("--pages 2000").expect_exit(0)
    check_equal((build.result()["regions"], build.result()["touched"]), (2, 2016), "regions, pages")
    check(p.result()["bytes"]["fetched"] <= 4 * 65536, "more than four granules were fetched")


def a_socket_that_listens_late(case):
    Build(case).start("--misbehave listen-late").expect_exit(0)


def ignores_the_proxy_of_the_environment(case):
    env = {"http_proxy": "http://127.0.0.1:1", "ALL_PROXY": "socks5://127.0.0.1:1"}
    Build(case).start(env=env).expect_exit(0)


def recorded_arguments_are_given_again(case):
    build = Build(case, args=["--vmm-arg=--pages", "--vmm-arg=5"])
    build.start().expect_exit(0)
    check_equal(build.result()["touched"], 5 + 16, "pages touched")


def versions(case):
    """The same format, or one that nobody knows yet: Firecracker itself decides."""
    build = Build(case, version="1.13.1")
    build.start("--version-says 1.14.2").expect_exit(0)
    build.start("--version-says 1.99.0").expect_exit(0)
    build.start("--version-says v1.13.1_458ca91").expect_exit(0)
    Build(case, image=build.image, version=None).start("--version-says 9.9.9").expect_exit(0)


def stops(case):
    """On SIGTERM thaw ends its VMM, also one that does not listen to SIGTERM."""
    build = Build(case)
    for option in ("--hold", "--misbehave ignore-term"):
        p = build.start("--hold", option)
        pid = p.ready()["vmm_pid"]
        p.stop()
        check(not os.path.exists(f"/proc/{pid}"), "the VMM lives on")


def death_of_either(case):
    build = Build(case)
    p = build.start("--hold")
    os.kill(p.ready()["vmm_pid"], signal.SIGKILL)
    p.expect_exit(1)
    check_in("SIGKILL", p.stderr(), "what thaw says")
    p = build.start("--hold")
    p.ready()
    p.kill()
    case.no_leftovers()


def damage_is_seen(case):
    """A page that cannot be verified kills the VMM, and it is not the VMM that gets the blame."""
    build = Build(case)
    memfile = os.path.join(case.store, build.id, "memfile")
    for at in range(0, os.path.getsize(memfile), 65536):
        flip_byte(memfile, at)
    build.fail(texts=["guest memory at byte",
                      "cannot be served: the stored bytes do not match their checksum"])


# ---- it does not ----

def no_program(case):
    build = Build(case)
    build.fail(program=case.path("nowhere"), texts=["nowhere", "no such program"])


def no_snapfile(case):
    build = case.create(case.image("memory", "1M"), args=["--vmm", "firecracker"])
    p = case.thaw("resume", build, "--store", case.store, status=1)
    check_in("needs a snapfile", p.stderr(), "what thaw says")


def other_version(case):
    build = Build(case, version="1.12.0")
    build.fail("--version-says 1.13.0", texts=["1.12.0", "1.13.0", "--vmm-program"])


def bad_version(case):
    Build(case).fail("--misbehave bad-version", texts=["firecracker_version", "not a string"])


def dies_before_its_socket(case):
    Build(case).fail("--misbehave die-at-start",
                     texts=["before its API", "exit status 1", "'kvm': it is not there"])


def wrong_option(case):
    Build(case).fail("--no-such-option", texts=["exit status 2", "no-such-option"])


def never_opens_its_socket(case):
    Build(case).fail("--misbehave no-socket", env={"THAW_VMM_TIMEOUT": "1"},
                     texts=["did not open its API socket in time", "still running"])


def bad_timeout(case):
    build = Build(case)
    for text in ("0", "-1", "1s", "1e3", "99999999999999999999"):
        build.fail(env={"THAW_VMM_TIMEOUT": text}, texts=[f"THAW_VMM_TIMEOUT is '{text}'"])


def refuses_to_load(case):
    """Its own words, without the escape sequence in them; and how it ended."""
    p = Build(case).fail("--misbehave refuse-load", texts=[
        "refuses to load the snapshot (HTTP status 400)", "/dev/nbd7: No such file or directory",
        "exit status 1", "the process ends"])
    check("\033" not in p.stderr(), "an escape sequence reaches the terminal")


def tells_of_an_unknown_version(case):
    build = Build(case, version="1.98.0")
    build.fail("--misbehave refuse-load", "--version-says 1.99.0",
               texts=["made by version 1.98.0", "Firecracker 1.99.0", "/dev/nbd7"])


def refuses_another_state(case):
    """What Firecracker gets is the snapfile to the byte; the stand-in compares."""
    build = Build(case)
    flip_byte(build.state, 500)
    build.fail(texts=["is not the state that was saved"])


def dies_in_load(case):
    Build(case).fail("--misbehave die-in-load", texts=["/snapshot/load", "SIGKILL"])


def hangs_in_load(case):
    Build(case).fail("--misbehave hang-in-load", env={"THAW_VMM_TIMEOUT": "5"},
                     texts=["PUT /snapshot/load", "no answer in time"])


def is_no_http(case):
    build = Build(case)
    build.fail("--misbehave garbage-in-load", texts=["no answer of HTTP/1.1"])
    build.fail("--misbehave odd-error", texts=["HTTP status 500", "it does not say why"])


def hangs_up(case):
    build = Build(case)
    for how in ("close-in-load", "cut-in-load"):
        build.fail(f"--misbehave {how}", texts=["closed before the answer was complete"])


def says_too_much(case):
    build = Build(case)
    for how in ("huge-in-load", "headers-in-load"):
        build.fail(f"--misbehave {how}", texts=["the answer has more than 64 KiB"])


def hands_over_nothing(case):
    Build(case).fail("--misbehave no-memory", env={"THAW_VMM_TIMEOUT": "5"},
                     texts=["has handed over no memory"])


def hands_over_too_much(case):
    """It would wait for its first page for ever, so that thaw must not wait for its answer."""
    Build(case).fail("--misbehave more-memory", texts=["is it the right build?"])


def does_not_run(case):
    build = Build(case)
    build.fail("--misbehave refuse-run", texts=["refuses to run the vCPUs", "Failed to resume"])
    build.fail("--misbehave die-in-run", texts=["PATCH /vm", "SIGKILL"])


# ---- Firecracker itself ----

def real_firecracker():
    path = os.environ.get("THAW_FIRECRACKER")
    if not path:
        skip("THAW_FIRECRACKER does not name a Firecracker to test with")
    out = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    return path, out.split()[1]


def real_refuses_garbage(case):
    """Its API socket, its version and its fault_message are what the driver takes them for."""
    path, version = real_firecracker()
    build = Build(case, version=version)
    p = case.start("thaw", "resume", build.id, "--store", case.store, "--run-dir", case.dir,
                   "--vmm-program", path)
    p.expect_exit(1)
    check_in(f"Firecracker {version.lstrip('v')} refuses to load the snapshot (HTTP status 400)",
             p.stderr(), "what thaw says")
    check("it does not say why" not in p.stderr(), "no fault_message")


def real_refuses_another_version(case):
    path, _ = real_firecracker()
    build = Build(case, version="1.7.0")
    p = case.start("thaw", "resume", build.id, "--store", case.store, "--run-dir", case.dir,
                   "--vmm-program", path)
    p.expect_exit(1)
    check_in("1.7.0", p.stderr(), "what thaw says")


GROUPS = {
    "firecracker": (resumes, memory_around_the_hole, a_socket_that_listens_late,
                    ignores_the_proxy_of_the_environment, recorded_arguments_are_given_again,
                    versions, stops, death_of_either, damage_is_seen),
    "firecracker-failures": (
        no_program, no_snapfile, other_version, bad_version, dies_before_its_socket,
        wrong_option, never_opens_its_socket, bad_timeout, refuses_to_load,
        tells_of_an_unknown_version, refuses_another_state, dies_in_load, hangs_in_load, is_no_http,
        hangs_up, says_too_much, hands_over_nothing, hands_over_too_much, does_not_run),
    "real-firecracker": (real_refuses_garbage, real_refuses_another_version),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What a start of thaw loads, which a resume waits for; and what it says where a library that it
loads later cannot be had.

  test_libraries.py GROUP [TEST...]
"""

import os
import re
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import check, check_equal, check_in, find_program, main, require_program

# Each adds to every start. What is missing here is to be loaded like those of src/kernel/library.h.
LINKED = {"libc", "libcrypto", "libjansson", "liblz4", "libm", "liburing", "libxxhash"}
# Run-time libraries of compilers, and what an older C library has apart.
COMPILERS = {"ld-linux-x86-64", "ld-linux-aarch64", "libasan", "libtsan", "libubsan", "libgcc_s",
             "libstdc++", "libdl", "libpthread", "libresolv", "librt"}
LATER = ("libcurl.so.4", "libmicrohttpd.so.12", "libnbd.so.0")


def links_few_libraries(case):
    """What a start loads, those included that libraries bring along."""
    require_program("readelf", "what a program links cannot be read")
    thaw = find_program("thaw")
    text = subprocess.run(["readelf", "-d", thaw], text=True, stdout=subprocess.PIPE, timeout=60,
                          check=True).stdout
    needed = re.findall(r"\(NEEDED\).*\[(.+?)\.so", text)
    check("libc" in needed, f"readelf tells of no libraries: {text[:300]}")
    check_equal(set(needed) - LINKED - COMPILERS, set(), "libraries linked that nobody decided on")
    p = case.thaw("--version", env={"LD_TRACE_LOADED_OBJECTS": "1"})
    loaded = set(re.findall(r"(\S+?)\.so\S* \(0x|(\S+?)\.so\S* =>", p.stdout()))
    loaded = {os.path.basename(a or b) for a, b in loaded} - {"linux-vdso"}
    check("libc" in loaded, f"the loader tells of no libraries: {p.stdout()[:300]}")
    check_equal(loaded - LINKED - COMPILERS, set(), "libraries that come with those")


def resumes_without_the_others(case):
    """With a VM connected and its memory read, none of the three is in the process."""
    image = case.image("memory", "1M")
    thaw = case.resume(case.create(image), "--accept", "2") # so that it outlives the first VM
    case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image",
               image).expect_exit(0)
    with open(f"/proc/{thaw.pid}/maps", encoding="utf-8") as f:
        maps = f.read()
    check_in("libcrypto.so", maps, "what is mapped")
    for name in LATER:
        check(name[:name.index(".")] + ".so" not in maps, f"{name} is loaded")
    thaw.stop()


def without(case, name):
    """An environment in which library @name is a broken file."""
    folder = case.path("libraries")
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, name), "w", encoding="ascii") as f:
        f.write("this is not a library\n" * 100)
    return {"LD_LIBRARY_PATH": folder}


def says_what_to_install(case, name, package, *args):
    env = without(case, name)
    case.thaw("--version", env=env)
    p = case.thaw(*args, env=env, status=1)
    check_in(f"{name} cannot be loaded (", p.stderr(), "what thaw says")
    check_in(f": install {package}", p.stderr(), "what thaw says")
    left = [n for n in os.listdir(case.dir) if n.startswith("resume-")]
    check_equal(left, [], "folders of sockets left")


def no_libnbd(case):
    says_what_to_install(case, "libnbd.so.0", "libnbd0", "create", "--memory",
                         f"nbd+unix:///?socket={case.path('none')}", "--store", case.store)


def no_libcurl(case):
    state = case.path("state")
    with open(state, "w", encoding="ascii") as f:
        f.write(f"standin {1 << 20}\n")
    image = case.image("memory", "1M")
    build = case.create(image, state, args=["--vmm", "firecracker", "--vmm-version", "1.12.0"])
    says_what_to_install(case, "libcurl.so.4", "libcurl4", "resume", build, "--store", case.store,
                         "--run-dir", case.dir, "--vmm-program", find_program("fc_standin"),
                         f"--vmm-option=--image {image}", f"--vmm-option=--state {state}",
                         f"--vmm-option=--result {case.path('result')}")


def no_libmicrohttpd(case):
    build = case.create(case.image("memory", "1M"))
    says_what_to_install(case, "libmicrohttpd.so.12", "libmicrohttpd12", "resume", build,
                         "--store", case.store, "--run-dir", case.dir, "--vmm", "none",
                         "--metrics", "127.0.0.1:0")


GROUPS = {
    "libraries": (links_few_libraries, resumes_without_the_others, no_libnbd, no_libcurl,
                  no_libmicrohttpd),
}

if __name__ == "__main__":
    group = sys.argv.pop(1)
    main(*GROUPS[group])

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Commands that `thaw resume` runs beside a sandbox: --on-resumed and --cmd."""

import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import check, check_equal, check_in, main


C_LIBRARY = 3 << 31  # signals 32 and 33, which glibc's posix_spawn(3) leaves ignored


def sandbox(case, *args, **more):
    image = case.image("memory", "4M")
    with open(case.path("state"), "wb") as f:
        f.write(b"state of a VMM")
    disk = case.image("disk", "4M", seed=2)
    build = case.create(image, case.path("state"), args=["--rootfs", disk])
    return build, case.resume(build, *args, **more)


def a_command_ends_the_sandbox(case):
    """It sees what it needs in its environment; its stdout does not get between the JSON lines."""
    script = ("echo $THAW_BUILD $THAW_MEMORY_SOCKET $THAW_DISK_SOCKET $THAW_SNAPFILE "
              f"'vmm='$THAW_VMM_PID >{case.path('seen')}; test -S $THAW_DISK_SOCKET && echo talk")
    build, thaw = sandbox(case, "--cmd", script, env={"THAW_VMM_PID": "of another sandbox"})
    thaw.expect_exit(0)
    with open(case.path("seen"), encoding="utf-8") as f:
        seen = f.read().split()
    info = thaw.info
    check_equal(seen, [build, info["memory_socket"], info["disk_socket"], info["snapfile"], "vmm="],
                "environment of the command")
    check_equal(len(thaw.stdout().splitlines()), 2, "lines on stdout")
    check_in("talk", thaw.stderr(), "stderr")
    check_in("command ended", json.dumps(thaw.result()["stages"]), "stages")


def a_failing_command_is_our_failure(case):
    _, thaw = sandbox(case, "--cmd", "exit 7")
    thaw.expect_exit(1)
    check_in("'exit 7' ended with status 7", thaw.stderr(), "stderr")
    _, thaw = sandbox(case, "--cmd", "kill -KILL $$")
    thaw.expect_exit(1)
    check_in("status 137", thaw.stderr(), "stderr")


def a_hook_does_not_end_the_sandbox(case):
    """Nor does its failure; and one that does not end is ended with the sandbox."""
    fifo = case.path("fifo")
    os.mkfifo(fifo)
    _, thaw = sandbox(case, "--on-resumed", f"echo hooked >{fifo}; exit 3")
    with open(fifo, encoding="utf-8") as f:
        check_equal(f.read(), "hooked\n", "what the hook says")
    check(thaw.returncode() is None, "thaw ended with its hook")
    thaw.stop()
    _, thaw = sandbox(case, "--on-resumed", f"echo hooked >{fifo}; exec sleep 1000")
    with open(fifo, encoding="utf-8") as f:
        check_equal(f.read(), "hooked\n", "what the hook says")
    thaw.stop()
    case.no_leftovers()


def signals_are_the_commands_own(case):
    """SIGTERM ends a command although thaw has it blocked; SIGPIPE is not ignored in it."""
    fifo = case.path("fifo")
    os.mkfifo(fifo)
    _, thaw = sandbox(case, "--cmd",
                      f"grep -E '^Sig(Blk|Ign)' /proc/self/status >{fifo}; exec sleep 1000")
    with open(fifo, encoding="utf-8") as f:
        masks = [int(line.split()[1], 16) & ~C_LIBRARY for line in f]
    check_equal(masks, [0, 0], "blocked and ignored signals of a command")
    thaw.stop()
    case.no_leftovers()


if __name__ == "__main__":
    assert sys.argv.pop(1) == "hooks"
    main(a_command_ends_the_sandbox, a_failing_command_is_our_failure,
         a_hook_does_not_end_the_sandbox, signals_are_the_commands_own)

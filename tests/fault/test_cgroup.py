#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""thaw within a memory cgroup: the budget and what is stated beside it are all that it takes."""

import os
import signal
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.join(HERE, "..", "lib"), HERE]

# pylint: disable=wrong-import-position
from cgroup import MemoryCgroup
from faultfs import fault_main
from thawtest import check, check_equal, find_program, skip

MIB = 1 << 20
BUDGET_MIB, IMAGE_MIB = 64, 512

# What the manual says of memory beside the budget: thaw-resume(1), --memory-budget.
BESIDE_MIB, BESIDE_MIB_PER_GIB = 16, 2


def resume_within(case, build, limit, *args):
    if os.environ.get("THAW_SANITIZE", "none") != "none":
        skip("a sanitizer takes memory of its own")
    cgroup = MemoryCgroup(case, limit)
    thaw = cgroup.start(case, find_program("thaw"), "resume", build, "--store", case.store,
                        "--vmm", "none", "--json", "--memory-budget", f"{BUDGET_MIB}M",
                        "--cache", case.path("cache"), "--cache-backing", "tiered", *args)
    thaw.ready()
    return cgroup, thaw


def touch(case, thaw, image, *args):
    """All that is touched is right. The client's memory is none of the cgroup's."""
    client = case.run("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                      "--threads", "4", "--json", *args).result()
    check_equal((client["errors"], client["wrong"]), (0, 0), "what the client saw")


def an_image_of_eight_budgets_needs_no_more(case):
    image = case.image("memory", IMAGE_MIB * MIB, "random")
    build = case.create(image)
    beside = BESIDE_MIB * MIB + BESIDE_MIB_PER_GIB * IMAGE_MIB * MIB // 1024
    limit = BUDGET_MIB * MIB + beside
    for args, client in (((), ("--pages", "32768")), ((), ("--order", "sequential")),
                         (("--populate",), ("--pages", "32768", "--removes", "200"))):
        cgroup, thaw = resume_within(case, build, limit, *args)
        touch(case, thaw, image, *client)
        cache = thaw.expect_exit(0).result()["cache"]
        check_equal(cgroup.oom_kills(), 0, "processes that were killed")
        check(cache["charged"] <= BUDGET_MIB * MIB, f"more than the budget: {cache}")
        print(f"    {client}: at most {(cgroup.peak() or 0) / MIB:.1f} MiB of {limit / MIB:.1f}, "
              f"the limit was reached {cgroup.reached()} times")


def the_limit_is_one(case):
    """What the other case would see if thaw took more: a limit below the budget kills it."""
    image = case.image("memory", IMAGE_MIB * MIB, "random")
    build = case.create(image)
    cgroup, thaw = resume_within(case, build, BUDGET_MIB * MIB // 2)
    client = case.start("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                        "--order", "sequential", "--hang-seconds", "300")
    thaw.expect_exit(-signal.SIGKILL)
    client.kill()  # its pages come no more
    check_equal(cgroup.oom_kills(), 1, "processes that were killed")


if __name__ == "__main__":
    fault_main({"memory-cgroup": (an_image_of_eight_budgets_needs_no_more, the_limit_is_one)})

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What sandboxes of one process share: caches and their backing, flags, iterations."""

import json
import os
import signal
import sys
import time
import urllib.request

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import check, check_between, check_equal, check_in, fail, main, skip

MIB = 1 << 20


def build_of(case):
    image = case.image("memory", "8M")
    disk = case.image("disk", "2M", seed=2)
    return image, case.create(image, args=["--rootfs", disk])


def touch_all(case, thaw, image):
    case.run("memory_client", "--socket", thaw.info["memory_socket"], "--image", image)


def write_flags(path, value):
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump({"flags": {"local-cache-memfd": {
            "state": "ENABLED", "variants": {"on": True, "off": False},
            "defaultVariant": "on" if value else "off"}}}, f)
    os.rename(path + ".new", path)


def all_backings_serve(case):
    image, build = build_of(case)
    for backing in ("memfd", "tiered", "file"):
        thaw = case.resume(build, "--cache-backing", backing, "--cache", case.path("cache"))
        check_equal((thaw.info["cache_backing"], thaw.info["cache_backing_source"]),
                    (backing, "option"), "backing and its source")
        if backing == "file":
            check(os.listdir(case.path("cache")), "no file in the cache folder")
        touch_all(case, thaw, image)
        result = thaw.expect_exit(0).result()
        check_equal(result["pages"]["installed"], result["pages"]["total"], "pages")
        check_equal(result["cache"]["charged"] > 0, backing != "file", "charged to the budget")
    check_equal(sorted(os.listdir(case.path("cache"))), ["lock", "tier"], "left in the folder")


def the_flag_beats_the_option(case):
    _, build = build_of(case)
    flags = case.path("flags.json")
    write_flags(flags, True)
    base = ("--cache-backing", "file", "--cache", case.path("cache"))
    cases = (
        ((), {}, "file", "option"),
        (("--flags", flags), {}, "memfd", f"flag local-cache-memfd (file {flags})"),
        (("--flags", flags), {"THAW_FLAG_LOCAL_CACHE_MEMFD": "false"}, "file", "option"),
        ((), {"THAW_FLAG_LOCAL_CACHE_MEMFD": "true"}, "memfd",
         "flag local-cache-memfd (environment)"),
        (("--flag", "local-cache-memfd=true"), {"THAW_FLAG_LOCAL_CACHE_MEMFD": "false"}, "memfd",
         "flag local-cache-memfd (option)"),
    )
    for args, env, backing, source in cases:
        thaw = case.resume(build, *base, *args, env=env)
        check_equal((thaw.info["cache_backing"], thaw.info["cache_backing_source"]),
                    (backing, source), f"backing with {args} {env}")
        thaw.stop()


def flags_change_at_run_time(case):
    """New flags are for what comes next; garbage changes nothing, and is told."""
    _, build = build_of(case)
    flags = case.path("flags.json")
    write_flags(flags, False)
    args = ("--cache-backing", "file", "--cache", case.path("cache"), "--flags", flags)
    thaw = case.resume(build, *args)
    write_flags(flags, True)
    # A signal of a lower number is taken first: the flags are read again before the end.
    thaw.signal(signal.SIGHUP)
    result = thaw.stop().result()
    check_equal((result["cache"]["backing"], result["cache"]["source"]),
                ("memfd", f"flag local-cache-memfd (file {flags})"), "after the change")
    thaw = case.resume(build, *args)
    with open(flags, "w", encoding="utf-8") as f:
        f.write('{"flags": {"local-ca')
    thaw.signal(signal.SIGHUP)
    result = thaw.stop().result()
    check_equal(result["cache"]["backing"], "memfd", "backing after garbage")
    check_in(flags, thaw.stderr(), "what thaw says of garbage")


def wrong_options_are_told(case):
    _, build = build_of(case)
    base = ("resume", build, "--store", case.store, "--vmm", "none")
    for args, status, text in (
            (("--flag", "local-cache-memf=true"), 1, "local-cache-memfd"),
            (("--flag", "local-cache-memfd=maybe"), 1, "maybe"),
            (("--cache-backing", "paper"), 1, "paper"),
            (("--cache-huge-pages", "giant"), 1, "giant"),
            (("--memory-budget", "1K"), 1, "budget"),
            (("--memory-budget", "lots"), 2, "lots"),
            (("--accept", "17"), 1, "at most 16 VMs"),
            (("--metrics", "nonsense"), 1, "nonsense"),
            (("--cold",), 2, "--iterations"),
            (("--iterations", "0"), 2, "0"),
            (("--cache-backing", "file", "--cache", "/proc/no"), 1, "/proc/no")):
        p = case.thaw(*base, *args, status=status)
        check_in(text, p.stderr(), f"what thaw says of {args}")


def a_spent_budget_serves_all_the_same(case):
    image = case.image("memory", "64M", kind="random")
    build = case.create(image)
    thaw = case.resume(build, "--memory-budget", "16M", "--cache-backing", "memfd")
    touch_all(case, thaw, image)
    result = thaw.expect_exit(0).result()
    check_equal(result["pages"]["installed"], result["pages"]["total"], "pages")
    check(result["cache"]["not_kept"] > 0, f"all was kept: {result['cache']}")
    check(result["bytes"]["cached"] <= 16 * MIB, f"more than the budget: {result['bytes']}")


def an_image_of_eight_budgets(case):
    """In order, at random and populated; never more memory than the budget."""
    image = case.image("memory", "512M", kind="random")
    build = case.create(image)
    random = ("--pages", "16384")
    for args, client in (((), random), ((), ("--order", "sequential")), (("--populate",), random)):
        thaw = case.resume(build, "--memory-budget", "64M", "--cache-backing", "tiered", *args)
        case.run("memory_client", "--socket", thaw.info["memory_socket"], "--image", image,
                 "--threads", "4", *client)
        result = thaw.expect_exit(0).result()
        if client != random:
            check_equal(result["pages"]["installed"], result["pages"]["total"], "pages")
        check_equal(result["cache"]["not_kept"], 0, "not kept")
        check(result["bytes"]["cached"] <= 64 * MIB, f"more than the budget: {result['bytes']}")
        check(result["cache"]["charged"] <= 64 * MIB, f"more than the budget: {result['cache']}")


def pool_bytes(thaw):
    """The memory of the pool of a process, as the kernel counts it: children do not inherit it."""
    found, rss, anonymous = 0, 0, False
    with open(f"/proc/{thaw.pid}/smaps", encoding="utf-8") as f:
        for line in f:
            words = line.split()
            if not words[0].endswith(":"):
                anonymous = len(words) == 5 or words[5] == "[anon:thaw:pool]"
            elif words[0] == "Rss:":
                rss = int(words[1]) << 10
            elif words[0] == "VmFlags:" and anonymous and "dc" in words:
                found += rss
    return found


def budget_of(thaw):
    """The budget that thaw says it has, in its metrics."""
    with urllib.request.urlopen(f"http://{thaw.info['metrics']}/metrics", timeout=60) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("thaw_cache_budget_bytes "):
                return float(line.split()[1])
    return fail("there is no metric of the budget")


def wait_for(condition, what):
    until = time.monotonic() + 60
    while not condition():
        check(time.monotonic() < until, f"after a minute: {what}")
        time.sleep(0.01)


def write_budget(path, value):
    with open(path + ".new", "w", encoding="utf-8") as f:
        json.dump({"flags": {"memory-budget": {
            "state": "ENABLED", "variants": {"a": value}, "defaultVariant": "a"}}}, f)
    os.rename(path + ".new", path)


def the_budget_changes_at_run_time(case):
    """By the flag, while the image is served; what makes no sense changes nothing, and is told."""
    image = case.image("memory", "64M", kind="random")
    flags = case.path("flags.json")
    write_budget(flags, "48M")
    thaw = case.resume(case.create(image), "--memory-budget", "32M", "--cache-backing", "tiered",
                       "--cache", case.path("cache"), "--accept", "3", "--flags", flags,
                       "--metrics", "127.0.0.1:0")
    check_equal(thaw.info["memory_budget"], 48 * MIB, "the budget that the flag has set")
    touch_all(case, thaw, image)
    # A host that is short of memory may have got some of it back already.
    check_between(pool_bytes(thaw), 17 * MIB, 48 * MIB, "memory of the pool")
    write_budget(flags, 16 * MIB)
    wait_for(lambda: pool_bytes(thaw) <= 16 * MIB, "the pool is as large as before")
    for value, told in (("lots", '"lots"'), (4096, "too small"), (True, "is true or false")):
        write_budget(flags, value)
        wait_for(lambda text=told: text in thaw.stderr(), f"nothing is told of {value}")
    touch_all(case, thaw, image)
    check_between(pool_bytes(thaw), 8 * MIB, 16 * MIB, "memory of the pool after garbage")
    write_budget(flags, 0)
    wait_for(lambda: budget_of(thaw) == 32 * MIB, "the budget is not that of the start")
    random = ("--threads", "4", "--pages", "8192")
    case.run("memory_client", "--socket", thaw.info["memory_socket"], "--image", image, *random)
    result = thaw.expect_exit(0).result()
    check_equal(result["cache"]["budget"], 32 * MIB, "the budget at the end")
    check_equal(result["pages"]["failed"], 0, "pages that could not be served")


def memory_cgroup(case, limit):
    """A memory cgroup with a limit, below our own; gone at the end."""
    groups = {}
    with open("/proc/self/cgroup", encoding="utf-8") as f:
        for line in f:
            _, controllers, path = line.rstrip("\n").split(":", 2)
            groups.update((name, path) for name in controllers.split(","))
    folder = f"/sys/fs/cgroup/memory{groups.get('memory', '')}/thaw-test-{os.getpid()}"
    names = ("memory.limit_in_bytes", "cgroup.procs")
    if "memory" not in groups:  # version 2, where only a group without processes has others below
        folder = f"/sys/fs/cgroup/thaw-test-{os.getpid()}"
        names = ("memory.max", "cgroup.procs")

    def remove():
        for p in case.programs:  # those that a failure has left
            p.kill()
        os.rmdir(folder)

    try:
        os.mkdir(folder)
        case.on_end(remove)
        with open(os.path.join(folder, names[0]), "w", encoding="utf-8") as f:
            f.write(str(limit))
    except OSError as e:
        skip(f"no memory cgroup can be made: {e}")
    return folder


def the_cgroup_bounds_the_budget(case):
    """The usual one is what the cgroup leaves, or a quarter of what is free; more is told."""
    _, build = build_of(case)
    folder = memory_cgroup(case, 512 * MIB)

    def resume(*args):
        command = 'echo $$ >"$0" && exec "$@"'
        return case.start("sh", "-c", command, os.path.join(folder, "cgroup.procs"),
                          os.environ["THAW"], "resume", build, "--store", case.store, "--vmm",
                          "none", "--json", *args)

    thaw = resume()
    budget = thaw.json_line(0)["memory_budget"]
    check_between(budget, 8 * MIB, 512 * MIB - 1, "the usual budget")
    thaw.stop()
    check_equal(thaw.stderr(), "", "what thaw says of its usual budget")
    thaw = resume("--memory-budget", "513M")
    check_equal(thaw.json_line(0)["memory_budget"], 513 * MIB, "the budget that was given")
    thaw.stop()
    check_equal(thaw.stderr().count("513.0 MiB"), 1, f"warnings in {thaw.stderr()!r}")
    check_in(folder, thaw.stderr(), "what thaw says of a budget beyond the cgroup")


def iterations(case):
    _, build = build_of(case)
    base = ("resume", build, "--store", case.store, "--vmm", "none", "--json")
    read = ("--cmd", "nbdcopy \"nbd+unix:///?socket=$THAW_DISK_SOCKET\" null:")
    warm = case.thaw(*base, *read, "--iterations", "4").result()
    check_equal((warm["iterations"], warm["cold"]), (4, False), "what was done")
    fetched = warm["fetched_bytes"]
    check(fetched["max"] > 0 and fetched["min"] == fetched["p50"] == 0, f"fetched: {fetched}")
    cold = case.thaw(*base, *read, "--iterations", "3", "--cold").result()
    check_equal(cold["fetched_bytes"]["min"], fetched["max"], "fetched in a cold iteration")
    stages = {s["name"]: s for s in cold["stages_ms"]}
    check_in("command ended", stages, "stages")
    for row in stages.values():
        check(row["count"] == 3 and row["min"] <= row["p50"] <= row["p95"] == row["max"],
              f"ranks: {row}")
    check(cold["memory"]["pss"] > 0, f"memory: {cold['memory']}")
    check_in("the first one cold", case.thaw(*base[:-1], "--iterations", "1").stdout(), "table")


def iterations_end_early(case):
    """After a failure or a signal, with what was measured until then."""
    _, build = build_of(case)
    base = ("resume", build, "--store", case.store, "--vmm", "none", "--json")
    count = f"echo x >>{case.path('count')}; test $(wc -l <{case.path('count')}) -lt 3"
    p = case.thaw(*base, "--iterations", "9", "--cmd", count, status=1)
    check_equal(p.result()["iterations"], 3, "iterations until the failure")
    fifo = case.path("fifo")
    os.mkfifo(fifo)
    p = case.start("thaw", *base, "--iterations", "9", "--cmd", f"echo x >{fifo}; exec sleep 1000")
    with open(fifo, encoding="utf-8") as f:
        check_equal(f.read(), "x\n", "the command")
    p.stop()
    check_equal(p.result()["iterations"], 1, "iterations until the signal")


if __name__ == "__main__":
    assert sys.argv.pop(1) == "host"
    main(all_backings_serve, the_flag_beats_the_option, flags_change_at_run_time,
         wrong_options_are_told, a_spent_budget_serves_all_the_same, an_image_of_eight_budgets,
         the_cgroup_bounds_the_budget, the_budget_changes_at_run_time, iterations,
         iterations_end_early)

#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, leave nothing behind, and print what they promise. No figure is judged."""

import contextlib
import glob
import json
import os
import re
import select
import shutil
import signal
import sys
import time
import xml.dom.minidom

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import DEADLINE, check, check_equal, check_in, fail, main, skip

RATIOS = {
    "fault": {"cpu_over_floor", "p50_over_floor", "p99_over_floor"},
    "populate": {"of_floor"},
}


def prints_rows_and_ratios(case):
    for name, ratios in RATIOS.items():
        p = case.thaw("bench", name, "--rounds", "1", "--json", env={"TMPDIR": case.dir})
        out = json.loads(p.stdout())
        check_equal(out["bench"], name, "name")
        check_equal(set(out["ratios"]), ratios, "ratios")
        check(all(v > 0 for v in out["ratios"].values()), f"ratios {out['ratios']}")
        for row in out["rows"]:
            for figure in (v for k, v in row.items() if k != "name"):
                check(figure["thaw"]["median"] > 0 and figure["floor"]["median"] > 0,
                      f"a figure of nothing in {row}")
        check("kernel" in out["environment"], "environment")
        check(not any(n.startswith("thaw-bench-") for n in os.listdir(case.dir)),
              "files are left")
    p = case.thaw("bench", "nonsense", status=2)
    check_in("nonsense", p.stderr(), "complaint")


def cleans_up_after_an_interrupt(case):
    p = case.start("setsid", os.environ["THAW"], "bench", "populate", "--rounds", "50",
                   env={"TMPDIR": case.dir})
    while not glob.glob(case.path("thaw-bench-*", "store0")):
        check(p.returncode() is None, "it has ended by itself")
    os.killpg(p.pid, signal.SIGINT)  # as ^C does
    p.expect_exit(1)
    check(not any(n.startswith("thaw-bench-") for n in os.listdir(case.dir)), "files are left")


# ---- throttle ----

KEPT = ["file", "memfd", "tiered"]  # by thaw
# What follows them, which a kernel may lack.
ALTERNATIVES = ["sync_file_range", "o_direct", "dontcache"]
THROTTLE_RATIOS = {"file_over_floor", "memfd_over_floor", "tiered_over_floor", "file_over_memfd",
                   "file_over_tiered", "file_throttled_ms", "memfd_throttled_ms",
                   "tiered_throttled_ms", "tiered_dirty_bytes", "tiered_peak_over_budget",
                   "store_p99_over_p50_file", "store_p99_over_p50_memfd",
                   "store_p99_over_p50_tiered"}
THROTTLE_FIGURES = {"wall_s", "mib_per_s", "cpu_s", "throttled_ms", "throttle_pauses",
                    "store_p50_ms", "store_p99_ms", "store_max_ms", "store_p99_over_p50",
                    "page_max_ms", "write_max_ms", "fetched_mib", "memory_mib", "dirty_mib",
                    "writeback_mib", "peak_mib", "files_dirty_bytes"}
THROTTLE_FACTS = {"memory_mib", "disk_mib", "store_mib_per_s", "device_mib_per_s", "budget_mib",
                  "throttle_source", "peak_source"}

# Run in a browser: what of the page is too wide, outside its drawing, or not drawn at all.
LOOK = """
const wrong = [];
if (document.documentElement.scrollWidth > innerWidth) wrong.push("the page is too wide");
for (const svg of document.querySelectorAll("svg[role=img]")) {
  const box = svg.getBoundingClientRect(), name = svg.getAttribute("aria-label");
  if (box.width < 900 || box.height < 100) wrong.push(name + " is small");
  let drawn = 0;
  for (const part of svg.querySelectorAll("text, path, rect")) {
    const b = part.getBoundingClientRect();
    if (b.left < box.left - 1 || b.right > box.right + 1 || b.top < box.top - 1 ||
        b.bottom > box.bottom + 1) wrong.push(name + ": outside: " + part.outerHTML.slice(0, 80));
    drawn += part.tagName != "text" && (b.width > 1 || b.height > 1);
  }
  if (drawn < 3) wrong.push(name + " is blank");
  const texts = [...svg.querySelectorAll("text")].map(t => t.getBoundingClientRect());
  texts.forEach((a, i) => texts.slice(i + 1).forEach(b => {
    if (a.left < b.right && b.left < a.right && a.top + 2 < b.bottom && b.top + 2 < a.bottom)
      wrong.push(name + ": one text upon another");
  }));
}
document.body.innerHTML = "<pre id=looked></pre>";
document.getElementById("looked").textContent = "LOOKED" + JSON.stringify(wrong) + "LOOKED";
"""


def find_browser():
    for name in ("chromium", "chromium-headless-shell", "google-chrome", "chrome"):
        if shutil.which(name):
            return shutil.which(name)
    return os.environ.get("THAW_CHROMIUM")


def bench_throttle(case, *args, size="64M", rounds="1", status=0):
    return case.thaw("bench", "throttle", "--size", size, "--rounds", rounds, *args,
                     env={"TMPDIR": case.dir}, status=status)


def skip_unless_possible(out):
    if "skipped" in out:
        skip(out["skipped"])


def read_file(path):
    with contextlib.suppress(OSError):
        with open(path, encoding="utf-8", errors="replace") as f:
            return f.read()
    return ""


def left_of_device(case):
    """What there is of a device that a benchmark in the case's directory has made, as a text."""
    left = [line for line in read_file("/proc/self/mounts").splitlines() if case.dir in line]
    for path in glob.glob("/sys/block/loop*/loop/backing_file"):
        # Its file has no name any more, but its folder is still told.
        if case.dir in read_file(path):
            left.append(f"{path}: {read_file(path).strip()}")
    return "; ".join(left)


def nothing_left(case):
    check(not glob.glob(case.path("thaw-bench-*")), "files are left")
    check_equal(left_of_device(case), "", "left of the device")


def wait_until(condition, what):
    until = time.monotonic() + DEADLINE
    while not condition():
        if time.monotonic() > until:
            fail(f"{what} has not come in {DEADLINE:.0f} s")
        select.select([], [], [], 0.01)  # leave the processors to those who are waited for


def start_throttle(case):
    """The benchmark, when caches lie on its device."""
    # As root it is permitted or not, which a small run that ends at once tells.
    skip_unless_possible(json.loads(bench_throttle(case, "--json", size="16M").stdout()))
    p = case.start("thaw", "bench", "throttle", "--size", "128M", "--rounds", "50",
                   env={"TMPDIR": case.dir})
    wait_until(lambda: p.returncode() is not None or
               glob.glob(case.path("thaw-bench-*", "capped-*", "caches", "*")), "a cache")
    check(p.returncode() is None, f"it has ended by itself: {p.stderr()}")
    return p


def throttle_reports(case):
    before = read_file("/proc/sys/kernel/task_delayacct")
    page = case.path("page.html")
    out = json.loads(bench_throttle(case, "--json", "--html", page).stdout())
    skip_unless_possible(out)
    check_equal(out["bench"], "throttle", "name")
    check_equal(set(out["ratios"]), THROTTLE_RATIOS, "ratios")
    check(THROTTLE_FACTS <= set(out["environment"]), f"environment {out['environment']}")
    rows = {row["name"]: row for row in out["rows"]}
    check_equal(list(rows)[:4], ["floor", *KEPT], "the first rows")
    check(set(rows) <= {"floor", *KEPT, *ALTERNATIVES}, f"rows {list(rows)}")
    for name, row in rows.items():
        bounded = {"peak_over_budget"} if name == "tiered" else set()
        check_equal(set(row) - {"name"} | {"files_dirty_bytes"}, THROTTLE_FIGURES | bounded,
                    f"figures of {name}")
        for figure in set(row) - {"name"}:
            check_equal(set(row[figure]), {"min", "median", "max", "rounds"}, f"{name}: {figure}")
        check(row["wall_s"]["median"] > 0, f"{name} took no time")
        # Who does not keep all that it has fetched may fetch a granule again.
        fetched = row["fetched_mib"]["median"]
        check(fetched >= 64 if name in ("floor", "tiered") else fetched == 64,
              f"{name} fetched {fetched}")
    for name in ("floor", "memfd", "tiered"):
        # Sources that are not exact also count waits for other reasons.
        if out["environment"]["throttle_source"] in ("bpf", "perf"):
            check_equal(rows[name]["throttle_pauses"]["max"], 0.0, f"pauses of {name}")
        for figure in ("dirty_mib", "writeback_mib"):  # the file system may keep its own books
            check(rows[name][figure]["max"] < 2, f"{figure} of {name}: {rows[name][figure]}")
    check(rows["memfd"]["memory_mib"]["median"] >= 64 + 16, "memory of memfd")
    check_memory(out, rows)
    check(rows["floor"]["memory_mib"]["median"] < rows["memfd"]["memory_mib"]["median"] - 32,
          "the floor keeps what it has fetched")
    check_equal(read_file("/proc/sys/kernel/task_delayacct"), before, "task_delayacct")
    nothing_left(case)
    check_page(case, page, rows)


def check_memory(out, rows):
    """What the rows took, whichever account tells; and that both accounts can tell anything."""
    budget = out["environment"]["budget_mib"]
    check(rows["memfd"]["peak_mib"]["median"] >= 64 + 16, f"peak of memfd {rows['memfd']}")
    check(rows["tiered"]["peak_mib"]["median"] >= budget / 2, f"peak of tiered {rows['tiered']}")
    check(out["ratios"]["tiered_peak_over_budget"] <= 1.05, f"tiered took {rows['tiered']}")
    if "files_dirty_bytes" in rows["file"]:
        check(rows["file"]["files_dirty_bytes"]["median"] > 1 << 20, "file has made nothing dirty")
        check_equal(rows["memfd"]["files_dirty_bytes"]["max"], 0, "memfd has made files dirty")
        check_equal(rows["tiered"]["files_dirty_bytes"]["max"], 0, "tiered has made files dirty")
    groups = [p for p in glob.glob("/sys/fs/cgroup/memory/**/thaw-bench-*", recursive=True)
              if os.path.isdir(p) and not os.path.exists(f"/proc/{p.rsplit('-', 1)[1]}")]
    check_equal(groups, [], "groups that are left")


def check_page(case, page, rows):
    text = read_file(page)
    check(not re.search(r"<script|<link|<img|src=|href=|url\(|@import", text), "references")
    check_in("prefers-color-scheme:dark", text, "style")
    body = xml.dom.minidom.parseString(text[text.index("<body>"):text.index("</html>")])
    for row in rows:
        shown = [e for e in body.getElementsByTagName("text")
                 if e.firstChild and e.firstChild.data == row]
        check_equal(len(shown), 2, f"lanes named {row}")
    lines = [e for e in body.getElementsByTagName("path")
             if e.getAttribute("class").startswith("served")]
    check_equal(len(lines), 2 * len(rows), "lines and their keys")
    check_equal(sorted(n for n in os.listdir(case.dir) if n.startswith("page")), ["page.html"],
                "files beside the page")


def page_is_drawn(case):
    browser = find_browser()
    if not browser:
        skip("no Chromium is installed")
    page, copy = case.path("page.html"), case.path("copy.html")
    skip_unless_possible(json.loads(bench_throttle(case, "--json", "--html", page).stdout()))
    with open(copy, "w", encoding="utf-8") as f:
        f.write(read_file(page).replace("</body>", f"<script>{LOOK}</script></body>"))
    p = case.run(browser, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=1280,2000",
                 f"--user-data-dir={case.path('profile')}", "--dump-dom", f"file://{copy}")
    looked = p.stdout().split("LOOKED")
    check_equal(len(looked), 3, "what the browser says")
    check_equal(json.loads(looked[1].replace("&lt;", "<").replace("&gt;", ">")
                           .replace("&amp;", "&")), [], "what is wrong with the page")


def throttle_is_skipped_without_root(case):
    setpriv = shutil.which("setpriv")
    argv = ["thaw"]
    if os.geteuid() == 0:
        if not setpriv:
            skip("setpriv is not here, and root may do all of it")
        os.chmod(case.dir, 0o777)
        argv = [setpriv, "--reuid=65534", "--regid=65534", "--clear-groups", os.environ["THAW"]]
    for args in (["--json"], []):
        p = case.run(*argv, "bench", "throttle", "--size", "16M", *args,
                     env={"TMPDIR": case.dir})
        if args:
            out = json.loads(p.stdout())
            check_equal((out["bench"], out["rows"], out["ratios"]), ("throttle", [], {}), "report")
            check(out["skipped"], "no reason")
        else:
            check_in("skipped: ", p.stdout(), "what it says")
    nothing_left(case)


def throttle_refuses(case):
    for size, word in (("17M", "multiple of"), ("1M", "at least"), ("4G", "too large"),
                       ("100T", "too large")):
        p = bench_throttle(case, size=size, status=1)
        check_in(word, p.stderr(), f"complaint about --size {size}")
    page = case.path("missing", "page.html")
    check_in(page, bench_throttle(case, "--html", page, size="16M", status=1).stderr(),
             "complaint about --html")
    check_in("--size", case.thaw("bench", "fault", "--size", "64M", status=2).stderr(), "fault")
    check_in("--html", case.thaw("bench", "fault", "--html", "x", status=2).stderr(), "fault")
    check_in("--size", bench_throttle(case, size="many", status=2).stderr(), "no number")
    nothing_left(case)


def throttle_ends_by_signals(case):
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        p = start_throttle(case)
        p.signal(number)
        p.expect_exit(1)
        check_in(f"signal {int(number)}", p.stderr(), "what it says")
        nothing_left(case)


def throttle_survives_being_killed(case):
    p = start_throttle(case)
    p.kill()
    # Its device is taken apart by somebody else, its folder removed by whoever runs next.
    wait_until(lambda: not left_of_device(case), "the end of the device")
    wait_until(lambda: not glob.glob(case.path("thaw-bench-*", "capped-*")), "its end")
    check(glob.glob(case.path("thaw-bench-*")), "who removed the folder?")
    skip_unless_possible(json.loads(bench_throttle(case, "--json", size="16M").stdout()))
    nothing_left(case)


# ---- tiered ----

def bench_sized(case, name, size, *args, rounds="1", status=0):
    return case.thaw("bench", name, "--size", size, "--rounds", rounds, *args,
                     env={"TMPDIR": case.dir}, status=status)


def timed_bench(case, name, size, **options):
    """What it reports, and the seconds that it took: none of its figures can be longer."""
    begin = time.monotonic()
    p = bench_sized(case, name, size, "--json", **options)
    return json.loads(p.stdout()), time.monotonic() - begin


def check_range(value, least, most, what):
    check(least <= value <= most, f"{what}: {value} is not within {least} and {most}")


def check_fits(wall_s, cpu_s, elapsed_s, what):
    check_range(wall_s, 1e-6, elapsed_s, f"seconds of {what}")
    check_range(cpu_s, 1e-6, elapsed_s * os.cpu_count(), f"processor seconds of {what}")


def huge_pages():
    return read_file("/proc/sys/vm/nr_hugepages").strip()


def check_random(row, granules, elapsed_s):
    name = row["name"]
    for figure in ("us_per_miss", "cpu_us_per_page"):
        check(min(row[figure][who]["median"] for who in ("thaw", "floor")) > 0,
              f"{figure} of {name}: {row}")
    # Memory for an eighth, some of which is what was read last. No granule is missed twice.
    missed, read = row["missed"]["median"], row["read_over_missed"]["median"]
    check_range(missed, 0.8, 1.05, f"{name} has missed")
    check_range(read, 0.5, 8, f"{name} has read")
    check_range(row["from_disk"]["median"], 0.001, 1, f"{name} from the disk tier")
    misses = missed * granules
    check_fits(row["us_per_miss"]["thaw"]["median"] * misses / 1e6,
               row["cpu_us_per_page"]["thaw"]["median"] * misses * read * 16 / 1e6, elapsed_s, name)


def check_sequential(row, granules, elapsed_s):
    fetched = row["fetched_over_image"]
    check_range(fetched["thaw"]["median"], 1, 16, "what thaw fetched")
    check_range(fetched["floor"]["median"], 1, 1.01, "fetched with room for everything")
    for who in ("thaw", "floor"):
        check_fits(row["wall_s"][who]["median"],
                   row["cpu_us_per_page"][who]["median"] * granules * 16 / 1e6, elapsed_s, who)


def bounded_completes(case):
    before = huge_pages()
    out, elapsed_s = timed_bench(case, "bounded", "64M")  # a guest finds wrong bytes: it fails
    granules = 64 << 20 >> 16
    check_equal(set(out["ratios"]), {"sequential_over_unbounded", "random_over_device",
                                     "random_over_device_alone", "refill_cpu_over_device",
                                     "large_completes", "huge_completes"}, "ratios")
    rows = {row["name"]: row for row in out["rows"]}
    check_equal(out["environment"]["budget_mib"], 8.0, "budget")
    check_equal(out["ratios"]["large_completes"], 1.0, "large")
    if "2 MiB pages" in rows:
        check_equal(out["ratios"]["huge_completes"], 1.0, "2 MiB pages")
    else:
        check_equal(out["ratios"]["huge_completes"], None, "2 MiB pages")
    check_sequential(rows["sequential"], granules, elapsed_s)
    for name in ("random, 16 at a time", "random, 1 at a time"):
        check_random(rows[name], granules, elapsed_s)
    check_range(rows["large"]["fetched_over_image"]["median"], 1, 16, "what large fetched")
    check_range(rows["large"]["wall_s"]["median"], 1e-6, elapsed_s, "seconds of large")
    check_equal(huge_pages(), before, "huge pages")
    check(not glob.glob(case.path("thaw-bench-*")), "files are left")


def restart_finds_what_was_written(case):
    # Two rounds, so that what the one has left is not there for the next.
    out, elapsed_s = timed_bench(case, "restart", "32M", rounds="2")
    check_equal(set(out["ratios"]), {"from_disk", "warm_over_cold", "store_mib_warm"}, "ratios")
    rows = {row["name"]: row for row in out["rows"]}
    check_equal(list(rows), ["cold", "warm"], "rows")
    check_equal(rows["cold"]["from_disk"]["max"], 0.0, "from a disk tier that was empty")
    for bound in ("min", "max"):
        check_range(rows["cold"]["store_mib"][bound], 32, 33, "MiB of the store")
    check(out["ratios"]["from_disk"] >= 0.95, f"from_disk {rows['warm']}")
    # What was not from the disk was from the store.
    check_range(rows["warm"]["store_mib"]["max"],
                *((1 - rows["warm"]["from_disk"]["min"]) * 32 + d for d in (-0.5, 0.5)),
                "MiB of the store, warm")
    for name, row in rows.items():
        check_fits(row["wall_s"]["median"], row["cpu_s"]["median"], elapsed_s, name)
    check(not glob.glob(case.path("thaw-bench-*")), "files are left")


def tiered_benches_refuse(case):
    for name, size, word in (("bounded", "32M", "at least"), ("bounded", "8G", "at most"),
                             ("bounded", "65M", "multiple of"), ("restart", "8M", "at least"),
                             ("restart", "100T", "at most")):
        check_in(word, bench_sized(case, name, size, status=1).stderr(), f"{name} --size {size}")
        check_in("--html", case.thaw("bench", name, "--html", "x", status=2).stderr(), name)


if __name__ == "__main__":
    main(prints_rows_and_ratios, cleans_up_after_an_interrupt, throttle_reports, page_is_drawn,
         throttle_is_skipped_without_root, throttle_refuses, throttle_ends_by_signals,
         throttle_survives_being_killed, bounded_completes, restart_finds_what_was_written,
         tiered_benches_refuse)

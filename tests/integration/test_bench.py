#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""The benchmarks run, leave nothing behind, and print what they promise. No figure is judged."""

import glob
import json
import os
import signal
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))

# pylint: disable=wrong-import-position
from thawtest import check, check_equal, check_in, main

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


if __name__ == "__main__":
    main(prints_rows_and_ratios, cleans_up_after_an_interrupt)

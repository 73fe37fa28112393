#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Has spin search all states of a model: check_model.py CC MODEL [VARIANT]...

The model must hold, and each of its assertions must have been looked at. Each VARIANT, a macro that
breaks something, must be caught: a model that cannot fail proves nothing.
"""

import os
import re
import shutil
import subprocess
import sys
import tempfile

SKIP = 77
MAX_DEPTH = 5000000  # steps from the first state
MAX_MIB = 2048
MAX_SECONDS = 240


def fail(text, output=""):
    print(f"{text}\n{output[-4000:]}", flush=True)
    sys.exit(1)


def run(argv, folder):
    done = subprocess.run(argv, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          text=True, timeout=MAX_SECONDS, check=False)
    return done.returncode, done.stdout


def search(compiler, model, variant, folder):
    """(number of errors, what pan said), for the model or a variant of it."""
    defines = [f"-D{variant}"] if variant else []
    for argv in (["spin", *defines, "-a", model],
                 [*compiler, "-O2", "-w", "-DSAFETY", "-DCOLLAPSE", f"-DMEMLIM={MAX_MIB}",
                  "-o", "pan", "pan.c"]):
        status, output = run(argv, folder)
        if status != 0 or "rror:" in output:
            fail(f"{' '.join(argv)}: status {status}", output)
    _, output = run(["./pan", f"-m{MAX_DEPTH}"], folder)
    errors = re.search(r"errors: (\d+)", output)
    if not errors:
        fail("pan has not said how many errors there are", output)
    return int(errors.group(1)), output


def assertions_not_reached(output, folder):
    """Lines with an assertion of which no copy was reached: an inline has one for each use."""
    unreached, copies = {}, {}
    for line in re.findall(r"\.pml:(\d+), state \d+, \"assert", output):
        unreached[line] = unreached.get(line, 0) + 1
    _, table = run(["./pan", "-d"], folder)
    for line in re.findall(r"\.pml:(\d+) =.*assert", table):
        copies[line] = copies.get(line, 0) + 1
    if not copies:
        fail("no assertion was found in the table of pan", table)
    return [line for line, n in unreached.items() if n >= copies.get(line, 0)]


def main():
    compiler, model, variants = sys.argv[1].split(), os.path.abspath(sys.argv[2]), sys.argv[3:]
    if not shutil.which("spin"):
        print("spin, the model checker, is not installed: apt-get install spin")
        sys.exit(SKIP)
    with tempfile.TemporaryDirectory(prefix="model-", dir=os.getcwd()) as folder:
        errors, output = search(compiler, model, None, folder)
        if errors > 0:
            fail("the model does not hold", output)
        for limit in ("max search depth too small", "Search not completed"):
            if limit in output:
                fail(f"not all was searched: {limit}", output)
        print(re.search(r"\d+ states, stored", output).group(0), flush=True)
        missed = assertions_not_reached(output, folder)
        if missed:
            fail(f"assertions that were never looked at, in lines {', '.join(missed)}", output)
        for variant in variants:
            errors, output = search(compiler, model, variant, folder)
            if errors == 0:
                fail(f"the model holds even with {variant}", output)
            print(f"{variant} is caught", flush=True)


main()

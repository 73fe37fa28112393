#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Metrics as others see them: their manual, their two formats, their HTTP server, and what a real
Prometheus makes of them. metrics_program is what has them.
"""

import http.client
import json
import math
import os
import random
import re
import signal
import socket
import subprocess
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "lib"))
# pylint: disable=wrong-import-position
from prometheus import Prometheus, parse_protobuf, parse_text, promtool_lint  # noqa: E402
from thawtest import (DEADLINE, check, check_equal, check_in, fd_count, find_program,  # noqa: E402
                      main, require_program, thread_count)

MANUAL = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "docs", "man",
                      "thaw-metrics.7.scd")
STORE = "orchestrator_blocks_chunks_store_milliseconds"
SUCCESS = (("result", "success"),)
PROTOBUF = ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;"
            "encoding=delimited")
LADDER = [2.0 ** k for k in range(-10, 18)]
CONNECTIONS = 32  # METRICS_SERVER_CONNECTIONS


# ---- the manual ----

def registry():
    out = subprocess.run([find_program("metrics_program"), "list"], stdout=subprocess.PIPE,
                         timeout=DEADLINE, check=True, text=True).stdout
    return [json.loads(line) for line in out.splitlines()]


# A metric in the manual: its name, then three indented paragraphs.
ENTRY = re.compile(r"^\*([a-z_.]+\.[a-z_.]+)\*\n\t(.+)\n\n\t(.+)\n\n\t(\S.*)", re.MULTILINE)


def manual(_):
    """The list in thaw-metrics(7) says what the program says, both ways."""
    with open(MANUAL, encoding="utf-8") as f:
        text = f.read().replace("\\", "")
    described = {name: (prometheus, kind) for name, prometheus, kind, _ in ENTRY.findall(text)}
    check_equal(len(described), len(re.findall(r"^\*.*\..*\*$", text, re.MULTILINE)),
                "entries of the manual that are complete and of different metrics")
    expected = {}
    for m in registry():
        attributes = [f"{name}: {', '.join(values)}" if name != "version" else name
                      for name, values in m["attributes"].items()]
        kind = m["type"] + (", " + m["unit"] if m["unit"] else "")
        expected[m["name"]] = (m["prometheus"], "; ".join([kind, *attributes]))
    check_equal(sorted(described), sorted(expected), "metrics in the manual")
    for name, entry in expected.items():
        check_equal(described[name], entry, f"what the manual says of {name}")


# ---- the formats ----

def encode(kind, values):
    text = " ".join(repr(v) for v in values)
    return subprocess.run([find_program("metrics_program"), "encode", kind], input=text.encode(),
                          stdout=subprocess.PIPE, timeout=DEADLINE, check=True).stdout


def expected_native(values):
    """What a native histogram of @values must be, by logarithms."""
    positive = [v for v in values if v > 1e-128]

    def index(v, schema):
        mantissa, exponent = math.frexp(v)
        if mantissa == 0.5:  # a power of two: no logarithm is exact enough
            return math.ceil((exponent - 1) * 2.0 ** schema)
        return math.ceil(math.log2(v) * 2.0 ** schema)

    schema = 20
    while positive and index(max(positive), schema) - index(min(positive), schema) >= 160:
        schema -= 1
    schema = min(schema, 8)
    buckets = {}
    for v in positive:
        buckets[index(v, schema)] = buckets.get(index(v, schema), 0) + 1
    return schema, buckets, len(values) - len(positive)


def check_same(histogram, values, what):
    schema, buckets, zeros = expected_native(values)
    check_equal(histogram["schema"], schema, f"schema of {what}")
    check_equal({i: n for i, n in histogram["buckets"].items() if n}, buckets, f"buckets of {what}")
    check_equal(histogram["zero_count"], zeros, f"zero bucket of {what}")
    check_equal(histogram["zero_threshold"], 1e-128, f"zero threshold of {what}")
    check_equal(histogram["count"], len(values), f"count of {what}")
    total = math.fsum(max(v, 0) for v in values)
    check(abs(histogram["sum"] - total) <= 1e-9 * total, f"sum of {what}")


def formats(_):
    """Both formats say of any values what is true of them."""
    rng = random.Random(1)
    cases = [[], [0.0], [1.0], [-1.0, 0.0, 1e-200], [1.0, 2.0, 4.0, 4.0], [1e300, 1e-120],
             [3.0] * 300 + [3.0000001]]
    for spread in (0.001, 0.5, 5, 30, 150, 400):
        for n in (5, 100, 3000):
            cases.append([2 ** rng.uniform(-spread / 2, spread / 2) for _ in range(n)])
    for number, values in enumerate(cases):
        what = f"case {number}, {len(values)} values"
        samples, types = parse_protobuf(encode("protobuf", values))
        check_same(samples[STORE, SUCCESS], values, what)
        check_equal(samples[STORE, SUCCESS]["spans"] == [],
                    not [v for v in values if v > 1e-128], f"spans of {what}")
        text, text_types = parse_text(encode("text", values).decode())
        check_equal(text_types, types, "types in the two formats")
        bounds = [(bound, format(bound, ".17g")) for bound in LADDER] + [(math.inf, "+Inf")]
        exact = samples[STORE, SUCCESS]["schema"] >= 0
        for bound, written in bounds:
            below = sum(v <= bound for v in values)
            got = text[STORE + "_bucket", (("le", written), *SUCCESS)]
            check(got == below if exact or bound == math.inf else got <= below,
                  f"values up to {bound} of {what}: {got}, expected {below}")
            check_equal(samples[STORE, SUCCESS]["classic"].get(bound, got), got,
                        f"classic bucket {bound} of {what}")
        check_equal(text[STORE + "_count", SUCCESS], len(values), f"count of {what}")
        check_equal(text[STORE + "_sum", SUCCESS], samples[STORE, SUCCESS]["sum"], what)


def first_scrape(case):
    """All that can ever be there is there from the first scrape, with 0."""
    promtool = require_program("promtool", "install the package prometheus")
    text = encode("text", []).decode()
    samples, types = parse_text(text)
    check_equal(types, {m["prometheus"]: m["type"] for m in registry()}, "families")
    for m in registry():
        series = math.prod(len(v) for v in m["attributes"].values())
        suffixes = [""]
        if m["type"] == "histogram":
            series *= len(LADDER) + 3
            suffixes = ["_bucket", "_sum", "_count"]
        names = {m["prometheus"] + suffix for suffix in suffixes}
        found = {key: v for key, v in samples.items() if key[0] in names}
        check_equal(len(found), series, f"series of {m['name']}")
        if m["name"] == "process.start_time":
            check(found[m["prometheus"], ()] > 1e9, "the process started long ago")
        else:
            value = 1 if m["name"] == "thaw.build_info" else 0
            check_equal(set(found.values()), {value}, f"values of {m['name']}")
    check_in(STORE + "_count", {key[0] for key in samples}, "the first scrape")
    status, lines = promtool_lint(promtool, text)
    # It would have seconds; the names, and so their unit, are not for us to choose.
    expected = [f'{m["prometheus"]} use base unit "seconds" instead of "milliseconds"'
                for m in registry() if m["unit"] == "ms"]
    check_equal((status, sorted(lines)), (3, sorted(expected)), "what promtool objects to")
    check_equal(promtool_lint(promtool, "\n".join(
        line for line in text.splitlines() if "milliseconds" not in line) + "\n"), (0, []),
        "what promtool objects to in all others")
    check_equal(promtool_lint(promtool, "a{ 1\n")[0], 1, "what promtool says of nonsense")
    case.no_leftovers()


# ---- HTTP ----

class UnixConnection(http.client.HTTPConnection):
    def __init__(self, path):
        super().__init__("localhost", timeout=DEADLINE)
        self.path = path

    def connect(self):
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(DEADLINE)
        self.sock.connect(self.path)


def connection(address):
    if address.startswith("unix:"):
        return UnixConnection(address.removeprefix("unix:"))
    host, _, port = address.rpartition(":")
    return http.client.HTTPConnection(host.strip("[]"), int(port), timeout=DEADLINE)


def request(address, path="/metrics", method="GET", headers=(), body=None):
    """Status, header fields and body of an answer."""
    c = connection(address)
    try:
        c.putrequest(method, path)
        for name, value in headers:
            c.putheader(name, value)
        if body is not None:
            c.putheader("Content-Length", str(len(body)))
        c.endheaders(body)
        r = c.getresponse()
        return r.status, r.headers, r.read()
    finally:
        c.close()


def serve(case, address="127.0.0.1:0"):
    p = case.start("metrics_program", "serve", address)
    return p, p.ready()["address"]


def http_answers(case):
    p, address = serve(case)
    status, fields, body = request(address)
    check_equal((status, fields["Content-Type"]), (200, "text/plain; version=0.0.4; charset=utf-8"),
                "a plain scrape")
    samples, types = parse_text(body.decode())
    check_equal(samples[STORE + "_count", SUCCESS], 10000, "values that were recorded")

    status, fields, body = request(address, headers=[("Accept", PROTOBUF + ", text/plain;q=0.5")])
    check_equal((status, fields["Content-Type"]),
                (200, "application/vnd.google.protobuf; proto=io.prometheus.client.MetricFamily;"
                      " encoding=delimited"), "a scrape that wants protobuf")
    native, native_types = parse_protobuf(body)
    check_equal(native_types, types, "families in protobuf")
    check_same(native[STORE, SUCCESS], distribution(), "what was recorded")

    # Several fields are one, whatever their case.
    status, fields, _ = request(address, headers=[("accept", "text/plain;q=0.5"),
                                                  ("ACCEPT", PROTOBUF)])
    check_in("protobuf", fields["Content-Type"], "two Accept fields")

    status, fields, body = request(address, method="HEAD")
    check_equal((status, body), (200, b""), "HEAD")
    check(int(fields["Content-Length"]) > 1000, "the length that HEAD tells")
    check_equal(request(address, "/healthz")[0::2], (200, b"ok\n"), "healthz")
    for path in ("/", "/metrics/", "/../etc/passwd", "/metric", "/" + "a" * 4000):
        check_equal(request(address, path)[0], 404, path[:20])
    for method in ("POST", "PUT", "DELETE", "OPTIONS", "XYZ"):
        status, fields, _ = request(address, method=method, body=b"x" * 100000)
        check_equal((status, fields["Allow"]), (405, "GET, HEAD"), method)
    check_equal(request(address, "/metrics?name=value")[0], 200, "with a query")
    check_in("thaw-http", thread_names(p.pid), "names of threads")
    p.stop()


def thread_names(pid):
    names = set()
    for task in os.listdir(f"/proc/{pid}/task"):
        with open(f"/proc/{pid}/task/{task}/comm", encoding="utf-8") as f:
            names.add(f.read().strip())
    return names


def raw_connection(address):
    host, _, port = address.rpartition(":")
    s = socket.create_connection((host, int(port)), timeout=DEADLINE)
    return s


def http_bad_clients(case):
    """Nonsense, silence and hang-ups are their own clients' trouble only."""
    p, address = serve(case)
    for nonsense in (b"\0" * 100 + b"\r\n\r\n", b"GET\r\n\r\n", b"A" * 100000,
                     b"GET /metrics HTTP/9.9\r\n\r\n",
                     b"GET /metrics HTTP/1.1\r\n" + b"X: " + b"y" * 60000 + b"\r\n\r\n",
                     b"GET /metrics HTTP/1.1\r\nHost: a\r\nAccept: \xff\xfe;q=9\r\n\r\n"):
        with raw_connection(address) as s:
            try:
                s.sendall(nonsense)
                s.shutdown(socket.SHUT_WR)
                while s.recv(65536):
                    pass
            except OSError:
                pass  # closed while we were still talking
        check_equal(request(address, "/healthz")[0], 200, f"after {nonsense[:30]}")

    # Fewer than there may be: they say half a request, and keep nobody from being served.
    idle = [raw_connection(address) for _ in range(CONNECTIONS - 2)]
    for s in idle:
        s.sendall(b"GET /metrics HTTP/1.1\r\nHost:")
    check_equal(request(address)[0], 200, "a scrape beside silent clients")
    # More than there may be: no descriptors beyond the limit, and once they go it goes on.
    before = fd_count(p.pid)
    idle += [raw_connection(address) for _ in range(16)]
    check(fd_count(p.pid) <= before + 3, f"{before} descriptors have become {fd_count(p.pid)}")
    threads = thread_count(p.pid)
    for s in idle:
        s.close()
    check_equal(request(address)[0], 200, "a scrape after them")
    check_equal(thread_count(p.pid), threads, "threads")

    # Ended while one is in the middle of it.
    with raw_connection(address) as s:
        s.sendall(b"GET /metrics HTTP/1.1\r\n")
        p.stop()
        try:
            check_equal(s.recv(1), b"", "what the client sees of the end")
        except ConnectionResetError:
            pass


def http_addresses(case):
    path = case.path("metrics.sock")
    for address, expected in (("127.0.0.1:0", r"127\.0\.0\.1:[1-9]\d*"),
                              ("localhost:0", r"(127\.0\.0\.1|\[::1\]):[1-9]\d*"),
                              ("[::1]:0", r"\[::1\]:[1-9]\d*"),
                              ("[127.0.0.1]:0", r"127\.0\.0\.1:[1-9]\d*"),
                              (":0", r"(0\.0\.0\.0|\[::\]):[1-9]\d*"),
                              ("unix:" + path, re.escape("unix:" + path))):
        if address == "[::1]:0" and not has_ipv6():
            continue
        p, bound = serve(case, address)
        check(re.fullmatch(expected, bound), f"{address} has become {bound}")
        check_equal(request(bound, "/healthz")[0], 200, address)
        if address.startswith("unix:"):
            check_equal(os.stat(path).st_mode & 0o777, 0o600, "mode of the socket")
        p.stop()
    check(not os.path.exists(path), "the socket file is left")

    # What a killed one leaves behind is in nobody's way; what is alive is.
    p, bound = serve(case, "unix:" + path)
    refused(case, "unix:" + path, "in use", "choose another path")
    p.kill()
    p, bound = serve(case, "unix:" + path)
    check_equal(request(bound, "/healthz")[0], 200, "a socket file that was left behind")
    p.stop()
    p, bound = serve(case)
    refused(case, bound, "in use", "choose another port")
    p.stop()

    with open(path, "w", encoding="ascii") as f:
        f.write("precious")
    refused(case, "unix:" + path, "in use")
    check_equal(os.path.getsize(path), 8, "a file that is no socket")
    os.unlink(path)
    refused(case, "unix:", "path of a socket is empty")
    refused(case, "unix:/" + "a" * 200, "limit is 107 characters")
    refused(case, "unix:/nowhere/at/all", "No such file")
    for address in ("", "localhost", "127.0.0.1:", ":", "127.0.0.1:65536", "127.0.0.1:-1",
                    "127.0.0.1:+1", "127.0.0.1: 80", "127.0.0.1:80x", "127.0.0.1:999999"):
        refused(case, address, "HOST:PORT")
    refused(case, "::1:80", "brackets")
    refused(case, "no.such.host.invalid:80", "no.such.host.invalid")
    refused(case, "192.0.2.1:0", "192.0.2.1")  # RFC 5737: nobody's
    refused(case, "a" * 300 + ":80", "too long")


def has_ipv6():
    try:
        with socket.socket(socket.AF_INET6) as s:
            s.bind(("::1", 0))
        return True
    except OSError:
        return False


def refused(case, address, *parts):
    p = case.run("metrics_program", "serve", address, status=1)
    for part in parts:
        check_in(part, p.stderr(), f"the error for {address!r}")


# ---- Prometheus ----

def distribution():
    """What metrics_program records: 16 octaves."""
    return [2 ** (-8 + 16 * i / 9999) for i in range(10000)]


def number(result):
    return float(result[0]["value"][1])


def prometheus(case):
    """A real server takes the native histogram and answers from it as is true."""
    program = require_program("prometheus", "install the package prometheus")
    p, address = serve(case)
    server = Prometheus(case, program, address)
    server.wait_for('up{job="thaw"}', lambda r: number(r) == 1)

    # Each scrape sees 100 more: the samples, and the rate that follows from them. (A scrape that
    # took longer than Prometheus waits was answered, too, and leaves no sample.)
    counter = 'thaw_nbd_requests_total{op="read",result="success"}'
    series = server.wait_for(counter + "[1m]", lambda r: len(r[0]["values"]) >= 4)[0]["values"]
    values = [float(v) for _, v in series]
    steps = [b - a for a, b in zip(values, values[1:])]
    check(all(step > 0 and step % 100 == 0 for step in steps), f"steps of the counter: {steps}")
    (t1, _), (t2, _) = series[-2:]
    rate = server.query(f"irate({counter}[1m])", time=t2)
    check(abs(number(rate) * (t2 - t1) - steps[-1]) < 0.01, f"rate {rate} over {t2 - t1} s")

    # Only a native histogram has histogram_count(), and it has no series of buckets.
    stored = STORE + '{result="success"}'
    count = server.wait_for(f"histogram_count({stored})", lambda r: True)
    check_equal(number(count), 10000, "count of the native histogram")
    total = number(server.query(f"histogram_sum({stored})"))
    check(abs(total / math.fsum(distribution()) - 1) < 1e-9, f"sum {total}")
    check_equal(server.query(STORE + "_bucket"), [], "classic buckets beside native ones")
    schema = expected_native(distribution())[0]
    check_equal(schema, 3, "schema of 16 octaves")
    for q in (0.01, 0.25, 0.5, 0.95, 0.99):
        estimate = number(server.query(f"histogram_quantile({q}, {stored})"))
        true = distribution()[math.ceil(q * 10000) - 1]
        # It is in the bucket that the true one is in.
        high = 2 ** (math.ceil(math.log2(true) * 2 ** schema) / 2 ** schema)
        check(high / 2 ** (2.0 ** -schema) * (1 - 1e-9) <= estimate <= high * (1 + 1e-9),
              f"quantile {q}: {estimate}, not {true}")
    # One that has seen nothing is a native histogram, too.
    empty = server.query(f'histogram_count({STORE}{{result="failure"}})')
    check_equal([number(empty)] if empty else empty, [0.0], "count of the empty histogram")
    server.program.signal(signal.SIGTERM)
    server.program.wait()
    p.stop()


if __name__ == "__main__":
    GROUPS = {
        "metrics-formats": [manual, formats],
        "metrics-lint": [first_scrape],
        "metrics-http": [http_answers, http_bad_clients, http_addresses],
        "metrics-prometheus": [prometheus],
    }
    tests = GROUPS[sys.argv.pop(1)]
    main(*tests)

# SPDX-License-Identifier: Apache-2.0
"""What the metrics tests know of Prometheus: its two formats, read by the letter of their
descriptions and without anything of thaw's, and a server of it that scrapes one address.
"""

import json
import re
import struct
import subprocess
import time
import urllib.error
import urllib.parse
import urllib.request

from thawtest import DEADLINE, check, fail

# ---- text format 0.0.4 ----

_SAMPLE = re.compile(r'([a-zA-Z_:][a-zA-Z0-9_:]*)(?:\{(.*)\})? (\S+)')
_LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="([^"\\]*)"(?:,|$)')


def parse_text(text):
    """{(name, ((label, value), ...)): number} and {family: type} of a text exposition."""
    check(text.endswith("\n"), "the last line does not end")
    samples, types = {}, {}
    for line in text.splitlines():
        if line.startswith("# TYPE "):
            _, _, name, kind = line.split(" ")
            check(name not in types, f"two types for {name}")
            types[name] = kind
            continue
        if line.startswith("# HELP "):
            continue
        match = _SAMPLE.fullmatch(line)
        check(match, f"not a sample: {line!r}")
        labels = _LABEL.findall(match[2] or "")
        check(",".join(f'{k}="{v}"' for k, v in labels) == (match[2] or ""),
              f"labels: {line!r}")
        key = (match[1], tuple(sorted(labels)))
        check(key not in samples, f"twice: {line!r}")
        samples[key] = float(match[3])
    return samples, types


# ---- protobuf: io.prometheus.client.MetricFamily, each after its length ----

def _varint(data, at):
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 0x7f) << shift
        shift += 7
        if byte < 0x80:
            check(value < 1 << 64, "a varint is too long")
            return value, at


def _fields(data):
    """The fields of a message in order: (number, value); bytes for messages and strings."""
    at, found = 0, []
    while at < len(data):
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 0:
            value, at = _varint(data, at)
        elif kind == 1:
            value, = struct.unpack_from("<d", data, at)
            at += 8
        elif kind == 2:
            length, at = _varint(data, at)
            value = data[at:at + length]
            check(len(value) == length, "a field is longer than its message")
            at += length
        else:
            fail(f"wire type {kind}")
        found.append((key >> 3, value))
    return found


def _unzigzag(v):
    return v >> 1 ^ -(v & 1)


def _packed(data):
    at, values = 0, []
    while at < len(data):
        value, at = _varint(data, at)
        values.append(_unzigzag(value))
    return values


def _native(fields):
    """schema, zero threshold, zero count, {index of upper bound: count} and the classic buckets."""
    one = dict(fields)
    spans = [dict(_fields(value)) for number, value in fields if number == 12]
    deltas = [d for number, value in fields if number == 13 for d in _packed(value)]
    check(not {9, 10, 11} & set(one), "there are negative buckets")
    buckets, index, count = {}, 0, 0
    for span in spans:
        index += _unzigzag(span.get(1, 0))
        for _ in range(span.get(2, 0)):
            count += deltas.pop(0)
            buckets[index] = count
            index += 1
    check(not deltas, "more deltas than the spans have buckets")
    classic = [dict(_fields(value)) for number, value in fields if number == 3]
    return {"count": one.get(1, 0), "sum": one.get(2, 0.0), "schema": _unzigzag(one[5]),
            "zero_threshold": one[6], "zero_count": one.get(7, 0), "buckets": buckets,
            "spans": spans, "classic": {b[2]: b.get(1, 0) for b in classic}}


def parse_protobuf(data):
    """{(name, ((label, value), ...)): number or histogram} and {family: type}."""
    at, samples, types = 0, {}, {}
    kinds = {0: ("counter", 3), 1: ("gauge", 2), 4: ("histogram", 7)}
    while at < len(data):
        length, at = _varint(data, at)
        family = _fields(data[at:at + length])
        check(len(data) >= at + length, "the last family is cut")
        at += length
        name = dict(family)[1].decode()
        kind, field = kinds[dict(family).get(3, 0)]
        check(dict(family)[2], f"{name} has no help")
        types[name] = kind
        for metric in [_fields(value) for number, value in family if number == 4]:
            pairs = [dict(_fields(value)) for number, value in metric if number == 1]
            labels = tuple(sorted((p[1].decode(), p[2].decode()) for p in pairs))
            value = _fields(dict(metric)[field])
            check((name, labels) not in samples, f"twice: {name} {labels}")
            samples[name, labels] = _native(value) if kind == "histogram" else dict(value)[1]
    return samples, types


# ---- a server ----

_CONFIG = """
global: {{scrape_interval: 500ms, scrape_timeout: 500ms}}
scrape_configs:
  - job_name: thaw
    static_configs: [{{targets: ["{target}"]}}]
"""


class Prometheus:
    """A Prometheus server of the case's that scrapes @target twice a second."""

    def __init__(self, case, program, target):
        config = case.path("prometheus.yml")
        with open(config, "w", encoding="utf-8") as f:
            f.write(_CONFIG.format(target=target))
        self.url = None
        self.program = case.start(
            program, f"--config.file={config}", f"--storage.tsdb.path={case.path('tsdb')}",
            "--web.listen-address=127.0.0.1:0", "--enable-feature=native-histograms",
            env={"GOMAXPROCS": "1", "HOME": case.dir})

    def query(self, expression, **parameters):
        """The result of an instant query: a list of series; None while it does not answer."""
        parameters = urllib.parse.urlencode({"query": expression, **parameters})
        if not self.url:
            bound = re.search(r'msg="Listening on" address=(\S+)', self.program.stderr())
            if not bound:
                return None
            self.url = "http://" + bound[1]
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{parameters}", timeout=10) as r:
                return json.load(r)["data"]["result"]
        except (urllib.error.URLError, ConnectionError, TimeoutError):
            return None

    def wait_for(self, expression, wanted, deadline=2 * DEADLINE):
        """Ask until @wanted(result) holds. The result."""
        until = time.monotonic() + deadline
        while True:
            result = self.query(expression)
            if result and wanted(result):
                return result
            if self.program.returncode() is not None or time.monotonic() > until:
                return fail(f"{expression}: {result}; it says: {self.program.stderr()[-3000:]}")
            # Prometheus tells nobody when it has scraped: asked ten times a second, until then.
            time.sleep(0.1)


def promtool_lint(promtool, text):
    """What `promtool check metrics` says of @text: its exit status and lines."""
    p = subprocess.run([promtool, "check", "metrics"], input=text, text=True, timeout=DEADLINE,
                       stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return p.returncode, p.stdout.splitlines()

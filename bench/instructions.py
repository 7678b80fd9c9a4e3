#!/usr/bin/env python3
"""Instructions that a request through the gateway costs, counted by callgrind.

Unlike times, they are the same on every run, however busy the machine is. One server, one client
connection, one upstream: GET /proxy with the API key checked, the connection resolved and the
token injected. What the kernel does is not counted.

With --check, fails if a request costs more than bench/instructions.json says, by more than its
`share`; with --write, that file is written anew.
"""

import argparse
import contextlib
import http.client
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import gateway

LIMITS = Path(__file__).parent / "instructions.json"
SHARE = 0.05
# By the first that a function's name holds.
PARTS = ["hyper_util", "hyper::", "httparse", "http::", "tokio_util", "tokio::", "tokenward"]
PARTS += ["aws_lc", "mi_", "mem"]


class UnderCallgrind(gateway.Children):
    """Starts Tokenward's server under callgrind, and waits for longer."""

    def serve(self, name, command, port, env=None):
        if name != "tokenward":
            return super().serve(name, command, port, env)
        # A server with one worker: the client has one connection.
        options = ["--tool=callgrind", "--instr-atstart=no", "--separate-threads=yes"]
        options += [f"--callgrind-out-file={self.scratch}/counts"]
        child = self.start(name, ["valgrind", *options, *command, "--workers", "1"], env)
        for _ in range(600):
            with contextlib.suppress(OSError, http.client.HTTPException):
                if gateway.get(port, "/healthz", {})[0] == 200:
                    return child.pid
            if child.poll() is not None:
                break
            time.sleep(0.1)
        raise gateway.Missing(f"tokenward does not start under valgrind:\n{self.tail(name)}")


def ask(target, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
    for _ in range(count):
        connection.request("GET", target.path, headers=target.headers)
        response = connection.getresponse()
        if response.status != 200 or len(response.read()) != gateway.BODY_LEN:
            raise gateway.WrongAnswer(f"{response.status} in the middle of the count")
    connection.close()


def counted(file: Path) -> dict:
    """Instructions by function, of callgrind's file."""
    names, costs, function, skip = {}, {}, None, False
    for line in file.read_text().splitlines():
        if named := re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line):
            called, number, name = named.groups()
            name = names.setdefault(number, name)
            function = function if called else name
        elif line.startswith("calls="):
            skip = True  # what the callee costs is counted there
        elif line[:1].isdigit() or line[:1] in "+-*":
            if not skip and len(fields := line.split()) > 1:
                costs[function] = costs.get(function, 0) + int(fields[1])
            skip = False
    return costs


def count(requests: int) -> dict:
    release = Path(os.environ.get("CARGO_TARGET_DIR", gateway.ROOT / "target")) / "release"
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenward-bench-")))
        children = UnderCallgrind(scratch)
        stack.callback(children.stop)
        upstream = gateway.start_upstream(children, release)
        target = gateway.start_tokenward(children, upstream, release)
        control = lambda *arguments: subprocess.run(
            ["callgrind_control", *arguments, str(target.pid)], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        ask(target, 200)
        control("-i", "on")
        ask(target, requests)
        control("-d")
        deadline = time.monotonic() + 30
        while not list(scratch.glob("counts.1-*")) and time.monotonic() < deadline:
            time.sleep(0.1)
        time.sleep(1)
        # The worker's thread. What others do (following the store's changes) goes by time.
        threads = [counted(file) for file in scratch.glob("counts.1-*")]
        mine = lambda costs: sum(cost for name, cost in costs.items() if "gateway::" in (name or ""))
        costs = max(threads, key=mine)
    parts = {}
    for function, cost in costs.items():
        part = next((part for part in PARTS if part in (function or "")), "other")
        parts[part] = parts.get(part, 0) + cost
    by_part = {part: round(cost / requests) for part, cost in sorted(parts.items(), key=lambda p: -p[1])}
    return {"proxied_request": round(sum(costs.values()) / requests), "parts": by_part}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="requests (default 2000)")
    parser.add_argument("--no-build", action="store_true", help="use the binaries that are there")
    parser.add_argument("--check", action="store_true", help="fail if a request has become dearer")
    parser.add_argument("--write", action="store_true", help="write the limits anew")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if not options.no_build:
        built = argparse.Namespace(no_build=False, targets=["tokenward"])
        if not gateway.build(built)[1]:
            return 2
    try:
        found = count(options.requests)
    except (gateway.Missing, gateway.WrongAnswer) as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps(found))
    else:
        print(f"{found['proxied_request']:>8} instructions a proxied request")
        for part, cost in found["parts"].items():
            print(f"{cost:>8} {part}")
    if options.write:
        LIMITS.write_text(json.dumps({"share": SHARE, "proxied_request": found["proxied_request"]}, indent=1) + "\n")
    if options.check:
        limits = json.loads(LIMITS.read_text())
        most = limits["proxied_request"] * (1 + limits["share"])
        if found["proxied_request"] > most:
            print(f"dearer than {most:.0f}, which {LIMITS.name} allows", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""Instructions that the hot operations cost, counted by callgrind.

Unlike times, they are the same on every run, however busy the machine is.

  token_fresh        Vault::token, from memory
  connection_lookup  Vault::resolved: a connection that was found before, by its borrowed name
  refresh            Vault::validate: one whole flight, on a memory store and at a provider that
                     answers at once
  api_key_check      Keys::known: a key that was looked up a moment ago (within the next)
  proxied_request    GET /proxy, on the worker's thread: one server, one client connection, one
                     upstream; key checked, connection resolved, token injected

The first three are counted in an example on the engine alone (crates/testkit/examples/costs.rs),
with the calls to the allocator; the others in the server. What the kernel does is not counted.

With --check, fails if one costs more than bench/instructions.json says, by more than its `share`,
or allocates more often; with --write, that file is written anew.
"""

import argparse
import contextlib
import dataclasses
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
import machine
import targets

LIMITS = Path(__file__).parent / "instructions.json"
# Runs differ by 0.04 % at most, builds in other folders by 0.2 %; but for the connection's look-up,
# which costs 364 or 379: the dearer is on record.
SHARE = 0.03
# An operation of the example, and how often it is done.
OPERATIONS = {"token_fresh": 10_000, "connection_lookup": 10_000, "refresh": 500}
ALLOCATORS = {"malloc", "calloc", "realloc", "posix_memalign", "aligned_alloc"}
# By the first that a function's name holds.
PARTS = ["hyper_util", "hyper::", "httparse", "http::", "tokio_util", "tokio::", "tokenward"]
PARTS += ["aws_lc", "mi_", "mem"]
# Never inlined, so that it can be told from the rest of the request.
KEY_CHECK = "keys::Keys::known"


class UnderCallgrind(machine.Children):
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
                if machine.get(port, "/proxy", {})[0] == 401:
                    return child.pid
            if child.poll() is not None:
                break
            time.sleep(0.1)
        raise machine.Missing(f"tokenward does not start under valgrind:\n{self.tail(name)}")


def ask(target, count: int) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=60)
    path, headers = target.path("/"), target.headers_for("/")
    for _ in range(count):
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        if response.status != 200 or len(response.read()) != 1024:
            raise machine.WrongAnswer(f"{response.status} in the middle of the count")
    connection.close()


@dataclasses.dataclass
class Counts:
    """What a callgrind file says, by function."""

    own: dict  # instructions
    inclusive: dict  # with those of its callees, as called by others
    calls: dict


def counted(file: Path) -> Counts:
    names, counts = {}, Counts({}, {}, {})
    function = callee = None
    add = lambda costs, name, cost: costs.__setitem__(name, costs.get(name, 0) + cost)
    for line in file.read_text().splitlines():
        if named := re.match(r"(c?)fn=\((\d+)\)(?: (.*))?", line):
            called, number, name = named.groups()
            name = names.setdefault(number, name)
            if called:
                callee = name
            else:
                function = name
        elif calls := re.match(r"calls=(\d+)", line):
            add(counts.calls, callee, int(calls[1]))
        elif line[:1].isdigit() or line[:1] in "+-*":
            if len(fields := line.split()) > 1:
                # After `calls=` comes what the callee cost; it is no cost of the caller's own.
                add(counts.inclusive if callee else counts.own, callee or function, int(fields[1]))
            callee = None
    return counts


def count_operations() -> dict:
    """The example's operations: instructions and allocations of one."""
    binary = release() / "examples/costs"
    found = {}
    for name, times in OPERATIONS.items():
        with tempfile.TemporaryDirectory(prefix="tokenward-bench-") as scratch:
            file = Path(scratch) / "counts"
            command = ["valgrind", "--tool=callgrind", f"--toggle-collect=costs::{name}"]
            command += [f"--callgrind-out-file={file}", binary, name, str(times)]
            done = subprocess.run(command, capture_output=True, text=True)
            if done.returncode != 0 or not file.exists():
                raise machine.WrongAnswer(f"costs {name} ended with {done.returncode}:\n{done.stderr}")
            counts = counted(file)
        instructions = sum(counts.own.values()) / times
        if instructions < 10:
            raise machine.WrongAnswer(f"costs {name}: nothing was counted")
        allocations = sum(calls for function, calls in counts.calls.items() if function in ALLOCATORS)
        found[name] = {"instructions": round(instructions), "allocations": round(allocations / times)}
    return found


def release() -> Path:
    return Path(os.environ.get("CARGO_TARGET_DIR", machine.ROOT / "target")) / "release"


def build_operations() -> bool:
    cargo = ["cargo", "build", "--release", "-p", "tokenward-testkit", "--example", "costs"]
    return subprocess.run(cargo, cwd=machine.ROOT).returncode == 0


def count_request(requests: int) -> dict:
    """A proxied request, what is counted within it, and its parts by library."""
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenward-bench-")))
        children = UnderCallgrind(scratch)
        stack.callback(children.stop)
        upstream = targets.start_upstream(children, release())
        target = targets.Tokenward(children, upstream, release() / "tokenward").serve("tokenward")
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
        mine = lambda counts: sum(cost for name, cost in counts.own.items() if "gateway::" in (name or ""))
        counts = max(threads, key=mine)
    key = sum(cost for name, cost in counts.inclusive.items() if KEY_CHECK in (name or ""))
    # A few calls of others are not it.
    if key < requests:
        raise machine.WrongAnswer(f"{KEY_CHECK} is not to be found in the counts")
    parts = {}
    for function, cost in counts.own.items():
        part = next((part for part in PARTS if part in (function or "")), "other")
        parts[part] = parts.get(part, 0) + cost
    by_part = {part: round(cost / requests) for part, cost in sorted(parts.items(), key=lambda p: -p[1])}
    whole = {
        "api_key_check": {"instructions": round(key / requests)},
        "proxied_request": {"instructions": round(sum(counts.own.values()) / requests)},
    }
    return {"counts": whole, "parts": by_part}


def dearer(counts: dict) -> list[str]:
    """What costs more than it may."""
    limits = json.loads(LIMITS.read_text())
    said = []
    for name, found in counts.items():
        allowed = limits["counts"][name]
        most = allowed["instructions"] * (1 + limits["share"])
        if found["instructions"] > most:
            said.append(f"{name}: dearer than {most:.0f} instructions, which {LIMITS.name} allows")
        if found.get("allocations", 0) > allowed.get("allocations", 0):
            said.append(f"{name}: more than {allowed['allocations']} allocations, which {LIMITS.name} allows")
    return said


def print_table(counts: dict, parts: dict) -> None:
    before = json.loads(LIMITS.read_text())["counts"] if LIMITS.exists() else {}
    print(f"{'':<20}{'instructions':>14}{'on record':>12}{'':>9}{'allocations':>14}")
    for name, found in counts.items():
        then = before.get(name, {}).get("instructions")
        change = f"{found['instructions'] / then - 1:+.2%}" if then else ""
        print(f"{name:<20}{found['instructions']:>14,}{then or '':>12}{change:>9}{found.get('allocations', ''):>14}")
    if parts:
        print("\nof a proxied request:")
        for part, cost in parts.items():
            print(f"{part:<20}{cost:>14,}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=2000, metavar="N", help="requests (default 2000)")
    parser.add_argument("--engine", action="store_true", help="the engine's operations only")
    parser.add_argument("--no-build", action="store_true", help="use the binaries that are there")
    parser.add_argument("--check", action="store_true", help="fail if something has become dearer")
    parser.add_argument("--write", action="store_true", help="write the limits anew")
    parser.add_argument("--json", action="store_true", help="print JSON")
    options = parser.parse_args()
    if not options.no_build and not build_operations():
        return 2
    if not options.no_build and not options.engine:
        built = argparse.Namespace(no_build=False, targets=["tokenward"])
        if not targets.build(built)[1]:
            return 2
    try:
        counts, parts = count_operations(), {}
        if not options.engine:
            request = count_request(options.requests)
            counts, parts = counts | request["counts"], request["parts"]
    except (machine.Missing, machine.WrongAnswer) as error:
        print(f"instructions: {error}", file=sys.stderr)
        return 2
    if options.json:
        print(json.dumps({"counts": counts, "parts": parts}))
    else:
        print_table(counts, parts)
    if options.write:
        kept = json.loads(LIMITS.read_text())["counts"] if LIMITS.exists() else {}
        LIMITS.write_text(json.dumps({"share": SHARE, "counts": kept | counts}, indent=1) + "\n")
    if options.check and (said := dearer(counts)):
        print("\n".join(said), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

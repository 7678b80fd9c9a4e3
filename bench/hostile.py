#!/usr/bin/env python3
"""Thousands of hostile connections beside ordinary load, on loopback, for a bounded time.

The ordinary load (h2load, 1 KiB of JSON through /proxy, at a rate) is measured alone and then beside hostile
connections of these kinds, each opened anew when the server ends it:

  slow-head     a byte of a head every two seconds
  slow-body     with a key; a byte of a body every two seconds
  no-key        without a key; a megabyte of a body for the vault's routes, and no end
  non-reader    requests one after the other, and no answer is read
  half-closed   a part of a request, and a FIN
  idle-http2    HTTP/2, no request, pings are answered
  interim       with a key; an API that sends 1xx without end
  hang-up       with a key; an API that sends a head and stalls, and a caller that leaves

Prints and judges: the ordinary p99 beside them (at most twice that without), the server's resident
memory at its peak (within --memory), and its descriptors a minute after they have left (as before).

Exit status: 0 all held; 1 something did not; 2 something is missing.
"""

import argparse
import asyncio
import contextlib
import json
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

from load import CASES, Seen, paced, probe
from machine import ROOT, Children, Missing, WrongAnswer, free_port
from targets import Tokenward, build, program, start_upstream, tokens

# Of a hundred connections.
SHARES = {
    "slow-head": 20,
    "slow-body": 10,
    "no-key": 20,
    "non-reader": 15,
    "half-closed": 10,
    "idle-http2": 10,
    "interim": 5,
    "hang-up": 10,
}
# Idle connections to APIs that a pool may keep.
POOL = 32


# --- the hostile side: a process of its own ---------------------------------------------------


class Hostile:
    def __init__(self, port: int, head: str):
        self.port, self.head = port, head
        self.open = dict.fromkeys(SHARES, 0)
        self.ended = dict.fromkeys(SHARES, 0)

    def request(self, method: str, path: str, line: str = "") -> bytes:
        return f"{method} /proxy HTTP/1.1\r\n{self.head}x-apideck-downstream-url: {path}\r\n{line}\r\n".encode()

    async def always(self, kind: str) -> None:
        act = getattr(self, kind.replace("-", "_"))
        while True:
            try:
                reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=4096)
            except OSError:
                await asyncio.sleep(1)
                continue
            self.open[kind] += 1
            with contextlib.suppress(OSError, EOFError, ValueError):
                await act(reader, writer)
            self.open[kind] -= 1
            self.ended[kind] += 1
            writer.transport.abort()
            await asyncio.sleep(0.5)

    async def drip(self, reader, writer) -> None:
        ended = asyncio.ensure_future(reader.read(1))
        while not ended.done():
            writer.write(b"x")
            await writer.drain()
            await asyncio.wait([ended], timeout=2)

    async def slow_head(self, reader, writer) -> None:
        writer.write(b"GET /proxy HTTP/1.1\r\nHost: g\r\nX-A: ")
        await self.drip(reader, writer)

    async def slow_body(self, reader, writer) -> None:
        writer.write(self.request("POST", "/take", "Content-Length: 1000000\r\n"))
        await self.drip(reader, writer)

    async def no_key(self, reader, writer) -> None:
        path = "/vault/connections/crm/bench/import"
        writer.write(f"POST {path} HTTP/1.1\r\nHost: g\r\nContent-Length: 1048576\r\n\r\n".encode())
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(5):
                for _ in range(15):
                    writer.write(b"x" * 65536)
                    await writer.drain()
        while await reader.read(4096):
            pass

    async def non_reader(self, reader, writer) -> None:
        writer.transport.pause_reading()
        some = b"GET /nowhere HTTP/1.1\r\nHost: g\r\n\r\n" * 100
        while not writer.transport.is_closing():
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(2):
                    writer.write(some)
                    await writer.drain()

    async def half_closed(self, reader, writer) -> None:
        writer.write(self.request("POST", "/take", "Content-Length: 1000000\r\n") + b"half")
        writer.write_eof()
        while await reader.read(4096):
            pass

    async def idle_http2(self, reader, writer) -> None:
        writer.write(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + struct.pack(">I", 0)[1:] + bytes([4, 0, 0, 0, 0, 0]))
        while True:
            head = await reader.readexactly(9)
            body = await reader.readexactly(int.from_bytes(head[:3], "big"))
            if head[3] == 4 and not head[4] & 1:
                writer.write(bytes([0, 0, 0, 4, 1, 0, 0, 0, 0]))
            if head[3] == 6 and not head[4] & 1:
                writer.write(bytes([0, 0, 8, 6, 1, 0, 0, 0, 0]) + body)

    async def interim(self, reader, writer) -> None:
        writer.write(self.request("GET", "/interim"))
        while await reader.read(4096):
            pass

    async def hang_up(self, reader, writer) -> None:
        writer.write(self.request("GET", "/stall"))
        await reader.read(4096)
        await asyncio.sleep(2)


async def api(reader, writer) -> None:
    """Sends 1xx without end, or a head and nothing more; takes uploads for ever."""
    with contextlib.suppress(OSError, EOFError, asyncio.LimitOverrunError):
        head = await reader.readuntil(b"\r\n\r\n")
        if b"/interim" in head:
            while True:
                writer.write(b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n" * 20)
                await writer.drain()
                await asyncio.sleep(0.01)
        if b"/stall" in head:
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\nbeginning")
        while await reader.read(65536):
            pass
    writer.transport.abort()


async def attack(port: int, api_port: int, count: int, head: str) -> None:
    hostile = Hostile(port, head)
    server = await asyncio.start_server(api, "127.0.0.1", api_port, backlog=4096)
    kinds = [kind for kind, share in SHARES.items() for _ in range(max(1, count * share // 100))]
    tasks = [asyncio.create_task(hostile.always(kind)) for kind in kinds]
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    while not stop.is_set():
        print(json.dumps({"open": hostile.open, "ended": hostile.ended}), flush=True)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(stop.wait(), 1)
    server.close()
    for task in tasks:
        task.cancel()


# --- the judge ---------------------------------------------------------------------------------


def descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def memory_mib(pid: int, what: str) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    line = next(line for line in status.splitlines() if line.startswith(what + ":"))
    return int(line.split()[1]) / 1024


def hostile_connector(tokenward: Tokenward, port: int) -> None:
    """A connection of the same consumer, whose API is hostile."""
    folder = Path(tokenward.env["TOKENWARD_CONNECTORS"])
    text = (folder / "bench.toml").read_text().replace('id = "bench"', 'id = "hostile"')
    base = text.index("base_url")
    text = text[:base] + text[base:].replace(tokenward.api, f"http://127.0.0.1:{port}")
    (folder / "hostile.toml").write_text(text)
    scratch = tokenward.children.scratch
    tokenward.run(
        *("clients", "set", "--app", tokenward.app, "--connector", "hostile"),
        *("--client-id", "x", "--client-secret-file", scratch / "client-secret"),
    )
    (scratch / "hostile.json").write_text(json.dumps(tokens("hostile-token", 86400)))
    tokenward.run(
        *("connections", "import", "--app", tokenward.app, "bench-consumer/crm+hostile"),
        *("--file", scratch / "hostile.json"),
    )


def judge(options) -> int:
    program("h2load")
    release, built = build(options)
    if not built:
        raise Missing("tokenward does not build")
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenward-hostile-")))
        children = Children(scratch)
        stack.callback(children.stop)
        upstream = start_upstream(children, release)
        binary = (options.binary or release / "tokenward").resolve()
        tokenward = Tokenward(children, upstream, binary)
        api_port = free_port()
        hostile_connector(tokenward, api_port)
        target = tokenward.serve("tokenward")
        case = CASES["json"]
        if problem := probe(target, case):
            raise WrongAnswer(problem)

        def load(seconds: int):
            return paced(children, target, case, options.conns, seconds, options.rate)

        def beside_attack_on(victim) -> tuple[Seen, int]:
            head = "Host: g\r\n" + "".join(
                f"{name}: {value}\r\n" for name, value in (victim.headers | {"x-apideck-service-id": "hostile"}).items()
            )
            (scratch / "head").write_text(head)
            command = [sys.executable, Path(__file__), "--attack", victim.port, api_port, options.connections, scratch / "head"]
            child = children.start("hostile", command)
            time.sleep(options.settle)
            most = descriptors(victim.pid)
            seen = load(options.seconds)
            os.kill(child.pid, signal.SIGTERM)
            child.wait(timeout=30)
            return seen, most

        load(2)
        quiet = load(options.seconds)
        # The attackers' own work, and that of a server, take processor time from everybody on this
        # machine: what that costs is seen where they attack another server.
        other, _ = beside_attack_on(tokenward.serve("tokenward-other"))
        before, memory_before = descriptors(target.pid), memory_mib(target.pid, "VmRSS")
        beside, most = beside_attack_on(target)
        said = [json.loads(line) for line in (scratch / "hostile.log").read_text().splitlines() if line.startswith("{")]
        if not said:
            raise Missing(f"the hostile side did not start:\n{children.tail('hostile')}")
        peak = memory_mib(target.pid, "VmHWM")
        left, after = time.monotonic(), descriptors(target.pid)
        while after > before + POOL and time.monotonic() < left + 60:
            time.sleep(0.5)
            after = descriptors(target.pid)
        took = time.monotonic() - left
        bound = memory_before + options.memory
        checks = [
            (
                f"ordinary p99 {quiet.p99_ms:.1f} ms alone, {other.p99_ms:.1f} ms while they attack another server "
                f"on this machine, {beside.p99_ms:.1f} ms beside them",
                beside.p99_ms <= 2 * max(quiet.p99_ms, other.p99_ms),
            ),
            (f"no error for the ordinary load {beside.errors or ''}", not beside.errors),
            (f"resident memory {memory_before:.0f} MiB before, {peak:.0f} MiB at its peak, bound {bound:.0f}", peak <= bound),
            (f"descriptors {before} before, {most} with them, {after} after {took:.0f} s", after <= before + POOL),
        ]
        print(f"{options.connections} hostile connections, {options.conns} ordinary ones, {options.seconds} s")
        print(f"requests/s: {quiet.requests / quiet.seconds:.0f} alone, {beside.requests / beside.seconds:.0f} beside them")
        for kind in SHARES:
            print(f"  {kind:<12}{said[-1]['open'][kind]:>6} open {said[-1]['ended'][kind]:>6} ended by the server")
        for what, held in checks:
            print(("held    " if held else "BROKEN  ") + what)
    return 0 if all(held for _, held in checks) else 1


def main() -> int:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if sys.argv[1:2] == ["--attack"]:
        port, api_port, count, head = sys.argv[2:]
        asyncio.run(attack(int(port), int(api_port), int(count), Path(head).read_text()))
        return 0
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--connections", type=int, default=2000, metavar="N", help="hostile ones (default 2000)")
    parser.add_argument("--conns", type=int, default=16, metavar="N", help="ordinary ones (default 16)")
    parser.add_argument("--rate", type=int, default=4000, metavar="N", help="ordinary requests a second (default 4000)")
    parser.add_argument("--seconds", type=int, default=15, metavar="N", help="of load, each time (default 15)")
    parser.add_argument("--settle", type=int, default=10, metavar="N", help="seconds until all are there (default 10)")
    parser.add_argument(
        "--memory", type=int, default=256, metavar="MIB", help="what they may cost: 128 KiB each (default 256)"
    )
    parser.add_argument("--binary", type=Path, metavar="FILE", help="another tokenward than this tree's release build")
    parser.add_argument("--no-build", action="store_true", help="use the binaries that are there")
    options = parser.parse_args()
    options.targets = ["tokenward"]
    try:
        return judge(options)
    except Missing as error:
        print(f"hostile: {error}", file=sys.stderr)
        return 2
    except WrongAnswer as error:
        print(f"hostile: nothing measured, wrong answer: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())

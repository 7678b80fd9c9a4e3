"""One cell: a target, a case and a number of connections, under load for some seconds."""

import dataclasses
import json
import os
import re
import time

from machine import CORES, Children, Missing, cpu_between, get, snapshot
from targets import BRIEF, CONSUMERS, Target

SMALL = 1024
BIG = 1024 * 1024


@dataclasses.dataclass(frozen=True)
class Case:
    name: str
    what: str
    path: str = "/"
    answer: int = SMALL  # bytes of an answer's body
    sent: int = 0  # bytes of a request's body
    tls: bool = False
    upstream_tls: bool = False  # the API speaks TLS
    streams: int = 0  # HTTP/2, with so many at once on each connection
    conns: tuple = (32,)


CASES = {
    case.name: case
    for case in (
        Case("json", "1 KiB of JSON", conns=(32, 128)),
        Case("down", "1 MiB to the caller", path="/big", answer=BIG),
        Case("up", "1 MiB from the caller", path="/take", sent=BIG),
        Case("tls", "1 KiB of JSON, TLS in front", tls=True, conns=(32, 128)),
        Case("tls-up", "1 KiB of JSON, from an API that speaks TLS", upstream_tls=True, conns=(32, 128)),
        Case("h2", "1 KiB of JSON, HTTP/2 in TLS in front, 8 streams on each connection", tls=True, streams=8),
    )
}

WRK_DONE = """
done = function(summary, latency, requests)
  local e = summary.errors
  io.write(string.format(
    'RESULT {"us":%d,"requests":%d,"bytes":%d,"p50_us":%d,"p99_us":%d,' ..
    '"errors":{"connect":%d,"read":%d,"write":%d,"status":%d,"timeout":%d}}\\n',
    summary.duration, summary.requests, summary.bytes,
    latency:percentile(50), latency:percentile(99),
    e.connect, e.read, e.write, e.status, e.timeout))
end
"""

WRK_SEND = """
wrk.method = "POST"
wrk.body = string.rep("x", {sent})
"""

# The requests are made before the first is sent: making them is not what is measured. `brief`: a
# hundredth of them is for connections whose tokens live for a second only.
WRK_ROTATE = """
local requests, next_one, all = {{}}, 0, {all}
init = function()
  if {brief} > 0 then all = {brief} * 100 end
  for i = 0, all - 1 do
    wrk.headers["x-apideck-consumer-id"] = "c" .. (i % {consumers})
    wrk.headers["x-apideck-service-id"] = "bench"
    if {brief} > 0 and i % 100 == 0 then
      wrk.headers["x-apideck-consumer-id"] = "b" .. math.floor(i / 100)
      wrk.headers["x-apideck-service-id"] = "brief"
    end
    requests[i] = wrk.format("GET", wrk.path)
  end
  next_one = math.random(0, all - 1)
end
request = function()
  next_one = (next_one + 1) % all
  return requests[next_one]
end
"""


def script(target: Target, case: Case) -> str:
    if target.consumers != "one":
        brief = BRIEF if target.consumers == "brief" else 0
        those = 1 if target.consumers == "one of all" else CONSUMERS
        return WRK_ROTATE.format(consumers=those, all=CONSUMERS, brief=brief) + WRK_DONE
    return (WRK_SEND.format(sent=case.sent) if case.sent else "") + WRK_DONE


def port_of(target: Target, case: Case) -> int:
    return target.tls_port if case.tls else target.port


def probe(target: Target, case: Case) -> str | None:
    """What is wrong with the target's answer, if anything."""
    method, sent = ("POST", b"x" * case.sent) if case.sent else ("GET", None)
    headers = target.headers_for(case.path)
    if target.consumers != "one":
        headers["x-apideck-consumer-id"] = "c0"
    try:
        status, body = get(port_of(target, case), target.path(case.path), headers, case.tls, method, sent)
    except OSError as error:
        return f"probe failed: {error!r}"
    if status != 200:
        return f"probe answered {status}: {body[:300].decode(errors='replace')}"
    if len(body) != case.answer or not body.startswith(b'{"id":"bench"'):
        return f"probe answered another body ({len(body)} bytes)"
    return None


@dataclasses.dataclass
class Seen:
    """What the load generator saw."""

    requests: int
    seconds: float
    bytes: int
    p50_ms: float
    p99_ms: float
    errors: dict
    cpu: float  # its own processor seconds


def run(children: Children, name: str, command: list) -> tuple[str, float]:
    """Runs a load generator: what it printed, and its processor seconds."""
    (children.scratch / f"{name}.log").unlink(missing_ok=True)
    child = children.start(name, command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    children.running.remove(child)
    return (children.scratch / f"{name}.log").read_text(errors="replace"), usage.ru_utime + usage.ru_stime


def load(children: Children, target: Target, case: Case, options, conns: int, seconds: int) -> Seen:
    scheme = "https" if case.tls else "http"
    url = f"{scheme}://127.0.0.1:{port_of(target, case)}{target.path(case.path)}"
    headers = [part for it in target.headers_for(case.path).items() for part in ("-H", f"{it[0]}: {it[1]}")]
    generate = h2load if case.streams else wrk
    return generate(children, target, case, options, conns, seconds, headers, url)


def wrk(children, target, case, options, conns, seconds, headers, url) -> Seen:
    lua = children.scratch / "script.lua"
    lua.write_text(script(target, case))
    command = ["wrk", f"-t{options.wrk_threads}", f"-c{conns}", f"-d{seconds}s", "-s", lua, *headers, url]
    said, cpu = run(children, "wrk", command)
    for line in said.splitlines():
        if line.startswith("RESULT "):
            it = json.loads(line.removeprefix("RESULT "))
            errors = {kind: count for kind, count in it["errors"].items() if count}
            return Seen(
                it["requests"], it["us"] / 1e6, it["bytes"], it["p50_us"] / 1e3, it["p99_us"] / 1e3, errors, cpu
            )
    raise Missing(f"wrk gave no result:\n{children.tail('wrk')}")


def h2load(children, target, case, options, conns, seconds, headers, url) -> Seen:
    command = ["h2load", "-t", options.wrk_threads, "-c", conns, "-m", case.streams, "-D", seconds]
    return run_h2load(children, command, seconds, headers, url)


def paced(children: Children, target: Target, case: Case, conns: int, seconds: int, rate: int) -> Seen:
    """An open loop over HTTP/1.1: so many requests a second, whatever the answers take."""
    url = f"http://127.0.0.1:{target.port}{target.path(case.path)}"
    headers = [part for it in target.headers_for(case.path).items() for part in ("-H", f"{it[0]}: {it[1]}")]
    command = ["h2load", "--h1", "-t", 1, "-c", conns, "-D", seconds, f"--rps={rate / conns}"]
    return run_h2load(children, command, seconds, headers, url)


def run_h2load(children, command, seconds, headers, url) -> Seen:
    latencies = children.scratch / "h2load.tsv"
    latencies.unlink(missing_ok=True)
    said, cpu = run(children, "h2load", [*command, f"--log-file={latencies}", *headers, url])
    counted = re.search(r"requests: .*?(\d+) done, (\d+) succeeded, (\d+) failed, (\d+) errored, (\d+) timeout", said)
    bytes_seen = re.search(r"traffic: .*?\((\d+)\) total.*?\((\d+)\) data", said)
    if not counted or not bytes_seen:
        raise Missing(f"h2load gave no result:\n{children.tail('h2load')}")
    _, succeeded, *bad = map(int, counted.groups())
    errors = {kind: count for kind, count in zip(("failed", "errored", "timeout"), bad) if count}
    took = sorted(int(line.split("\t")[2]) for line in latencies.read_text().splitlines())
    if not took:
        raise Missing("h2load noted no request")
    at = lambda share: took[min(len(took) - 1, int(len(took) * share))] / 1e3
    return Seen(succeeded, seconds, int(bytes_seen[2]), at(0.5), at(0.99), errors, cpu)


def measure(children, everybody, upstream, target, case, options, conns, round_number) -> dict:
    problems = []
    if problem := probe(target, case):
        problems.append(problem)
    before_there = upstream_stats(upstream)
    before, started = snapshot(), time.monotonic()
    seen = load(children, target, case, options, conns, options.duration)
    after, wall = snapshot(), time.monotonic() - started
    time.sleep(0.2)  # what was under way when the generator left
    there = {key: count - before_there[key] for key, count in upstream_stats(upstream).items()}
    if target.log:
        lines = target.log.read_bytes().count(b"\n")
        os.truncate(target.log, 0)
        # Two workers' buffers may hold some hundred lines that are not written yet.
        if lines < seen.requests - 1000:
            problems.append(f"{lines} lines in the request log for {seen.requests} requests")

    requests = max(seen.requests, 1)
    if seen.errors:
        problems.append(f"the load generator saw errors: {seen.errors}")
    if seen.requests == 0:
        problems.append("no answer was seen")
    if there["wrong"]:
        problems.append(f"the upstream refused {there['wrong']} requests for a wrong credential or body")
    # Each connection may leave what it had under way.
    if not 0 <= there["ok"] - seen.requests <= conns * max(case.streams, 1):
        problems.append(f"{seen.requests} answers were seen, and {there['ok']} right requests upstream")
    if seen.bytes < seen.requests * case.answer:
        problems.append("answers shorter than the upstream's body")

    # Everything that we know of: all targets (idle ones too), the generator, this script, the kernel.
    sessions = {t.pid for t in everybody} | {upstream.pid}
    known = seen.cpu + sum(cpu_between(before, after, session) for session in sessions | {0})
    known += after.processes[os.getpid()][2] - before.processes[os.getpid()][2]
    capacity = wall * CORES
    others = {}
    for pid, (name, session, cpu, _) in after.processes.items():
        if session not in sessions | {0} and pid != os.getpid():
            used = cpu - before.processes.get(pid, (name, session, 0.0, 0))[2]
            others[name] = others.get(name, 0.0) + used
    return {
        "case": case.name,
        "target": target.name,
        "conns": conns,
        "round": round_number,
        "rps": seen.requests / seen.seconds,
        "p50_ms": seen.p50_ms,
        "p99_ms": seen.p99_ms,
        "cpu_us": max(0.0, cpu_between(before, after, target.pid)) / requests * 1e6,
        "rss_mb": sum(p[3] for p in after.session(target.pid)) / 1e6,
        "refresh_share": there["refreshes"] / requests,
        "generator_share": seen.cpu / (wall * options.wrk_threads),
        "busy_share": (after.busy - before.busy) / capacity,
        "other_share": max(0.0, after.busy - before.busy - known) / capacity,
        "steal_share": (after.steal - before.steal) / capacity,
        "other_names": [n for n, used in sorted(others.items(), key=lambda o: -o[1]) if used > 0.05][:3],
        "problems": problems,
    }


def upstream_stats(upstream: Target) -> dict:
    return json.loads(get(upstream.port, "/_stats", {})[1])

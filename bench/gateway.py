#!/usr/bin/env python3
"""The gateway's speed beside its peers', as ratios.

One load generator (wrk) and one upstream; the targets take turns in one session:

  direct      wrk -> upstream; the load generator and the upstream without any proxy
  nginx       a static Authorization header, two workers, keep-alive to the upstream
  haproxy, envoy, caddy    the same, each with two threads
  bare-hyper  hyper's server and client and nothing else: the floor for a Rust proxy
  tokenward   GET /proxy: API key checked, connection resolved, token injected
  tokenward-10k    the same with 10,000 connections in rotation, each with a token of its own

Every target, the upstream and wrk share the machine's cores, so requests/s compares the whole
path; `cpu us` is the processor time of the target's own processes per request (for `direct`:
the upstream's). wrk is a closed loop: p50 and p99 are latencies at saturation.

No ratio is printed if any answer was not the expected one: each cell is preceded by a probe of
status and body, wrk must see no error, and the upstream must have seen as many requests with the
right token as wrk saw answers, and none with a wrong one.

Exit status: 0 measured; 1 an answer was wrong, or tokenward did not build or start; 2 something
else is missing or did not start. Peers that are not installed are skipped, and named.
"""

import argparse
import contextlib
import dataclasses
import http.client
import json
import os
import platform
import resource
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGETS = ["direct", "nginx", "haproxy", "envoy", "caddy", "bare-hyper", "tokenward", "tokenward-10k"]
# Where `scripts/deps.sh bench` puts those that Debian does not have.
PEERS = ROOT / "target/bench/peers"
CONSUMERS = 10_000
TOKEN = "bench-access-token"
BODY_LEN = 1024
TICK = os.sysconf("SC_CLK_TCK")
PAGE = os.sysconf("SC_PAGE_SIZE")
CORES = os.cpu_count() or 1

# Shares of the machine's processor time in one cell.
DISTURBED_BY_OTHERS = 0.05
DISTURBED_BY_STEAL = 0.02
# wrk's share of its threads' time: above it, wrk is what limits.
WRK_SATURATED = 0.95
# Between a target's best and worst round. A busy neighbour on the same host shows only here.
UNSTABLE = 0.20

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

NGINX_CONF = """
{user}
daemon off;
worker_processes 2;
pid {dir}/nginx.pid;
error_log {dir}/nginx-error.log warn;
worker_rlimit_nofile 16384;
events {{ worker_connections 4096; }}
http {{
  access_log off;
  client_body_temp_path {dir}/nginx-body;
  proxy_temp_path {dir}/nginx-proxy;
  fastcgi_temp_path {dir}/nginx-fastcgi;
  uwsgi_temp_path {dir}/nginx-uwsgi;
  scgi_temp_path {dir}/nginx-scgi;
  # The default of 1,000 requests per connection would make nginx alone reconnect all the time.
  keepalive_requests 100000000;
  upstream api {{
    server 127.0.0.1:{upstream};
    keepalive 128;
    keepalive_requests 100000000;
  }}
  server {{
    listen 127.0.0.1:{port} backlog=4096;
    location / {{
      proxy_pass http://api;
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header Authorization "Bearer {token}";
    }}
  }}
}}
"""


HAPROXY_CONF = """
global
  nbthread 2
  maxconn 8192
defaults
  mode http
  timeout connect 5s
  timeout client 60s
  timeout server 60s
  http-reuse always
frontend gateway
  bind 127.0.0.1:{port}
  http-request set-header Authorization "Bearer {token}"
  default_backend api
backend api
  server api 127.0.0.1:{upstream}
"""

ENVOY_CONF = """
static_resources:
  listeners:
  - address: {{ socket_address: {{ address: 127.0.0.1, port_value: {port} }} }}
    filter_chains:
    - filters:
      - name: envoy.filters.network.http_connection_manager
        typed_config:
          "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
          stat_prefix: gateway
          route_config:
            virtual_hosts:
            - name: api
              domains: ["*"]
              routes:
              - match: {{ prefix: "/" }}
                route: {{ cluster: api }}
              request_headers_to_add:
              - header: {{ key: Authorization, value: "Bearer {token}" }}
                append_action: OVERWRITE_IF_EXISTS_OR_ADD
          http_filters:
          - name: envoy.filters.http.router
            typed_config:
              "@type": type.googleapis.com/envoy.extensions.filters.http.router.v3.Router
  clusters:
  - name: api
    type: STATIC
    circuit_breakers: {{ thresholds: [ {{ max_connections: 8192, max_pending_requests: 8192, max_requests: 8192 }} ] }}
    load_assignment:
      cluster_name: api
      endpoints:
      - lb_endpoints:
        - endpoint: {{ address: {{ socket_address: {{ address: 127.0.0.1, port_value: {upstream} }} }} }}
"""

CADDY_CONF = """
{{
  admin off
  auto_https off
}}
http://127.0.0.1:{port} {{
  reverse_proxy 127.0.0.1:{upstream} {{
    header_up Authorization "Bearer {token}"
    transport http {{
      keepalive_idle_conns_per_host 512
    }}
  }}
}}
"""

# The requests are made before the first is sent: making them is not what is measured.
WRK_ROTATE = """
local requests, next_one = {{}}, 0
init = function()
  for i = 0, {consumers} - 1 do
    wrk.headers["x-apideck-consumer-id"] = "c" .. i
    requests[i] = wrk.format("GET", wrk.path)
  end
  next_one = math.random(0, {consumers} - 1)
end
request = function()
  next_one = (next_one + 1) % {consumers}
  return requests[next_one]
end
"""


class Missing(Exception):
    """A program or a build that the run needs, or a target that did not start."""


class WrongAnswer(Exception):
    """A target answers wrongly before anything was measured."""


@dataclasses.dataclass
class Target:
    name: str
    port: int
    pid: int  # leader of the session that holds all its processes
    path: str = "/"
    headers: dict = dataclasses.field(default_factory=dict)
    script: str = "done.lua"


# --- processes ------------------------------------------------------------------------------


class Children:
    """Every process that we start, each the leader of its own session, so that its tree can be
    accounted and ended as one."""

    def __init__(self, scratch: Path):
        self.scratch = scratch
        self.running: list[subprocess.Popen] = []

    def start(self, name: str, command: list, env: dict | None = None) -> subprocess.Popen:
        log = self.scratch / f"{name}.log"
        with open(log, "ab") as output:
            child = subprocess.Popen(
                [str(part) for part in command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.scratch,
                env=env,
                start_new_session=True,
            )
        self.running.append(child)
        return child

    def serve(self, name: str, command: list, port: int, env: dict | None = None) -> int:
        """Starts a server and waits until it listens."""
        child = self.start(name, command, env)
        deadline = time.monotonic() + 15
        while time.monotonic() < deadline:
            if child.poll() is not None:
                raise Missing(f"{name} ended with status {child.returncode}:\n{self.tail(name)}")
            with contextlib.suppress(OSError):
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                return child.pid
            time.sleep(0.05)
        raise Missing(f"{name} does not listen on port {port} after 15 s:\n{self.tail(name)}")

    def tail(self, name: str) -> str:
        lines = (self.scratch / f"{name}.log").read_text(errors="replace").splitlines()
        return "\n".join("    " + line for line in lines[-15:])

    def stop(self) -> None:
        for ending in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(ending, signal.SIG_IGN)  # not a second time, half way
        for sig, patience in ((signal.SIGTERM, 5), (signal.SIGKILL, 5)):
            for child in self.running:
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(child.pid, sig)
            deadline = time.monotonic() + patience
            for child in self.running:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(max(0.01, deadline - time.monotonic()))
        self.running.clear()


@dataclasses.dataclass
class Snapshot:
    busy: float  # seconds, all cores
    steal: float
    processes: dict  # pid -> (name, session, cpu seconds, rss bytes)

    def session(self, leader: int) -> list:
        return [p for p in self.processes.values() if p[1] == leader]


def irq_time_apart() -> bool:
    """Whether this kernel keeps interrupt time out of the processes' own."""
    with contextlib.suppress(OSError):
        import gzip

        config = Path("/proc/config.gz")
        boot = Path(f"/boot/config-{platform.release()}")
        text = gzip.decompress(config.read_bytes()).decode() if config.exists() else boot.read_text()
        return "CONFIG_IRQ_TIME_ACCOUNTING=y" in text
    return False


IRQ_TIME_APART = irq_time_apart()


def snapshot() -> Snapshot:
    with open("/proc/stat") as stat:
        user, nice, system, _, _, irq, softirq, steal = map(int, stat.readline().split()[1:9])
    busy = user + nice + system + (0 if IRQ_TIME_APART else irq + softirq)
    processes = {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            text = Path(f"/proc/{entry}/stat").read_text()
        except OSError:
            continue  # it has just ended
        name, rest = text[text.index("(") + 1 :].rsplit(")", 1)
        field = rest.split()  # field[0] is the state, the third of proc(5)
        session = 0 if int(field[6]) & 0x00200000 else int(field[3])  # kernel threads: 0
        cpu = (int(field[11]) + int(field[12])) / TICK
        processes[int(entry)] = (name, session, cpu, int(field[21]) * PAGE)
    return Snapshot(busy / TICK, steal / TICK, processes)


def cpu_between(before: Snapshot, after: Snapshot, leader: int) -> float:
    return sum(p[2] for p in after.session(leader)) - sum(p[2] for p in before.session(leader))


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


# --- targets --------------------------------------------------------------------------------


def build(options) -> tuple[Path, bool]:
    """Builds what is measured: the directory of the release binaries, and whether the tokenward
    there is this tree's (never measure an older one without being told to)."""
    release = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release"
    if options.no_build:
        return release, True
    cargo = ["cargo", "build", "--release"]
    examples = ["-p", "tokenward-testkit", "--example", "bench_upstream", "--example", "bare_proxy"]
    if subprocess.run(cargo + examples, cwd=ROOT).returncode != 0:
        raise Missing("the testkit examples do not build (--no-build uses the ones that are there)")
    if "tokenward" not in options.targets:
        return release, False
    return release, subprocess.run(cargo + ["--bin", "tokenward"], cwd=ROOT).returncode == 0


def start_upstream(children: Children, release: Path) -> Target:
    binary = release / "examples/bench_upstream"
    if not binary.exists():
        raise Missing(f"{binary} is missing: run without --no-build")
    port = free_port()
    pid = children.serve("upstream", [binary, port, TOKEN, TOKEN + "-*"], port)
    return Target("direct", port, pid, headers={"Authorization": f"Bearer {TOKEN}"})


def start_nginx(children: Children, upstream: Target) -> Target:
    port = free_port()
    conf = children.scratch / "nginx.conf"
    conf.write_text(
        NGINX_CONF.format(
            user="user root;" if os.geteuid() == 0 else "",  # the directory is ours alone
            dir=children.scratch,
            port=port,
            upstream=upstream.port,
            token=TOKEN,
        )
    )
    pid = children.serve("nginx", ["nginx", "-p", children.scratch, "-c", conf], port)
    return Target("nginx", port, pid)


def peer(name: str, place: str) -> Path:
    """A peer's program: Debian's, or the one out of its package for Python."""
    found = shutil.which(name) or PEERS / place
    if not Path(found).exists():
        raise Missing(f"{name} is not installed; `scripts/deps.sh bench` installs it")
    return Path(found)


def start_peer(children: Children, upstream: Target, name: str) -> Target:
    port = free_port()
    template, place, arguments = {
        "haproxy": (HAPROXY_CONF, "haproxy", ["-db", "-f"]),
        "envoy": (ENVOY_CONF, "envoy/_bin/envoy", ["--concurrency", "2", "--disable-hot-restart", "-l", "warn", "-c"]),
        "caddy": (CADDY_CONF, "bin/caddy", ["run", "--adapter", "caddyfile", "--config"]),
    }[name]
    conf = children.scratch / {"envoy": "envoy.yaml"}.get(name, f"{name}.conf")
    conf.write_text(template.format(port=port, upstream=upstream.port, token=TOKEN))
    env = os.environ | {"HOME": str(children.scratch), "GOMAXPROCS": "2"}
    pid = children.serve(name, [peer(name, place), *arguments, conf], port, env)
    return Target(name, port, pid)


def add_consumers(target: Target, app_headers: dict) -> Target:
    """The same server with many connections, each with a token of its own."""
    connection = http.client.HTTPConnection("127.0.0.1", target.port, timeout=30)
    issued = time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime())
    for number in range(CONSUMERS):
        body = {
            "credentials": {
                "access_token": f"{TOKEN}-{number}",
                "refresh_token": f"bench-refresh-token-{number}",
                "issued_at": issued,
                "expires_in": 86400,
            }
        }
        headers = app_headers | {"x-apideck-consumer-id": f"c{number}", "content-type": "application/json"}
        connection.request("POST", "/vault/connections/crm/bench/import", json.dumps(body), headers)
        response = connection.getresponse()
        answer = response.read()
        if response.status >= 300:
            raise Missing(f"import {number} was answered {response.status}: {answer[:200]!r}")
    connection.close()
    return dataclasses.replace(
        target,
        name="tokenward-10k",
        headers=target.headers | {"x-apideck-consumer-id": "c0"},
        script="rotate.lua",
    )


def start_bare_hyper(children: Children, upstream: Target, release: Path) -> Target:
    port = free_port()
    command = [release / "examples/bare_proxy", port, f"127.0.0.1:{upstream.port}", TOKEN]
    return Target("bare-hyper", port, children.serve("bare-hyper", command, port))


def start_tokenward(children: Children, upstream: Target, release: Path) -> Target:
    """One application, one connector, one connection whose token stays fresh for a day.

    All that is known of tokenward's command line, files and headers is in this function.
    """
    binary = release / "tokenward"
    data, connectors = children.scratch / "data", children.scratch / "connectors"
    data.mkdir(mode=0o700)
    connectors.mkdir()
    port = free_port()
    # The verbs that take no --data-dir find it here; HOME so that none can touch the user's own.
    env = os.environ | {
        "TOKENWARD_DATA_DIR": str(data),
        "TOKENWARD_CONNECTORS": str(connectors),
        "HOME": str(children.scratch),
        "XDG_DATA_HOME": str(children.scratch),
    }

    def tokenward(*arguments) -> str:
        done = subprocess.run(
            [str(binary), *map(str, arguments)],
            cwd=children.scratch,
            env=env,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=30,
        )
        if done.returncode != 0:
            verb = " ".join(map(str, arguments[:2]))
            raise Missing(f"`tokenward {verb}` ended with {done.returncode}: {done.stderr.strip()}")
        return done.stdout

    answer = tokenward("applications", "create", "bench", "--json")
    try:
        application = json.loads(answer)
        app, api_key = application["id"], application["api_key"]
    except (ValueError, KeyError, TypeError):
        # Not the answer itself: it may hold a key.
        raise Missing("`tokenward applications create --json` gave no JSON with id and api_key")

    (connectors / "bench.toml").write_text(
        f"""\
id = "bench"
name = "Bench"
unified_apis = ["crm"]
[authorization]
url = "http://127.0.0.1:{upstream.port}/authorize"
[token]
url = "http://127.0.0.1:{upstream.port}/token"
[refresh]
rotation = "never"
replay = {{ policy = "harmless" }}
[api]
base_url = "http://127.0.0.1:{upstream.port}"
hosts = ["http://127.0.0.1:{upstream.port}"]
"""
    )
    secret = children.scratch / "client-secret"
    secret.write_text("bench-client-secret")
    tokenward(
        *("clients", "set", "--app", app, "--connector", "bench"),
        *("--client-id", "x", "--client-secret-file", secret),
    )

    credentials = children.scratch / "import.json"
    credentials.write_text(
        json.dumps(
            {
                "credentials": {
                    "access_token": TOKEN,
                    "refresh_token": "bench-refresh-token",
                    "issued_at": time.strftime("%Y-%m-%dT%H:%M:%S.000Z", time.gmtime()),
                    "expires_in": 86400,
                }
            }
        )
    )
    tokenward(
        *("connections", "import", "--app", app, "bench-consumer/crm+bench"),
        *("--file", credentials),
    )

    serve = ["serve", "--listen", f"127.0.0.1:{port}", "--data-dir", data]
    serve += ["--connectors", connectors, "--allow-private", "127.0.0.0/8"]
    pid = children.serve("tokenward", [binary, *serve], port, env)
    return Target(
        "tokenward",
        port,
        pid,
        path="/proxy",
        headers={
            "Authorization": f"Bearer {api_key}",
            "x-apideck-app-id": app,
            "x-apideck-consumer-id": "bench-consumer",
            "x-apideck-service-id": "bench",
            "x-apideck-unified-api": "crm",
            "x-apideck-downstream-url": f"http://127.0.0.1:{upstream.port}/",
        },
    )


# --- measuring ------------------------------------------------------------------------------


def get(port: int, path: str, headers: dict) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request("GET", path, headers=headers)
        response = connection.getresponse()
        return response.status, response.read()
    finally:
        connection.close()


def probe(target: Target) -> str | None:
    """What is wrong with the target's answer, if anything."""
    try:
        status, body = get(target.port, target.path, target.headers)
    except (OSError, http.client.HTTPException) as error:
        return f"probe failed: {error!r}"
    if status != 200:
        return f"probe answered {status}: {body[:300].decode(errors='replace')}"
    if len(body) != BODY_LEN or not body.startswith(b'{"id":"bench"'):
        return f"probe answered another body ({len(body)} bytes)"
    return None


def upstream_stats(upstream: Target) -> tuple[int, int]:
    stats = json.loads(get(upstream.port, "/_stats", {})[1])
    return stats["ok"], stats["wrong"]


def wrk(children: Children, target: Target, options, conns: int, seconds: int) -> tuple[dict, float]:
    """Runs wrk once: what it saw, and its own processor seconds."""
    name = "wrk"
    log = children.scratch / f"{name}.log"
    log.unlink(missing_ok=True)
    command = ["wrk", f"-t{options.wrk_threads}", f"-c{conns}", f"-d{seconds}s"]
    command += ["-s", children.scratch / target.script]
    for header, value in target.headers.items():
        command += ["-H", f"{header}: {value}"]
    command.append(f"http://127.0.0.1:{target.port}{target.path}")
    child = children.start(name, command)
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    children.running.remove(child)
    for line in log.read_text(errors="replace").splitlines():
        if line.startswith("RESULT "):
            return json.loads(line.removeprefix("RESULT ")), usage.ru_utime + usage.ru_stime
    raise Missing(f"wrk ended with {child.returncode} and no result:\n{children.tail(name)}")


def measure(children, targets, upstream, target, options, conns, round_number) -> dict:
    problems = []
    if problem := probe(target):
        problems.append(problem)
    ok_before, wrong_before = upstream_stats(upstream)
    before, started = snapshot(), time.monotonic()
    seen, wrk_cpu = wrk(children, target, options, conns, options.duration)
    after, wall = snapshot(), time.monotonic() - started
    time.sleep(0.2)  # what was under way when wrk left
    ok_after, wrong_after = upstream_stats(upstream)

    requests = max(seen["requests"], 1)
    right, wrong = ok_after - ok_before, wrong_after - wrong_before
    if errors := {kind: n for kind, n in seen["errors"].items() if n}:
        problems.append(f"wrk saw errors: {errors}")
    if seen["requests"] == 0:
        problems.append("wrk saw no answer")
    if wrong:
        problems.append(f"the upstream refused {wrong} requests for a wrong credential")
    # Each connection may leave one request under way.
    if not 0 <= right - seen["requests"] <= conns:
        problems.append(f"wrk saw {seen['requests']} answers, the upstream {right} right requests")
    if seen["bytes"] < seen["requests"] * BODY_LEN:
        problems.append("answers shorter than the upstream's body")

    # Everything that we know of: all targets (idle ones too), wrk, this script, the kernel.
    sessions = {t.pid for t in targets} | {upstream.pid}
    known = wrk_cpu + sum(cpu_between(before, after, session) for session in sessions | {0})
    known += after.processes[os.getpid()][2] - before.processes[os.getpid()][2]
    capacity = wall * CORES
    others = {}
    for pid, (name, session, cpu, _) in after.processes.items():
        if session not in sessions | {0} and pid != os.getpid():
            used = cpu - before.processes.get(pid, (name, session, 0.0, 0))[2]
            others[name] = others.get(name, 0.0) + used
    return {
        "target": target.name,
        "conns": conns,
        "round": round_number,
        "rps": seen["requests"] / (seen["us"] / 1e6),
        "p50_ms": seen["p50_us"] / 1e3,
        "p99_ms": seen["p99_us"] / 1e3,
        "cpu_us": max(0.0, cpu_between(before, after, target.pid)) / requests * 1e6,
        "rss_mb": sum(p[3] for p in after.session(target.pid)) / 1e6,
        "wrk_share": wrk_cpu / (wall * options.wrk_threads),
        "busy_share": (after.busy - before.busy) / capacity,
        "other_share": max(0.0, after.busy - before.busy - known) / capacity,
        "steal_share": (after.steal - before.steal) / capacity,
        "other_names": [n for n, used in sorted(others.items(), key=lambda o: -o[1]) if used > 0.05][:3],
        "problems": problems,
    }


def run(children, targets, upstream, options) -> list[dict]:
    for target in targets:
        if problem := probe(target):
            raise WrongAnswer(f"{target.name}: {problem}")
        wrk(children, target, options, max(options.conns), options.warmup)
    samples = []
    for number in range(options.rounds):
        # Another goes first in each round, so that nobody always follows the same one.
        turn = number % len(targets)
        for conns in options.conns:
            for target in targets[turn:] + targets[:turn]:
                sample = measure(children, targets, upstream, target, options, conns, number + 1)
                samples.append(sample)
                print(
                    f"round {number + 1}/{options.rounds}  {target.name:<14}{conns:>4} conns"
                    f"{sample['rps']:>9.0f} req/s{sample['cpu_us']:>7.1f} us"
                    + "".join(f"\n    WRONG: {problem}" for problem in sample["problems"]),
                    file=sys.stderr,
                    flush=True,
                )
    return samples


# --- reporting ------------------------------------------------------------------------------


def rows_of(samples: list[dict], targets: list[Target], conn_counts: list[int]) -> list[dict]:
    """Medians over the rounds; a ratio is the median of the ratios within each round."""
    trusted = not any(s["problems"] for s in samples)
    cell = {(s["target"], s["conns"], s["round"]): s for s in samples}
    rounds = sorted({s["round"] for s in samples})
    rows = []
    for conns in conn_counts:
        for target in targets:
            mine = [cell[target.name, conns, r] for r in rounds]

            def against(base: str, value: str) -> list[float] | None:
                theirs = [cell.get((base, conns, r)) for r in rounds]
                if not trusted or not all(t and t[value] > 0 for t in theirs):
                    return None
                return [m[value] / t[value] for m, t in zip(mine, theirs)]

            row = {"target": target.name, "conns": conns}
            for value, digits in (("rps", 0), ("p50_ms", 3), ("p99_ms", 3), ("cpu_us", 1), ("rss_mb", 1)):
                row[value] = round(statistics.median(m[value] for m in mine), digits)
            for key, base, value in (
                ("vs_nginx", "nginx", "rps"),
                ("vs_direct", "direct", "rps"),
                ("cpu_vs_nginx", "nginx", "cpu_us"),
            ):
                ratios = against(base, value)
                if key == "cpu_vs_nginx" and target.name == "direct":
                    ratios = None  # an upstream is not a proxy
                row[key] = ratios and round(statistics.median(ratios), 3)
                row[f"{key}_range"] = ratios and [round(min(ratios), 3), round(max(ratios), 3)]
            rows.append(row)
    return rows


def print_table(rows: list[dict]) -> None:
    def ratio(value, span=None) -> str:
        if value is None:
            return "-"
        return f"{value:.2f} [{span[0]:.2f} {span[1]:.2f}]" if span else f"{value:.2f}"

    print(
        f"\n{'target':<14}{'conns':>6}{'req/s':>9}{'vs_nginx [min max]':>20}{'vs_direct':>11}"
        f"{'p50 ms':>9}{'p99 ms':>9}{'cpu us':>8}{'cpu vs_nginx':>14}{'rss MB':>8}"
    )
    for number, row in enumerate(rows):
        if number and rows[number - 1]["conns"] != row["conns"]:
            print()
        print(
            f"{row['target']:<14}{row['conns']:>6}{row['rps']:>9.0f}"
            f"{ratio(row['vs_nginx'], row['vs_nginx_range']):>20}{ratio(row['vs_direct']):>11}"
            f"{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{row['cpu_us']:>8.1f}"
            f"{ratio(row['cpu_vs_nginx']):>14}{row['rss_mb']:>8.1f}"
        )


def remarks(samples: list[dict]) -> list[str]:
    """What makes the numbers worth less than they look."""
    said = []
    others = [s for s in samples if s["other_share"] > DISTURBED_BY_OTHERS]
    if others:
        worst = max(others, key=lambda s: s["other_share"])
        names = sorted({name for s in others for name in s["other_names"]})
        said.append(
            f"DISTURBED: other load on this machine in {len(others)} of {len(samples)} cells, "
            f"at worst {worst['other_share']:.0%} of its processor time"
            f" ({', '.join(names) or 'by processes that have ended'}). Run it again on a quiet machine."
        )
    stolen = [s for s in samples if s["steal_share"] > DISTURBED_BY_STEAL]
    if stolen:
        worst = max(s["steal_share"] for s in stolen)
        said.append(
            f"DISTURBED: the hypervisor took processor time in {len(stolen)} of {len(samples)} "
            f"cells, at worst {worst:.0%}."
        )
    rps = {}
    for s in samples:
        rps.setdefault(f"{s['target']} at {s['conns']}", []).append(s["rps"])
    spread = {cell: max(all_rps) / max(min(all_rps), 1) - 1 for cell, all_rps in rps.items()}
    if unstable := [f"{cell} +{by:.0%}" for cell, by in spread.items() if by > UNSTABLE]:
        said.append(f"UNSTABLE: req/s from the worst to the best round: {', '.join(unstable)}.")
    limited = sorted({s["target"] for s in samples if s["wrk_share"] > WRK_SATURATED})
    if limited:
        said.append(
            f"wrk itself was saturated with {', '.join(limited)}: the true ratio may be larger "
            "(--wrk-threads)."
        )
    return said


def version(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    return done.stdout.strip().splitlines()[0] if done.stdout.strip() else "unknown"


def parse_arguments():
    def at_least_one(text: str) -> int:
        number = int(text)
        if number < 1:
            raise argparse.ArgumentTypeError("must be at least 1")
        return number

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    count = {"type": at_least_one, "metavar": "N"}
    parser.add_argument("--rounds", default=3, help="rounds (default 3)", **count)
    parser.add_argument("--duration", default=5, help="seconds per cell (default 5)", **count)
    parser.add_argument("--warmup", default=2, help="seconds per target (default 2)", **count)
    parser.add_argument(
        *("--conns",), nargs="+", default=[32, 128], help="connections (default 32 128)", **count
    )
    parser.add_argument("--wrk-threads", default=2, help="wrk's threads (default 2)", **count)
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=TARGETS,
        default=TARGETS,
        metavar="TARGET",
        help=f"of: {' '.join(TARGETS)} (default all)",
    )
    parser.add_argument("--no-build", action="store_true", help="use the binaries that are there")
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench/gateway.json", metavar="FILE")
    options = parser.parse_args()
    options.conns = sorted(set(options.conns))
    if options.conns[0] < options.wrk_threads:
        parser.error("wrk needs at least one connection per thread")
    return options


def bench(options) -> int:
    needed = ["wrk"] + (["nginx"] if "nginx" in options.targets else [])
    packages = {"wrk": "wrk", "nginx": "nginx-light"}
    if missing := [program for program in needed if not shutil.which(program)]:
        raise Missing(
            f"{' and '.join(missing)} not found. On Debian:\n"
            f"    apt-get install -y {' '.join(packages[m] for m in missing)}"
        )
    release, tokenward_built = build(options)

    skipped = {}
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenward-bench-")))
        children = Children(scratch)
        stack.callback(children.stop)
        (scratch / "done.lua").write_text(WRK_DONE)
        (scratch / "rotate.lua").write_text(WRK_ROTATE.format(consumers=CONSUMERS) + WRK_DONE)

        upstream = start_upstream(children, release)
        targets = []
        if "direct" in options.targets:
            targets.append(upstream)
        if "nginx" in options.targets:
            targets.append(start_nginx(children, upstream))
        for name in ("haproxy", "envoy", "caddy"):
            if name in options.targets:
                try:
                    targets.append(start_peer(children, upstream, name))
                except Missing as error:
                    skipped[name] = str(error)
        if "bare-hyper" in options.targets:
            targets.append(start_bare_hyper(children, upstream, release))
        broken = False
        if "tokenward" in options.targets:
            if not tokenward_built:
                skipped["tokenward"], broken = "it does not build (see above)", True
            elif not (release / "tokenward").exists():
                skipped["tokenward"] = f"{release / 'tokenward'} does not exist (not built)"
            else:
                try:
                    target = start_tokenward(children, upstream, release)
                    targets.append(target)
                    if "tokenward-10k" in options.targets:
                        print(f"importing {CONSUMERS} connections", file=sys.stderr)
                        targets.append(add_consumers(target, target.headers))
                except (Missing, subprocess.TimeoutExpired) as error:
                    skipped["tokenward"], broken = str(error), True
        for name, reason in skipped.items():
            print(f"SKIPPED {name}: {reason}", file=sys.stderr)
        if not targets:
            raise Missing("nothing to measure")
        samples = run(children, targets, upstream, options)

    rows = rows_of(samples, targets, options.conns)
    problems = [
        f"{s['target']}, {s['conns']} conns, round {s['round']}: {problem}"
        for s in samples
        for problem in s["problems"]
    ]
    said = remarks(samples)
    print_table(rows)
    print(
        f"\nmedians of {options.rounds} interleaved rounds of {options.duration} s on {CORES} cores; "
        "ratios are taken within each round"
    )
    for line in said:
        print(line)
    for name, reason in skipped.items():
        print(f"SKIPPED {name}: {reason}")
    if problems:
        print("NO RATIOS: some answers were not the expected ones:")
        for problem in problems:
            print(f"  {problem}")

    report = {
        "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "machine": {"cores": CORES, "kernel": platform.release()},
        "versions": {"wrk": version("wrk", "-v")}
        | ({"nginx": version("nginx", "-v")} if "nginx" in options.targets else {}),
        "settings": {k: getattr(options, k) for k in ("rounds", "duration", "conns", "wrk_threads")},
        "rows": rows,
        "remarks": said,
        "problems": problems,
        "skipped": skipped,
        "samples": samples,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {options.out}")
    return 1 if problems or broken else 0


def main() -> int:
    options = parse_arguments()
    # Ended from outside, we clean up as for Ctrl-C.
    for ending in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(ending, signal.default_int_handler)
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    try:
        return bench(options)
    except Missing as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2
    except WrongAnswer as error:
        print(f"bench: nothing measured, wrong answer from {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted, children ended", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())

#!/usr/bin/env python3
"""The gateway's speed beside its peers', as ratios.

One load generator and one upstream; the targets take turns in one session:

  direct      load generator -> upstream; the load generator and the upstream without any proxy
  nginx       a static Authorization header, two workers, keep-alive to the upstream
  haproxy, envoy, caddy    the same, each with two threads
  bare-hyper  hyper's server and client and nothing else: the floor for a Rust proxy
  tokenward   /proxy: API key checked, connection resolved, token injected
  tokenward-10k      the same with 10,000 connections in rotation, each with a token of its own
  tokenward-1        the same work for the load generator, with one connection: what tokenward-10k is
                     to be compared with
  tokenward-log      the same as tokenward, with a request log
  tokenward-refresh  10,000 connections, and 1 % of the requests for ones whose tokens are good for a
                     second, so that they cross a refresh

Cases: 1 KiB of JSON (json: wrk, with 32 and 128 connections), 1 MiB to the caller (down) and from it
(up), TLS in front (tls), an API that speaks TLS (tls-up: Tokenward, nginx, Envoy), and HTTP/2 in TLS
(h2: h2load).

`--compare OLD` measures two binaries of Tokenward against each other and nothing else: OLD and this
tree's, by turns in one session, with a vault each; it prints new / old.

Every target, the upstream and the load generator share the machine's cores, so requests/s compares
the whole path; `cpu us` is the processor time of the target's own processes per request (for
`direct`: the upstream's). The load is a closed loop: p50 and p99 are latencies at saturation.

No ratio is printed if any answer was not the expected one: each cell is preceded by a probe of
status and body, the load generator must see no error, and the upstream must have seen as many
requests with the right token as there were answers, and none with a wrong one.

Exit status: 0 measured; 1 an answer was wrong, or tokenward did not build or start; 2 something
else is missing or did not start. Peers that are not installed are skipped, and named.
"""

import argparse
import contextlib
import dataclasses
import json
import platform
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from load import CASES, load, measure, probe
from machine import CORES, DISTURBED_BY_OTHERS, DISTURBED_BY_STEAL, ROOT, Children, Missing, WrongAnswer
from targets import Peers, Tokenward, build, make_certificate, program, start_upstream

PEERS = ["nginx", "haproxy", "envoy", "caddy", "bare-hyper"]
OURS = ["tokenward", "tokenward-1", "tokenward-10k", "tokenward-log", "tokenward-refresh"]
OLD = "tokenward-old"  # with --compare
TARGETS = ["direct", *PEERS, *OURS]
# Who takes part in what; in the rest, those that are there.
PARTS = {"up": {"bare-hyper"}, "tls": {"direct", "bare-hyper"}, "h2": {"direct", "bare-hyper"}}
FRONTS = ("plain", "tls", "tls-up")

# The load generator's share of its threads' time: above it, it is what limits.
SATURATED = 0.95
# Between a target's best and worst round. A busy neighbour on the same host shows only here.
UNSTABLE = 0.20


def start(children: Children, options, release: Path, tokenward_built: bool):
    """Starts everything: the upstream, the targets by their names for each of FRONTS, and who was
    skipped, and why."""
    upstream = start_upstream(children, release)
    peers = Peers(children, upstream, release)
    plain, secure, behind, skipped = {}, {}, {}, {}
    if "direct" in options.targets:
        plain["direct"] = upstream
    for name in PEERS:
        if name in options.targets:
            try:
                plain[name] = peers.start(name)
            except Missing as error:
                skipped[name] = str(error)
    secure |= {name: target for name, target in plain.items() if target.tls_port}
    behind |= {
        name: dataclasses.replace(target, port=target.secure_port)
        for name, target in plain.items()
        if target.secure_port
    }
    wanted = [name for name in OURS if name in options.targets]
    if wanted and not tokenward_built:
        skipped["tokenward"] = "it does not build (see above)"
    elif wanted:
        try:
            tokenward = Tokenward(children, upstream, release / "tokenward")
            start_ours(tokenward, peers, wanted, plain, secure, behind)
        except (Missing, subprocess.TimeoutExpired) as error:
            skipped["tokenward"] = str(error)
    return upstream, dict(zip(FRONTS, (plain, secure, behind))), skipped


def start_to_compare(children: Children, options, release: Path):
    """Both binaries, each with a vault of its own."""
    upstream = start_upstream(children, release)
    cert, key = make_certificate(children.scratch)
    found = {front: {} for front in FRONTS}
    for name, binary in ((OLD, options.compare), ("tokenward", release / "tokenward")):
        ours = Tokenward(children, upstream, binary.resolve(), name)
        found["plain"][name] = target = ours.serve(name)
        found["tls"][name] = ours.serve_tls(cert, key, name)
        found["tls-up"][name] = ours.to_secure_api(target)
    return upstream, found, {}


def start_ours(
    tokenward: Tokenward, peers: Peers, wanted: list, plain: dict, secure: dict, behind: dict
) -> None:
    first = tokenward.serve("tokenward")
    if {"tokenward-10k", "tokenward-refresh"} & set(wanted):
        print("importing 10,300 connections", file=sys.stderr)
        tokenward.add_consumers(first)
    for name in wanted:
        match name:
            case "tokenward":
                plain[name] = first
                secure[name] = tokenward.serve_tls(peers.cert, peers.key)
                behind[name] = tokenward.to_secure_api(first)
            case "tokenward-1":
                plain[name] = dataclasses.replace(first, name=name, consumers="one of all")
            case "tokenward-10k":
                plain[name] = dataclasses.replace(first, name=name, consumers="all")
            case "tokenward-log":
                plain[name] = tokenward.serve_logging()
            case "tokenward-refresh":
                plain[name] = dataclasses.replace(tokenward.serve(name), consumers="brief")


def cells(options, targets: dict) -> list:
    """Case, connections, and the targets that take their turns in it."""
    found = []
    for name in options.cases:
        case = CASES[name]
        front = "tls" if case.tls else "tls-up" if case.upstream_tls else "plain"
        those = [
            target
            for target in targets[front].values()
            if target.name not in PARTS.get(name, set()) and (name == "json" or target.name not in OURS[1:])
        ]
        found += [(case, conns, those) for conns in options.conns or case.conns if those]
    return found


def run(children, turns, upstream, options) -> list[dict]:
    everybody = {target.pid: target for _, _, targets in turns for target in targets}.values()
    warm = set()
    for case, conns, targets in turns:
        for target in targets:
            if problem := probe(target, case):
                raise WrongAnswer(f"{target.name} ({case.what}): {problem}")
            if (target.name, case.name) not in warm:
                warm.add((target.name, case.name))
                load(children, target, case, options, conns, options.warmup)
    samples = []
    for number in range(options.rounds):
        for case, conns, targets in turns:
            # Another goes first in each round, so that nobody always follows the same one.
            turn = number % len(targets)
            for target in targets[turn:] + targets[:turn]:
                sample = measure(children, everybody, upstream, target, case, options, conns, number + 1)
                samples.append(sample)
                print(
                    f"round {number + 1}/{options.rounds}  {case.name:<5}{target.name:<18}{conns:>4} conns"
                    f"{sample['rps']:>9.0f} req/s{sample['cpu_us']:>8.1f} us"
                    + "".join(f"\n    WRONG: {problem}" for problem in sample["problems"]),
                    file=sys.stderr,
                    flush=True,
                )
    return samples


# --- reporting ------------------------------------------------------------------------------


def rows_of(samples: list[dict], turns: list) -> list[dict]:
    """Medians over the rounds; a ratio is the median of the ratios within each round."""
    trusted = not any(s["problems"] for s in samples)
    cell = {(s["case"], s["target"], s["conns"], s["round"]): s for s in samples}
    rounds = sorted({s["round"] for s in samples})
    rows = []
    for case, conns, targets in turns:
        for target in targets:
            mine = [cell[case.name, target.name, conns, r] for r in rounds]

            def against(base: str, value: str) -> list[float] | None:
                theirs = [cell.get((case.name, base, conns, r)) for r in rounds]
                if not trusted or not all(t and t[value] > 0 for t in theirs):
                    return None
                return [m[value] / t[value] for m, t in zip(mine, theirs)]

            row = {"target": target.name, "conns": conns}
            if case.name != "json":
                row = {"case": case.name} | row
            for value, digits in (("rps", 0), ("p50_ms", 3), ("p99_ms", 3), ("cpu_us", 1), ("rss_mb", 1), ("refresh_share", 4)):
                row[value] = round(statistics.median(m[value] for m in mine), digits)
            for key, base, value in (
                ("vs_nginx", "nginx", "rps"),
                ("vs_direct", "direct", "rps"),
                ("cpu_vs_nginx", "nginx", "cpu_us"),
                ("p99_vs_nginx", "nginx", "p99_ms"),
                ("vs_old", OLD, "rps"),
                ("cpu_vs_old", OLD, "cpu_us"),
                ("p99_vs_old", OLD, "p99_ms"),
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

    part = None
    for row in rows:
        case = CASES[row.get("case", "json")]
        if part != (case.name, row["conns"]):
            part = (case.name, row["conns"])
            print(f"\n{case.what}, {row['conns']} connections")
            print(
                f"{'':<18}{'req/s':>9}{'vs nginx [min max]':>20}{'vs direct':>11}"
                f"{'p50 ms':>9}{'p99 ms':>9}{'vs nginx':>10}{'cpu us':>9}{'vs nginx':>10}{'rss MB':>8}"
            )
        crossed = f"  ({row['refresh_share']:.1%} refreshed)" if row["refresh_share"] else ""
        print(
            f"{row['target']:<18}{row['rps']:>9.0f}"
            f"{ratio(row['vs_nginx'], row['vs_nginx_range']):>20}{ratio(row['vs_direct']):>11}"
            f"{row['p50_ms']:>9.2f}{row['p99_ms']:>9.2f}{ratio(row['p99_vs_nginx']):>10}"
            f"{row['cpu_us']:>9.1f}{ratio(row['cpu_vs_nginx']):>10}{row['rss_mb']:>8.1f}{crossed}"
        )


def print_comparison(rows: list[dict]) -> None:
    """New / old, the median of the ratios within each round, and the worst and best of them."""
    print(f"\n{'':<48}{'req/s':>20}{'cpu':>20}{'p99':>20}")
    for row in rows:
        if row["target"] != "tokenward":
            continue
        case = CASES[row.get("case", "json")]
        cells = ""
        for key in ("vs_old", "cpu_vs_old", "p99_vs_old"):
            low, high = row[f"{key}_range"] or (0, 0)
            cells += f"{row[key] or 0:>8.3f} [{low:.2f} {high:.2f}]".rjust(20)
        print(f"{case.what}, {row['conns']} connections".ljust(48) + cells)


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
        rps.setdefault(f"{s['target']} at {s['conns']} ({s['case']})", []).append(s["rps"])
    spread = {cell: max(all_rps) / max(min(all_rps), 1) - 1 for cell, all_rps in rps.items()}
    if unstable := [f"{cell} +{by:.0%}" for cell, by in spread.items() if by > UNSTABLE]:
        said.append(f"UNSTABLE: req/s from the worst to the best round: {', '.join(unstable)}.")
    limited = sorted({f"{s['target']} ({s['case']})" for s in samples if s["generator_share"] > SATURATED})
    if limited:
        said.append(
            f"the load generator itself was saturated with {', '.join(limited)}: the true ratio may be "
            "larger (--wrk-threads)."
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
    parser.add_argument("--rounds", default=5, help="rounds (default 5)", **count)
    parser.add_argument("--duration", default=5, help="seconds per cell (default 5)", **count)
    parser.add_argument("--warmup", default=2, help="seconds per target (default 2)", **count)
    parser.add_argument("--conns", nargs="+", help="connections (default: as the case has them)", **count)
    parser.add_argument("--wrk-threads", default=2, help="the load generator's threads (default 2)", **count)
    parser.add_argument(
        "--targets",
        nargs="+",
        choices=TARGETS,
        default=TARGETS,
        metavar="TARGET",
        help=f"of: {' '.join(TARGETS)} (default all)",
    )
    parser.add_argument(
        "--cases",
        nargs="+",
        choices=list(CASES),
        default=list(CASES),
        metavar="CASE",
        help=f"of: {' '.join(CASES)} (default all)",
    )
    parser.add_argument(
        "--compare",
        type=Path,
        metavar="OLD",
        help="measure this older binary of tokenward and the tree's, and nothing else (32 and 128 connections)",
    )
    parser.add_argument("--no-build", action="store_true", help="use the binaries that are there")
    parser.add_argument("--out", type=Path, default=ROOT / "target/bench/gateway.json", metavar="FILE")
    options = parser.parse_args()
    if options.compare:
        if not options.compare.is_file():
            parser.error(f"there is no {options.compare}")
        options.targets, options.conns = ["tokenward"], options.conns or [32, 128]
        if options.cases == list(CASES):
            options.cases = ["json"]
    if options.conns and min(options.conns) < options.wrk_threads:
        parser.error("there must be at least one connection for each of the load generator's threads")
    return options


def bench(options) -> int:
    for name in ["wrk"] + ["h2load"] * ("h2" in options.cases):
        program(name)
    release, tokenward_built = build(options)
    with contextlib.ExitStack() as stack:
        scratch = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="tokenward-bench-")))
        children = Children(scratch)
        stack.callback(children.stop)
        if options.compare:
            upstream, targets, skipped = start_to_compare(children, options, release)
        else:
            upstream, targets, skipped = start(children, options, release, tokenward_built)
        for name, reason in skipped.items():
            print(f"SKIPPED {name}: {reason}", file=sys.stderr)
        turns = cells(options, targets)
        if not turns:
            raise Missing("nothing to measure")
        samples = run(children, turns, upstream, options)

    rows, said = rows_of(samples, turns), remarks(samples)
    problems = [
        f"{s['target']}, {CASES[s['case']].what}, {s['conns']} connections, round {s['round']}: {problem}"
        for s in samples
        for problem in s["problems"]
    ]
    print_table(rows)
    if options.compare:
        print_comparison(rows)
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
        "settings": {k: getattr(options, k) for k in ("rounds", "duration", "cases", "wrk_threads")},
        "rows": rows,
        "remarks": said,
        "problems": problems,
        "skipped": skipped,
        "samples": samples,
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=1) + "\n")
    print(f"written: {options.out}")
    return 1 if problems or "tokenward" in skipped else 0


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

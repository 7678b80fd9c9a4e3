#!/usr/bin/env python3
"""What refreshing costs, beside what it may cost.

  herd      1,000 callers on one grant that has expired: what the wait adds to the provider's own
            time, from the request's arrival there to the answer
  minute    10,000 grants that expire within a minute, at a provider that takes 125 requests a
            second: all are refreshed ahead of their expiry, each once
  million   a vault of 1,000,000 grants on SQLite, every commit flushed: start, memory, schedule,
            cold reads, refreshes at a provider that answers at once
  postgres  whole vaults on a private PostgreSQL, with 10,000 grants and with 1,000,000: refreshes and
            cold reads a second (an example of its store, which tells more, also of three replicas)
  fresh     a token from memory: time, allocations (counted by callgrind, if it is there), and what
            two threads get done together

Vaults lie in target/bench (--folder), on a real disk. Every figure is of the engine that ships, with
the server's allocator. The parts check what they measure: a caller without a token, a second
refresh, a commit that is not in the file are errors, and nothing is printed then.

Exit status: 0 measured; 1 a part has failed; 2 it does not build.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
import machine
import instructions

PARTS = ["herd", "minute", "million", "postgres", "fresh"]
# Of the figure that a row shows: (part, key, words, unit, bound, whether more is better).
TARGETS = [
    ("herd", "added_p50_ms", "1,000 callers wait longer than the provider takes, p50", "ms", None, False),
    ("herd", "added_p99_ms", "the same, p99 of a refresh's callers (median refresh)", "ms", 5, False),
    ("herd", "added_p99_of_all_ms", "the same, p99 of the callers of all refreshes", "ms", 5, False),
    ("herd", "exchange_p50_ms", "of that, the way there and back (HTTP), p50", "ms", None, False),
    ("herd", "flush_p50_ms", "a flush of this disk (a refresh takes two), p50", "ms", None, False),
    ("herd", "flush_p99_ms", "the same, p99", "ms", None, False),
    ("minute", "refreshes", "grants of 10,000 in a minute refreshed, each once", "", 10_000, True),
    ("minute", "not_served", "calls meanwhile that got no token", "", 0, False),
    ("minute", "served_after_waiting", "calls meanwhile that waited", "", None, False),
    ("minute", "most_in_a_second", "most requests within a second (limit 125 + burst 25)", "", 150, False),
    ("minute", "seconds", "from the first to the last", "s", None, False),
    ("minute", "processor_seconds", "processor time, the provider's included", "s", None, False),
    ("million", "start_s", "start with 1,000,000 grants", "s", 2, False),
    ("million", "first_token_s", "start and a first token", "s", None, False),
    ("million", "bytes_per_cached_grant", "memory of a cached grant, its place in the schedule included", "B", 1024, False),
    ("million", "idle_cores", "processor share while all are scheduled and none is due", "", None, False),
    ("million", "refreshes_per_s", "durable refreshes a second", "/s", 2_000, True),
    ("million", "cold_reads_per_s", "cold token() a second", "/s", 20_000, True),
    ("postgres", "few_refreshes_per_s", "PostgreSQL, 10,000 grants: refreshes a second", "/s", None, True),
    ("postgres", "many_refreshes_per_s", "the same, 1,000,000 grants", "/s", None, True),
    ("postgres", "few_cold_reads_per_s", "PostgreSQL, 10,000 grants: cold token() a second", "/s", None, True),
    ("postgres", "many_cold_reads_per_s", "the same, 1,000,000 grants", "/s", None, True),
    ("fresh", "ns", "fresh token(), one thread", "ns", 100, False),
    ("fresh", "allocations", "allocations of it", "", 0, False),
    ("fresh", "two_threads_one_grant", "two threads on one grant, times one thread", "x", 1.8, True),
    ("fresh", "two_threads_two_grants", "two threads on two grants, times one thread", "x", 1.8, True),
    ("fresh", "two_threads_sharing_nothing", "two threads that share nothing (this machine)", "x", None, True),
]


def part(name: str, *command, env: dict | None = None) -> tuple[str, dict]:
    """Runs one part in a process of its own: what it printed, and what else the machine did
    meanwhile."""
    before, started = machine.snapshot(), time.monotonic()
    child = subprocess.Popen([str(word) for word in command], stdout=subprocess.PIPE, text=True, env=env)
    answer = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    after, wall = machine.snapshot(), time.monotonic() - started
    if child.returncode != 0:
        raise machine.WrongAnswer(f"{name} ended with {child.returncode}")
    kernel = sum(machine.cpu_between(before, after, session) for session in {0})
    mine = after.processes[os.getpid()][2] - before.processes[os.getpid()][2]
    others = after.busy - before.busy - usage.ru_utime - usage.ru_stime - kernel - mine
    capacity = wall * machine.CORES
    return answer, {
        "other_share": max(0.0, others) / capacity,
        "steal_share": (after.steal - before.steal) / capacity,
    }


def on_postgres(release: Path, folder: Path, grants: int) -> dict:
    few = 10_000
    env = os.environ | {"TOKENWARD_PG_FOLDER": str(folder)}
    folder.chmod(0o755)  # the server runs as a user of its own
    # Its processes are not ours to wait for: they count as other load.
    part("postgres", release / "examples/scale", few, grants, env=env)
    figures = json.loads((machine.ROOT / "target/bench/postgres.json").read_text())["figures"]
    found = {"figures": figures}
    for it in figures:
        if (it["level"], it["replicas"]) == ("token()", 1):
            size = "few" if it["grants"] == few else "many"
            found[f"{size}_refreshes_per_s"] = it["refreshes_per_second"]
            found[f"{size}_cold_reads_per_s"] = it["cold_reads_per_second"]
    return found


def measure(release: Path, options) -> dict:
    found = {}
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="refresh-") as folder:

        def run(name, *arguments):
            answer, shares = part(name, release / "refresh", "--folder", folder, name, *arguments)
            return json.loads(answer) | shares

        for name in options.parts:
            print(f"{name} ...", file=sys.stderr, flush=True)
            if name == "postgres":
                found[name] = on_postgres(release, Path(folder), options.grants)
                continue
            if name == "million":
                found["fill"] = run("fill", "--grants", options.grants)
            found[name] = run(name)
    if "fresh" in found and shutil.which("valgrind"):
        counts = instructions.count_operations()
        found["fresh"]["allocations"] = counts["token_fresh"]["allocations"]
    return found


def table(found: dict) -> list[dict]:
    rows = []
    for part, key, words, unit, bound, more in TARGETS:
        if key not in found.get(part, {}):
            continue
        value = found[part][key]
        met = None if bound is None else (value >= bound if more else value <= bound)
        rows.append({"part": part, "what": words, "value": value, "unit": unit, "target": bound, "more": more, "met": met})
    return rows


def print_table(rows: list[dict]) -> None:
    number = lambda value: f"{value:,.0f}" if abs(value) >= 100 or value == int(value) else f"{value:.2f}"
    print(f"\n{'':<68}{'measured':>14}{'target':>14}")
    for row in rows:
        target = ""
        if row["target"] is not None:
            target = f"{'>=' if row['more'] else '<='} {number(row['target'])} {row['unit']}"
        measured = f"{number(row['value'])} {row['unit']}"
        missed = "  MISSED" if row["met"] is False else ""
        print(f"{row['what']:<68}{measured.strip():>14}{target.strip():>14}{missed}")


def remarks(found: dict) -> list[str]:
    said = []
    for key, words, most in (
        ("other_share", "other load on this machine", machine.DISTURBED_BY_OTHERS),
        ("steal_share", "the hypervisor took processor time", machine.DISTURBED_BY_STEAL),
    ):
        cells = {name: cell[key] for name, cell in found.items() if cell.get(key, 0) > most}
        if cells:
            shares = ", ".join(f"{name} {share:.0%}" for name, share in cells.items())
            said.append(f"DISTURBED: {words}: {shares}. Run it again on a quiet machine.")
    return said


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, metavar="PART", help="some of " + ", ".join(PARTS))
    parser.add_argument("--grants", type=int, default=1_000_000, help="grants of the million")
    parser.add_argument("--folder", type=Path, default=machine.ROOT / "target/bench", help="where vaults are made")
    parser.add_argument("--no-build", action="store_true", help="use the binary that is there")
    options = parser.parse_args()
    options.folder.mkdir(parents=True, exist_ok=True)
    release = Path(os.environ.get("CARGO_TARGET_DIR", machine.ROOT / "target")) / "release"
    cargo = ["cargo", "build", "--release"]
    builds = [[*cargo, "-p", "tokenward-bench"]]
    if "postgres" in options.parts:
        builds.append([*cargo, "-p", "tokenward-store-postgres", "--example", "scale"])
    if "fresh" in options.parts:
        builds.append([*cargo, "-p", "tokenward-testkit", "--example", "costs"])
    if not options.no_build and any(subprocess.run(build, cwd=machine.ROOT).returncode for build in builds):
        return 2
    try:
        found = measure(release, options)
    except (machine.Missing, machine.WrongAnswer) as error:
        print(f"refresh: {error}", file=sys.stderr)
        return 1
    rows, said = table(found), remarks(found)
    print_table(rows)
    print("\n".join(["", *said]) if said else "\nNothing else disturbed it.")
    result = {"rows": rows, "found": found, "remarks": said}
    (machine.ROOT / "target/bench/refresh.json").write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())

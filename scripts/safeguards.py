#!/usr/bin/env python3
"""Takes each safeguard of docs/failure-modes.md away, and expects its tests to fail.

scripts/safeguards.toml lists the safeguards: an edit that removes one, and the tests that must
fail then. The edits are made in a copy of the tree under target/safeguards, never in the tree.
"""

import argparse
import contextlib
import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WORK = ROOT / "target" / "safeguards"
TREE = WORK / "tree"
# What a test's line in nextest's report begins with; everything but these two is a failure.
STATUS = re.compile(r"^\s*([A-Z-]+) \[[^\]]*\] (?:\([^)]*\) )?\S+ (\S+)$", re.MULTILINE)
UNDER_WAY = {"SLOW", "TERMINATING", "START"}
PASSED = {"PASS", "LEAK"}


def sync():
    """Brings the copy up to the tree. What has not changed is not touched, so not built again."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, check=True, capture_output=True).stdout
    wanted = {name for name in os.fsdecode(listed).split("\0") if name and (ROOT / name).is_file()}
    for path in [path for path in TREE.rglob("*") if path.is_file()]:
        if str(path.relative_to(TREE)) not in wanted:
            path.unlink()
    for name in wanted:
        source, copy = ROOT / name, TREE / name
        if not copy.exists() or copy.read_bytes() != source.read_bytes():
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(source, copy)


def edited(edits):
    """The texts of the files that an entry edits, with its edits made."""
    texts = {}
    for edit in edits:
        text = texts.get(edit["file"]) or (ROOT / edit["file"]).read_text()
        found = text.count(edit["from"])
        if found != 1:
            raise ValueError(f"{edit['file']}: {found} times, not once: {edit['from']!r}")
        texts[edit["file"]] = text.replace(edit["from"], edit["to"])
    return texts


def write(texts, before):
    """Writes the texts into the copy, and takes back what the entry before has edited."""
    for name in before - texts.keys():
        shutil.copy(ROOT / name, TREE / name)
    for name, text in texts.items():
        if (TREE / name).read_text() != text:
            (TREE / name).write_text(text)
    return set(texts)


def run(target, tests):
    """Runs tests of a target: their states by name, or None if it does not build; and the report."""
    names = "|".join(sorted(tests))
    command = ["cargo", "nextest", "run", "--profile", "safeguards", "--color", "never"]
    command += [*target.split(), "-E", f"test(/(^|::)({names})$/)"]
    # All that is built is kept apart from what the tree builds. A shared folder would save the first
    # build of the dependencies, but cargo names what it builds by the path within the workspace: the
    # tree would take a crate without its safeguard for its own.
    environment = os.environ | {
        "CARGO_TARGET_DIR": str(WORK / "built"),
        "CARGO_PROFILE_DEV_DEBUG": "0",
        "RUST_BACKTRACE": "0",
    }
    environment.pop("CARGO_BUILD_BUILD_DIR", None)
    done = subprocess.run(command, cwd=TREE, env=environment, text=True, capture_output=True)
    report = done.stdout + done.stderr
    if done.returncode not in (0, 100):
        return None, report
    states = {}
    for state, name in STATUS.findall(report):
        if state not in UNDER_WAY:
            states.setdefault(name.rsplit("::", 1)[-1], set()).add(state)
    return states, report


def unedited(entries, targets):
    """The tests pass while nothing is taken away: else their failing would show nothing."""
    wanted = {}
    for entry in entries:
        for target, tests in entry["caught_by"].items():
            wanted.setdefault(target, set()).update(tests)
    for target, tests in wanted.items():
        states, report = run(targets[target], tests)
        bad = tests if states is None else {t for t in tests if not states.get(t, {"none"}) <= PASSED}
        if bad:
            sys.exit(f"{report}\nwithout any edit these do not pass: {', '.join(sorted(bad))}")
        print(f"{len(tests):3} tests of `{target}` pass while nothing is taken away", file=sys.stderr)


def judge(entry, targets):
    """Runs the tests of an entry whose edits are made: (verdict, tests, a report if needed)."""
    caught, missed = [], []
    for target, tests in entry["caught_by"].items():
        states, report = run(targets[target], set(tests))
        if states is None:
            return "does not build", [target], report
        for test in tests:
            failed = bool(states.get(test, set()) - PASSED)
            (caught if failed else missed).append(test if failed else f"{test} ({target})")
    return ("NOT CAUGHT", missed, "") if missed else ("caught", caught, "")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--row", type=int, action="append", help="only this row (may be repeated)")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    listed = tomllib.loads((ROOT / "scripts/safeguards.toml").read_text())
    targets = listed["targets"]
    entries = [e for e in listed["safeguard"] if not options.row or e["row"] in options.row]
    if not entries:
        sys.exit("no such row")

    TREE.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(open(WORK / "lock", "w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        sync()
        unedited(entries, targets)
        results = []
        # Entries with the same edit follow each other, so that it is built once.
        first, before = {}, set()
        for number, entry in enumerate(entries):
            first.setdefault(json.dumps(entry["edit"]), number)
        for entry in sorted(entries, key=lambda entry: first[json.dumps(entry["edit"])]):
            began = time.monotonic()
            before = write(edited(entry["edit"]), before)
            verdict, tests, report = judge(entry, targets)
            results.append(
                {
                    "row": entry["row"],
                    "taken_away": entry["takes"],
                    "verdict": verdict,
                    "tests": tests,
                    "seconds": round(time.monotonic() - began),
                }
            )
            line = f"{entry['row']:2}  {entry['takes']}: {verdict}"
            line += f" by {', '.join(dict.fromkeys(tests))}" if verdict == "caught" else f": {', '.join(tests)}"
            print(line, file=sys.stderr if options.json else sys.stdout, flush=True)
            if report:
                print(report, file=sys.stderr)
    if options.json:
        print(json.dumps(results, indent=2))
    bad = sum(result["verdict"] != "caught" for result in results)
    print(f"{len(results)} safeguards taken away, {len(results) - bad} caught", file=sys.stderr)
    sys.exit(bad != 0)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        # Only the copy is edited; the next run brings it up to date.
        sys.exit(130)

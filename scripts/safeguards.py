#!/usr/bin/env python3
"""Takes each safeguard of docs/failure-modes.md away, and expects its tests to fail.

scripts/safeguards.toml lists the safeguards: an edit that removes one, and the tests that must
fail then. The edits are made in a copy of the tree under target/safeguards, never in the tree.

What was caught is written down with a digest of all that it depends on, so that a run that was
interrupted goes on where it was, and a change costs only the entries that it concerns.
"""

import argparse
import contextlib
import fcntl
import hashlib
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
# What no test that is named here is built of, or reads.
ELSEWHERE = re.compile(r"^(docs|scripts|bench|fuzz|e2e|crates/(bench|proof))/|\.md$|^Makefile$")
ONLY_TESTS = re.compile(r"/tests/|_tests\.rs$")


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
    return wanted


class Copy:
    """The tree as it was when the run began. The tree itself may be worked on meanwhile."""

    def __init__(self, names):
        self.list = tomllib.loads((TREE / "scripts/safeguards.toml").read_text())
        self.digests = {name: hashlib.sha256((TREE / name).read_bytes()).hexdigest() for name in names}
        self.originals, self.edited = {}, set()
        listed = {t for e in self.list["safeguard"] for tests in e["caught_by"].values() for t in tests}
        self.tests = {
            name: listed & set(re.findall(r"fn (\w+)\(", self.original(name)))
            for name in names
            if ONLY_TESTS.search(name) and name.endswith(".rs")
        }
        manifests = [tomllib.loads((TREE / n).read_text()) for n in names if re.fullmatch(r"crates/[^/]+/Cargo\.toml", n)]
        folders = [n.split("/")[1] for n in names if re.fullmatch(r"crates/[^/]+/Cargo\.toml", n)]
        self.folders = {m["package"]["name"]: folder for m, folder in zip(manifests, folders)}
        self.needs = {
            m["package"]["name"]: {d for kind in ("dependencies", "dev-dependencies") for d in m.get(kind, {})}
            for m in manifests
        }

    def original(self, name):
        """The text of a file without any edit."""
        return self.originals.setdefault(name, (TREE / name).read_text())

    def write(self, texts):
        """Writes an entry's texts, and takes back what the entry before has edited."""
        for name in self.edited - texts.keys():
            (TREE / name).write_text(self.original(name))
        for name, text in texts.items():
            if (TREE / name).read_text() != text:
                (TREE / name).write_text(text)
        self.edited = set(texts)

    def with_edits(self, edits):
        """The texts of the files that an entry edits, with its edits made."""
        texts = {}
        for edit in edits:
            text = texts.get(edit["file"]) or self.original(edit["file"])
            found = text.count(edit["from"])
            if found != 1:
                raise ValueError(f"{edit['file']}: {found} times, not once: {edit['from']!r}")
            texts[edit["file"]] = text.replace(edit["from"], edit["to"])
        return texts

    def with_test(self, target):
        """The packages that have such a test."""
        test = target.partition("--test ")[2].split()[0]
        places = (f"tests/{test}.rs", f"tests/{test}/main.rs")
        return [name for name, folder in self.folders.items() if any(f"crates/{folder}/{p}" in self.digests for p in places)]

    def digest(self, target, tests):
        """Of all files that these tests of a target are built of. Files with others' tests only are not."""
        packages = re.findall(r"(?:-p |package\()([\w-]+)", target) or self.with_test(target)
        reached = set()
        while packages:
            package = packages.pop()
            if package in self.folders and package not in reached:
                reached.add(package)
                packages += self.needs[package]
        unused = {folder for package, folder in self.folders.items() if package not in reached}
        others = {name for name, theirs in self.tests.items() if theirs and not theirs & set(tests)}
        parts = [
            (name, digest)
            for name, digest in sorted(self.digests.items())
            if not ELSEWHERE.search(name)
            and name not in others
            and not (name.startswith("crates/") and name.split("/")[1] in unused)
        ]
        return hashlib.sha256(json.dumps([target, parts]).encode()).hexdigest()[:16]

    def key(self, entry):
        """Different if anything about an entry is, or about what it is built of."""
        targets, tests = self.list["targets"], entry["caught_by"]
        return key({t: self.digest(targets[t], tests[t]) for t in tests}, tests, entry["edit"])


class Record:
    """What was caught, or passed without an edit, and of what it was built."""

    def __init__(self, anew):
        self.path = WORK / "caught.jsonl"
        if anew:
            self.path.unlink(missing_ok=True)
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        self.known = {line["key"]: line for line in map(json.loads, lines)}

    def add(self, key, about):
        self.known[key] = about | {"key": key}
        with self.path.open("a") as file:
            file.write(json.dumps(self.known[key]) + "\n")


def key(*parts):
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def run(target, tests):
    """Runs tests of a target: their states by name, or None if it does not build; and the report."""
    names = "|".join(sorted(tests))
    target, _, narrower = target.partition(" & ")
    wanted = f"test(/(^|::)({names})$/)" + (f" & {narrower}" if narrower else "")
    command = ["cargo", "nextest", "run", "--profile", "safeguards", "--color", "never"]
    # Built once and run once: optimising costs more than it saves.
    command += ["--config", "profile.dev.package.tokenward.opt-level=0"]
    command += [*target.split(), "-E", wanted]
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


def unedited(name, tests, target, copy, record):
    """The tests that do not pass while nothing is taken away: their failing would show nothing."""
    copy.write({})
    keys = {test: key("passes", copy.digest(target, {test}), test) for test in tests}
    tests = {test for test in tests if keys[test] not in record.known}
    if not tests:
        return set()
    states, report = run(target, tests)
    if states is None:
        sys.exit(f"{report}\n`{name}` does not build while nothing is taken away")
    useless = set()
    for test in sorted(tests):
        if test in states and states[test] <= PASSED:
            record.add(keys[test], {"passes": test, "target": name})
        else:
            useless.add(test)
            print(report, f"without any edit this does not pass: {test} ({name})", sep="\n", file=sys.stderr)
    passing = len(tests) - len(useless)
    print(f"{passing} of {len(tests)} tests of `{name}` pass while nothing is taken away", file=sys.stderr, flush=True)
    return useless


def judge(entry, targets, useless):
    """Runs the tests of an entry whose edits are made: (verdict, tests, a report if needed)."""
    caught, missed = [], []
    for target, tests in entry["caught_by"].items():
        never = [test for test in tests if test in useless[target]]
        if never:
            return "CANNOT BE JUDGED", [f"{test} does not pass in any case" for test in never], ""
        states, report = run(targets[target], set(tests))
        if states is None:
            return "DOES NOT BUILD", [target], report
        for test in tests:
            failed = bool(states.get(test, set()) - PASSED)
            (caught if failed else missed).append(test if failed else f"{test} ({target})")
    return ("NOT CAUGHT", missed, "") if missed else ("caught", caught, "")


def in_order(entries, targets):
    """What an edit makes cargo build again is built for as few targets as can be, one after another."""
    first = {}
    for number, entry in enumerate(entries):
        first.setdefault(json.dumps(entry["edit"]), number)

    def place(entry):
        crates = sorted({"/".join(edit["file"].split("/")[:2]) for edit in entry["edit"]})
        built = sorted(list(targets).index(target) for target in entry["caught_by"])
        return built[::-1], crates, first[json.dumps(entry["edit"])]

    return sorted(entries, key=place)


def take_away(entry, targets, copy, useless):
    """Makes an entry's edits and runs its tests: its result, and a report if needed."""
    began = time.monotonic()
    try:
        copy.write(copy.with_edits(entry["edit"]))
        verdict, tests, report = judge(entry, targets, useless)
    except ValueError as error:
        verdict, tests, report = "CANNOT BE EDITED", [str(error)], ""
    seconds = round(time.monotonic() - began)
    about = {"row": entry["row"], "taken_away": entry["takes"], "verdict": verdict, "tests": tests, "seconds": seconds}
    return about, report


def chosen(entry, options):
    crates = {edit["file"].split("/")[1] for edit in entry["edit"]}
    return (
        (not options.row or entry["row"] in options.row)
        and (not options.crate or crates & set(options.crate))
        and (not options.target or entry["caught_by"].keys() & set(options.target))
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--row", type=int, action="append", help="only this row (may be repeated)")
    parser.add_argument("--crate", action="append", help="only what edits this folder of crates/ (may be repeated)")
    parser.add_argument("--target", action="append", help="only what tests of this target catch (may be repeated)")
    parser.add_argument("--anew", action="store_true", help="also what was caught before, of the same source")
    parser.add_argument("--json", action="store_true", help="print the results as JSON")
    options = parser.parse_args()
    WORK.mkdir(parents=True, exist_ok=True)
    TREE.mkdir(exist_ok=True)
    progress = sys.stderr if options.json else sys.stdout
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context(open(WORK / "lock", "w"))
        fcntl.flock(lock, fcntl.LOCK_EX)
        copy, record = Copy(sync()), Record(options.anew)
        targets = copy.list["targets"]
        entries = [e for e in copy.list["safeguard"] if chosen(e, options)]
        if not entries:
            sys.exit("no such safeguard")
        keys = {id(e): copy.key(e) for e in entries}
        before = [(e, record.known[keys[id(e)]]) for e in entries if keys[id(e)] in record.known]
        results = [known | {"row": e["row"], "taken_away": e["takes"]} for e, known in before]
        left = in_order([e for e in entries if keys[id(e)] not in record.known], targets)
        if results:
            print(f"{len(results)} of {len(entries)} were caught before, of the same source", file=progress, flush=True)
        useless = {}
        for number, entry in enumerate(left, 1 + len(results)):
            for target in entry["caught_by"].keys() - useless.keys():
                tests = {test for other in left for test in other["caught_by"].get(target, [])}
                useless[target] = unedited(target, tests, targets[target], copy, record)
            result, report = take_away(entry, targets, copy, useless)
            results.append(result)
            if result["verdict"] == "caught":
                record.add(keys[id(entry)], result)
            tests = ", ".join(dict.fromkeys(result["tests"]))
            line = f"[{number}/{len(entries)}] {entry['row']:2}  {entry['takes']}: {result['verdict']}: {tests}"
            print(f"{line} ({result['seconds']} s)", file=progress, flush=True)
            if report:
                print(report, file=sys.stderr, flush=True)
        copy.write({})
    if options.json:
        print(json.dumps(results, indent=2))
    bad = [result for result in results if result["verdict"] != "caught"]
    for result in bad:
        print(f"{result['verdict']}: row {result['row']}, {result['taken_away']}", file=sys.stderr)
    print(f"{len(results)} safeguards taken away, {len(results) - len(bad)} caught", file=sys.stderr)
    sys.exit(bool(bad))


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        # Only the copy is edited; the next run brings it up to date.
        sys.exit(130)

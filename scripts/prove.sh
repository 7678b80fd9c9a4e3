#!/usr/bin/env bash
# Model checking, schedules, simulation and the crash harness, each longer than the tests run them.
# Ends with one line per method; what machines read is in target/prove/*.json.
set -uo pipefail
cd "$(dirname "$0")/.."
seeds=$1 kills=$2 out=target/prove failed=0
mkdir -p $out
cargo build --release -p tokenward-proof -p tokenward-server --bins --example crash || exit 1
prove() {
    name=$1
    shift
    echo "$name: $*"
    "$@" --json >$out/$name.json || failed=1
}
prove model target/release/prove model --full
echo "schedules: scripts/schedules.sh 5000"
scripts/schedules.sh 5000 >$out/schedules.log 2>&1 || failed=1
python3 - $out <<'PY'
import json, re, sys
log = open(f"{sys.argv[1]}/schedules.log").read()
explored = sum(map(int, re.findall(r"explored (\d+) schedules", log)))
result = re.search(r"(\d+) passed; (\d+) failed", log)
# Without a result the tests did not run to their end.
passed, failed = map(int, result.groups()) if result else (0, 1)
report = {"method": "schedules", "scenarios": passed + failed, "schedules": explored, "violations": failed}
json.dump(report, open(f"{sys.argv[1]}/schedules.json", "w"))
PY
prove sim target/release/prove sim --seeds "$seeds"
prove crash target/release/examples/crash --kills "$kills" --processes 12 --callers 1000
prove crash-postgres target/release/examples/crash --postgres --kills "$kills" --processes 3 --callers 1000
python3 - $out <<'PY'
import json, sys
for name in ("model", "schedules", "sim", "crash", "crash-postgres"):
    try:
        report = json.load(open(f"{sys.argv[1]}/{name}.json"))
    except (OSError, ValueError):
        print(f"{name:14} gave no report")
        continue
    # Each with what caught it is in the file.
    if mutants := report.get("mutants"):
        report["mutants"] = f"{sum(mutant['caught'] for mutant in mutants)} of {len(mutants)} caught"
    # The harness on processes reports in groups, and names each violation.
    if isinstance(report.get("violations"), list):
        for group, names in (("chaos", ["kills"]), ("calls", ["calls", "unanswered"]), ("tally", ["granted", "committed"])):
            report |= {name: report[group][name] for name in names}
        report["violations"] = len(report.pop("violations"))
    print(f"{name:14}", *(f"{key} {value}," for key, value in report.items() if isinstance(value, (int, float, str))))
PY
exit $failed
